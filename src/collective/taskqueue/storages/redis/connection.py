"""The server of a Redis queue: clients, the script, and what their errors mean here."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages.secrets import masked
from collective.taskqueue.storages.secrets import remember
from collective.taskqueue.storages.secrets import shown
from collective.taskqueue.storages.urls import check_database
from collective.taskqueue.storages.urls import check_host
from collective.taskqueue.storages.urls import mistake
from collective.taskqueue.storages.urls import redis_url
from contextlib import contextmanager
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


#: Longest time in seconds that an idle consumer blocks; a lost marker costs no more, nor does a
#: lease that began elsewhere meanwhile, was short, and is over.
BLOCK = 5.0


class WrongKind(Exception):
    """Under a key lies what is not ours."""


class Server:
    """What a storage needs of its server.

    The script runs over a connection that its thread keeps: to fetch one from a pool for
    each call would take as long as the call.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self.client = _client(settings, settings.stage_timeout)
        #: Blocks longer than any other call may take.
        self.blocking = _client(settings, BLOCK + settings.stage_timeout)
        script = Path(__file__).with_name("queue.lua").read_bytes()
        self._script = script
        self._sha = sha1(script, usedforsecurity=False).hexdigest()
        self._mine = threading.local()
        self._connections: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()

    def run(self, prefix: str, *args: Any) -> Any:
        """Run the script once; raises what redis raises. Called by the storage."""
        connection = self._connection()
        try:
            return _exchange(connection, "EVALSHA", self._sha, 1, prefix, *args)
        except redis.exceptions.NoScriptError:
            return _exchange(connection, "EVAL", self._script, 1, prefix, *args)

    def close(self) -> None:
        """Let go of all connections; called once, at exit."""
        self.client.close()
        self.blocking.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.disconnect()

    def _connection(self) -> Any:
        try:
            return self._mine.connection
        except AttributeError:
            pool = self.client.connection_pool
            # Closed when its thread has ended.
            connection = pool.connection_class(**pool.connection_kwargs)
            self._mine.connection = connection
            with self._lock:
                self._connections.add(connection)
            return connection


def _exchange(connection: Any, *command: Any) -> Any:
    try:
        connection.send_command(*command)
        return connection.read_response()
    except redis.exceptions.ResponseError:
        raise
    except BaseException:
        # Whatever it was, the task's own timeout for one: the next call must not read the
        # answer to this one.
        connection.disconnect()
        raise


def _client(settings: QueueSettings, timeout: float) -> redis.Redis:
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "health_check_interval": 30,
        # What may be repeated, and how often, is for the caller to decide.
        "retry": Retry(NoBackoff(), 0),
        "client_name": "collective.taskqueue",
    }
    # A socket of this machine knows neither.
    network = {"socket_connect_timeout": settings.stage_timeout, "socket_keepalive": True}
    if settings.url:
        url = redis_url(settings)
        if not url.startswith("unix:"):
            options |= network
        return _checked(settings, partial(redis.Redis.from_url, url, **options))
    check_host(settings)
    check_database(settings, settings.db)
    remember(settings.password)
    if settings.unix_socket_path:
        options["unix_socket_path"] = settings.unix_socket_path
    else:
        options |= {"host": settings.host, "port": settings.port, **network}
    return redis.Redis(db=int(settings.db), password=settings.password or None, **options)


def _checked(settings: QueueSettings, make: Callable[[], redis.Redis]) -> redis.Redis:
    """Return a client whose options can be those of a connection."""
    try:
        client = make()
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, redis.exceptions.RedisError) as exc:
        reason = masked(str(exc))
        raise mistake(settings, f"an option in its url cannot be used: {reason}") from None
    return client


class NoDatabase(StorageUnavailable):
    """The server has fewer databases than the number in the settings asks for."""


@contextmanager
def at_start(settings: QueueSettings) -> Iterator[None]:
    """`translated`, and what does not heal by itself as `ConfigurationError`."""
    try:
        with translated():
            yield
    except NoDatabase as exc:
        raise mistake(settings, str(exc)) from None
    except redis.exceptions.ResponseError as exc:
        reason = masked(str(exc))
        raise mistake(settings, f"the server refuses to serve a queue: {reason}") from None


@contextmanager
def translated() -> Iterator[None]:
    """The errors of the block as those of the contract; called by the storage."""
    try:
        yield
    except redis.exceptions.ResponseError as exc:
        kind, _, detail = str(exc).partition(" ")
        if kind == "UNKNOWN":
            raise UnknownTask(f"no task {detail} in this queue") from None
        if kind == "WRONGTYPE":
            raise WrongKind(str(exc)) from exc
        if kind in _TEMPORARY:
            raise StorageUnavailable(masked(str(exc))) from shown(exc)
        if "DB index" in str(exc):
            raise NoDatabase("the server has no database of this number") from exc
        raise
    except (redis.exceptions.RedisError, OSError) as exc:
        raise StorageUnavailable(masked(f"{type(exc).__name__}: {exc}")) from shown(exc)


#: Replies of a server that is there but cannot do what is asked of it right now.
_TEMPORARY = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS", "OOM"}
    | {"READONLY", "WRONGPASS", "TRYAGAIN", "UNBLOCKED"}
)
