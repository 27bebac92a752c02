"""The session with a SQL database: it makes the tables, and repeats or gives up calls."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.secrets import masked
from collective.taskqueue.storages.secrets import shown
from collective.taskqueue.storages.sql import migrations
from collective.taskqueue.storages.sql.dialects.dialect import Dialect
from collective.taskqueue.storages.sql.schema import METADATA
from collective.taskqueue.storages.sql.schema import QUEUE
from collective.taskqueue.storages.sql.schema import SCHEMA
from collective.taskqueue.storages.sql.statements import PORTION
from collective.taskqueue.storages.sql.statements import Statements
from collective.taskqueue.storages.sql.wakeup import Notifier
from sqlalchemy import bindparam
from sqlalchemy import cast
from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import Double
from sqlalchemy import Engine
from sqlalchemy import select
from sqlalchemy import update
from sqlalchemy.exc import DataError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from typing import Any
from typing import TypeVar
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

T = TypeVar("T")

#: Connections that are kept, and those that may be opened on top of them.
POOL, OVERFLOW = 5, 15

#: Seconds after which an idle consumer looks for tasks even without a notification.
POLL = 2.0

#: Errors of a transaction that conflicts with another one: serialization failure, deadlock, a
#: row that another transaction has just deleted, a row that it has just inserted.
_CONFLICTS = frozenset(
    {
        *("40001", "40P01", "23503", "23505"),
        *("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"),
    }
)

#: Seconds before a transaction that conflicted with another one is tried again.
CONFLICT_PAUSE = 0.002


class Conflict(Exception):
    """Another transaction came first: this one is rolled back, and tried again."""


class Session:
    """See the module. `clock` replaces the clock of the database; for tests."""

    def __init__(
        self,
        settings: QueueSettings,
        dialect: Dialect,
        clock: Callable[[], float] | None,
    ) -> None:
        self.settings = settings
        self.dialect = dialect
        self._clock = clock or dialect.clock
        now = dialect.now
        if clock is not None:
            now = cast(bindparam("now", callable_=clock, type_=Double), Double)
        self.statements = Statements(now, dialect)
        self._open()

    def _open(self) -> None:
        self.engine = self.dialect.engine(POOL, OVERFLOW)
        # A single statement needs no BEGIN where the database makes it a transaction.
        self.alone = self.engine.execution_options(alone=True)
        self._reading = self.alone.execution_options(reads=True)
        self._lock = threading.Lock()
        self._ready = False

    def write(self, work: Callable[[Connection], T]) -> T:
        """Call `work` in a transaction, again if the connection breaks: see calls.py.

        Raises `StorageUnavailable` within `stage_timeout`, or `Conflict` if the last try of `work`
        did.
        """
        return self._run(self.engine, work, True)

    def single(self, work: Callable[[Connection], T]) -> T:
        """Like `write`, for a single statement, which needs no transaction around it."""
        return self._run(self.alone, work, True)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Call `work`, which only reads."""
        return self._run(self._reading, work, False)

    def execute(self, connection: Connection, statement: Any, **values: Any) -> Any:
        """Execute one of `statements` with `values`, for this queue."""
        return connection.execute(statement, {"queue_": self.settings.queue, **values})

    def now(self, connection: Connection) -> float:
        """Return the time of the database, in seconds since the epoch."""
        now = self._clock()
        return connection.scalar(self.statements.time) if now is None else now  # type: ignore[return-value]

    def time(self) -> float:
        """Return the time of the database; for calls outside of any transaction."""
        return self.read(self.now)

    def listen(self, notifier: Notifier) -> None:
        """Ring when another process may have changed something, until `notifier` is stopped."""
        self.dialect.listen(self.alone, notifier, POLL)

    def notify(self) -> None:
        """Notify other processes; if this fails, they still look after `POLL` seconds."""
        try:
            self.single(self.dialect.notify)
        except StorageUnavailable as exc:
            logger.debug(
                "queue %s: other processes not notified (%s), they find the change later",
                self.settings.queue,
                exc,
            )

    def portions(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """Yield portions of at most `PORTION` items, and restart the deadline for each."""
        for start in range(0, len(items), PORTION):
            self.dialect.resume()
            yield items[start : start + PORTION]
        self.dialect.resume()

    def number(self, connection: Connection) -> int:
        """Return a new number, larger than all before."""
        return self.dialect.numbers(connection, 1)[0]

    def check(self) -> None:
        """Make or migrate the tables; raise `ConfigurationError` for those of a newer version."""
        self.dialect.check()
        with self.dialect.turn(True):
            try:
                self._prepare()
            except (DBAPIError, PoolTimeout) as exc:
                raise unavailable(exc) from shown(exc)

    def after_fork(self) -> None:
        """Drop the connections and locks of the parent process, and make new ones."""
        self.dialect.after_fork()
        self._open()

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.dialect.close()

    def _run(self, engine: Engine, work: Callable[[Connection], T], writes: bool) -> T:
        # Try again in the first half of the time only: the other half is for the last try.
        deadline = time.monotonic() + self.settings.stage_timeout / 2
        broken = False
        try:
            with self.dialect.turn(writes or not self._ready):
                while True:
                    try:
                        self._prepare()
                        with engine.begin() as connection:
                            return work(connection)
                    except (DBAPIError, Conflict) as exc:
                        if time.monotonic() > deadline or not _may_be_repeated(exc, broken):
                            raise
                        broken = broken or _is_disconnect(exc)
                        time.sleep(CONFLICT_PAUSE)
        except DataError:
            # Not `StorageUnavailable`: this database could not hold the value later, either.
            raise
        except (DBAPIError, PoolTimeout) as exc:
            raise unavailable(exc) from shown(exc)

    def _prepare(self) -> None:
        if self._ready:
            return
        if not self._lock.acquire(timeout=self.settings.stage_timeout):
            raise StorageUnavailable("another thread of this process waits for the tables")
        try:
            if self._ready:
                return
            with self.engine.begin() as connection:
                self.dialect.lock_schema(connection)
                self._migrate(connection)
                new = {"name": self.settings.queue, "paused": False, "number": 0}
                connection.execute(self.dialect.insert(QUEUE).values(new).on_conflict_do_nothing())
            self._ready = True
        finally:
            self._lock.release()

    def _migrate(self, connection: Connection) -> None:
        METADATA.create_all(connection, [SCHEMA])
        found = connection.scalar(select(SCHEMA.c.version))
        if type(found) is not int or found < 0:
            # A new database, or a damaged version: each step checks what exists already.
            found = 0
            connection.execute(delete(SCHEMA))
            connection.execute(SCHEMA.insert().values(version=found))
        steps = migrations.STEPS
        if found > len(steps):
            raise ConfigurationError(
                f"{self.settings.place}: the tables are of version {found}, made by a newer"
                f" collective.taskqueue; this one knows {len(steps)}"
            )
        if found < len(steps):
            self.dialect.take_time()
            for step in steps[found:]:
                step(connection)
            connection.execute(update(SCHEMA).values(version=len(steps)))


def _may_be_repeated(exc: Exception, broken: bool) -> bool:
    if isinstance(exc, Conflict) or _state(exc) in _CONFLICTS:
        return True
    # The connection was closed since its last use, or during this call: then it is unknown
    # whether the call was executed. Each call can safely be made twice, see calls.py.
    return not broken and _is_disconnect(exc)


def _is_disconnect(exc: Exception) -> bool:
    return isinstance(exc, DBAPIError) and exc.connection_invalidated


def _state(exc: Exception) -> str | None:
    cause = getattr(exc, "orig", None)
    return getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)


def unavailable(exc: Exception) -> StorageUnavailable:
    """Return the error of the contract for an error of the driver."""
    cause = getattr(exc, "orig", None) or exc
    lines = str(cause).split("\n")
    return StorageUnavailable(masked(f"{type(cause).__name__}: {' '.join(lines[0].split())}"))
