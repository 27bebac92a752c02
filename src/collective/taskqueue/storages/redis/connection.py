"""The server of a Redis queue: its clients, and the scripts."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.redis.errors import code_of
from collective.taskqueue.storages.redis.sentinels import Sentinels
from collective.taskqueue.storages.secrets import masked
from collective.taskqueue.storages.secrets import remember
from collective.taskqueue.storages.urls import check_database
from collective.taskqueue.storages.urls import check_host
from collective.taskqueue.storages.urls import mistake
from collective.taskqueue.storages.urls import redis_url
from collective.taskqueue.storages.urls import SENTINEL
from collective.taskqueue.storages.urls import sentinel_url
from functools import partial
from hashlib import sha1
from pathlib import Path
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing import Any
from weakref import WeakSet
import redis
import redis.exceptions
import threading


#: Longest time in seconds that an idle consumer blocks, so a lost wake-up marker delays a task no
#: longer. Each time costs two commands.
BLOCK = 15.0

#: With short leases a consumer blocks for half a lease, but for at least so many seconds. So an
#: idle consumer sees a lease that another process took meanwhile before that lease expires.
SHORTEST_BLOCK = 5.0


#: The scripts, of the road of a task and of administration, with the files that each consists of.
SCRIPTS = {"road": ("common", "road"), "admin": ("common", "lists", "admin")}

#: Codes of a server that has become a replica: a connection to the master must be a new one.
_FORMER = frozenset({"READONLY", "MASTERDOWN"})


class Server:
    """The connections of a storage to its server.

    Each thread keeps a connection for the scripts: to fetch one from a pool for each call would
    take as long as the call.
    """

    def __init__(self, settings: QueueSettings) -> None:
        #: What finds the server, if the url names sentinels.
        self.sentinels = _sentinels(settings)
        self.client = _client(settings, settings.stage_timeout, self.sentinels)
        #: For commands that block, with a longer timeout than other calls.
        self.blocking = _client(settings, BLOCK + settings.stage_timeout, self.sentinels)
        self._sources = {name: _source(name) for name in SCRIPTS}
        self._hashes = {
            name: sha1(source, usedforsecurity=False).hexdigest()
            for name, source in self._sources.items()
        }
        self._mine = threading.local()
        self._connections: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()

    def run(self, script: str, prefix: str, *args: Any) -> Any:
        """Run one of `SCRIPTS` once and return its reply; raises the errors of redis."""
        connection = self._connection()
        if self.sentinels is not None:
            self._connect_to_master(connection, self.sentinels)
        try:
            return _exchange(connection, "EVALSHA", self._hashes[script], 1, prefix, *args)
        except redis.exceptions.NoScriptError:
            return _exchange(connection, "EVAL", self._sources[script], 1, prefix, *args)
        except redis.exceptions.ResponseError as exc:
            if code_of(exc)[0] in _FORMER:
                # The name in the url may stand for another server by now.
                connection.disconnect()
                for client in (self.client, self.blocking):
                    client.connection_pool.disconnect(inuse_connections=False)
            raise

    def close(self) -> None:
        """Close all connections; called once, at exit."""
        self.client.close()
        self.blocking.close()
        if self.sentinels is not None:
            self.sentinels.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.disconnect()

    def _connect_to_master(self, connection: Any, sentinels: Sentinels) -> None:
        # Other methods of the connection would take a default host, and ask no sentinel.
        connection.connect()
        found = connection.host, connection.port
        if getattr(self._mine, "master", found) != found:
            # The former master may have answered this thread after others knew the new one.
            sentinels.report_again()
        self._mine.master = found

    def _connection(self) -> Any:
        try:
            return self._mine.connection
        except AttributeError:
            pool = self.client.connection_pool
            # Closed when the thread has ended.
            connection = pool.connection_class(**pool.connection_kwargs)
            self._mine.connection = connection
            with self._lock:
                self._connections.add(connection)
            return connection


def _source(name: str) -> bytes:
    folder = Path(__file__).parent
    return b"".join((folder / f"{part}.lua").read_bytes() for part in SCRIPTS[name])


def _exchange(connection: Any, *command: Any) -> Any:
    try:
        connection.send_command(*command)
        return connection.read_response()
    except redis.exceptions.ResponseError:
        raise
    except BaseException:
        # After any error, for example the task's own timeout, the next call must not read the
        # reply to this one.
        connection.disconnect()
        raise


def _sentinels(settings: QueueSettings) -> Sentinels | None:
    if settings.url.startswith(f"{SENTINEL}://"):
        return Sentinels(sentinel_url(settings), settings.stage_timeout)
    return None


def _client(settings: QueueSettings, timeout: float, sentinels: Sentinels | None) -> redis.Redis:
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "health_check_interval": 30,
        # No retries here: the caller decides which calls are repeated, and how often.
        "retry": Retry(NoBackoff(), 0),
        "client_name": "collective.taskqueue",
    }
    # A unix socket has neither option.
    login: dict[str, Any] = {"password": settings.password} if settings.password else {}
    network = {"socket_connect_timeout": settings.stage_timeout, "socket_keepalive": True}
    remember(settings.password)
    if sentinels is not None:
        return _checked(settings, partial(sentinels.client, **options, **network, **login))
    if settings.url:
        url = redis_url(settings)
        if not url.startswith("unix:"):
            options |= network
        return _checked(settings, partial(redis.Redis.from_url, url, **options, **login))
    check_host(settings)
    check_database(settings, settings.db)
    if settings.unix_socket_path:
        options["unix_socket_path"] = settings.unix_socket_path
    else:
        options |= {"host": settings.host, "port": settings.port, **network}
    return redis.Redis(db=int(settings.db), **login, **options)


def _checked(settings: QueueSettings, make: Callable[[], redis.Redis]) -> redis.Redis:
    """Make a client and check its options; raises `ConfigurationError` for unusable ones."""
    try:
        client = make()
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, redis.exceptions.RedisError) as exc:
        reason = masked(str(exc))
        raise mistake(settings, f"an option in its url cannot be used: {reason}") from None
    return client
