"""The storages that the harnesses run on, each with a server or a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import STORAGES
from contextlib import contextmanager
from pathlib import Path
from services import PostgresServer
from services import RedisServer
from typing import Any
from zope.dottedname.resolve import resolve
import psycopg
import time


#: Seconds until a server has done what somebody who is dead now has asked for.
PATIENCE = 30.0


@contextmanager
def backend(kind: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Start what it takes, and yield the fields of `QueueSettings` that lead there."""
    if kind == "sqlite":
        yield {"type": "sql", "url": f"sqlite:///{folder}/queue.sqlite"}
    elif kind == "postgresql":
        postgres = PostgresServer().start()
        try:
            yield {"type": "sql", "url": postgres.url()}
        finally:
            postgres.remove()
    else:
        redis = RedisServer(folder).start()
        try:
            yield {"type": "redis", "unix_socket_path": redis.socket}
        finally:
            redis.stop()


def storage_class(settings: QueueSettings) -> Any:
    """Return the class of the storage."""
    return resolve(STORAGES[settings.type])


def settle(settings: QueueSettings) -> None:
    """Wait until a server does nothing any more for processes that are dead."""
    if not settings.url.startswith("postgresql"):
        return
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'collective.taskqueue'"
    deadline = time.monotonic() + PATIENCE
    with psycopg.connect(settings.url, autocommit=True) as connection:
        while connection.execute(query).fetchone() != (0,):
            if time.monotonic() > deadline:
                raise RuntimeError("the server still works for the dead")
            time.sleep(0.002)
