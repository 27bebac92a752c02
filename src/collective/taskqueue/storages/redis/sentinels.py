"""Redis Sentinel: finds the master of a service, and notices when it is another one."""

from __future__ import annotations

from collective.taskqueue.storages.urls import SentinelUrl
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel
from typing import Any
import redis
import threading


class Sentinels(Sentinel):
    """The sentinels of a service; each new connection asks them for the master.

    `timeout` is in seconds, for all of them together: any of them may be away.
    """

    def __init__(self, url: SentinelUrl, timeout: float) -> None:
        each = timeout / 2 / len(url.sentinels)
        login = {"username": url.username or None, "password": url.password or None}
        own: dict[str, Any] = {"socket_timeout": each, "socket_connect_timeout": each, **login}
        # The next sentinel is asked instead.
        own |= {"retry": Retry(NoBackoff(), 0)}
        super().__init__(url.sentinels, sentinel_kwargs=own)
        self._url = url
        self._lock = threading.Lock()
        self._master: tuple[str, int] | None = None
        self._moved = False

    def client(self, **options: Any) -> redis.Redis:
        """Return a client of the master; the options are those of a client without sentinels."""
        given = parse_url(self._url.server)
        del given["host"]
        return self.master_for(self._url.service, **{**options, **given})

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the master."""
        found: tuple[str, int] = super().discover_master(service_name)
        with self._lock:
            if self._master not in (None, found):
                self._moved = True
            self._master = found
        return found

    def failover(self) -> str:
        """Return where the master is now, once after it has become another one; else nothing."""
        # Asked after each call, so without the lock as long as nothing has happened.
        if not self._moved:
            return ""
        with self._lock:
            moved, self._moved = self._moved, False
            return "{}:{}".format(*self._master) if moved and self._master else ""

    def report_again(self) -> None:
        """Let `failover` return the master once more."""
        self._moved = True
