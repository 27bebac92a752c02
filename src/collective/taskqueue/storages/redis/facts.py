"""What the server of a Redis queue is like."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.facts import Facts
from collective.taskqueue.storages.redis.connection import Server
from collective.taskqueue.storages.redis.errors import at_start
from contextlib import closing
import time


def facts(settings: QueueSettings) -> Facts:
    """Ask the server. Raises `StorageUnavailable` and `ConfigurationError`."""
    with closing(Server(settings)) as server, at_start(settings):
        found = server.client.info()
        before = time.time()
        seconds, micros = server.client.time()
        here = (before + time.time()) / 2
    valkey = found.get("valkey_version")
    policy = found.get("maxmemory_policy", "unknown")
    faults = []
    if found.get("role") == "slave":
        faults.append("the server is a replica, which takes no tasks; write the url of its master")
    writes = found.get("aof_enabled")
    return Facts(
        product=f"Valkey {valkey}" if valkey else f"Redis {found.get('redis_version', '?')}",
        skew=seconds + micros / 1_000_000 - here,
        notes=(
            f"maxmemory-policy {policy}",
            "append only file on" if writes else "no append only file: a restart loses tasks",
        ),
        faults=tuple(faults),
    )
