"""All that differs between the databases: the clock, numbers, locks, and who is woken how."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages._alarm import Alarm
from collective.taskqueue.storages._forks import FORKS
from collective.taskqueue.storages._many import InProcess
from collective.taskqueue.storages._many import OnServer
from collective.taskqueue.storages._mounts import refuse_network
from collective.taskqueue.storages._tables import NUMBERS
from collective.taskqueue.storages._tables import QUEUE
from contextlib import closing
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import cast
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import create_engine
from sqlalchemy import Double
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import extract
from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy import update
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool
from typing import Any
import math
import os
import threading
import time


#: Connections that are kept, and those that may be opened on top of them.
POOL, OVERFLOW = 5, 15

#: Kibibytes of the file that each connection may keep in memory: those of the tasks that wait
#: and run, and the way to the finished ones.
CACHE = 16 * 1024

#: Seconds between two looks whether another process has written to the file.
PROBE = 0.05

#: Seconds before a file is tried again that another process is making just now.
PAUSE = 0.005

#: Seconds after which an idle consumer looks by itself, whatever it was told or not told.
POLL = 2.0

#: Keys that are locked one by one in a transaction; of more, all of the queue are locked.
MANY = 100

#: Seconds after which PostgreSQL ends a transaction whose process asks for nothing more: it is
#: frozen, or its machine is gone, and others wait for its locks. It is tried again if it wakes.
IDLE = 10.0


def dialect_of(settings: QueueSettings) -> SQLite | PostgreSQL:
    """Return the dialect of the settings' url; raises `ConfigurationError`."""
    try:
        url = make_url(settings.url)
    except ArgumentError:
        url = None
    if url is not None and url.drivername in ("sqlite", "sqlite+pysqlite"):
        return SQLite(settings, url)
    if url is not None and url.drivername in ("postgresql", "postgresql+psycopg"):
        return PostgreSQL(settings, url)
    raise ConfigurationError(
        f"{settings.place}: type sql needs a url, sqlite:///… or postgresql://…"
    )


#: Engines of a parent process: never closed here, for their sockets are not ours.
_inherited: list[Engine] = []

_COUNT = (
    update(QUEUE)
    .where(QUEUE.c.name == bindparam("name_"))
    .values(number=QUEUE.c.number + bindparam("count"))
    .returning(QUEUE.c.number)
)


_EACH = "FROM unnest(CAST(:numbers AS bigint[])) AS number"
# Without a lock to be shared its function is not called.
_LOCK = text(f"SELECT pg_advisory_xact_lock_shared(:shared), pg_advisory_xact_lock(number) {_EACH}")
_TRY_LOCK = text(
    "SELECT coalesce(pg_try_advisory_xact_lock_shared(:shared), true)"
    f" AND pg_try_advisory_xact_lock(number) {_EACH}"
)


class SQLite:
    """A file, written by one process at a time; its clock is that of the machine."""

    now: ColumnElement[float] | None = None
    number: ColumnElement[int] = bindparam("number_", type_=BigInteger)
    insert = staticmethod(sqlite.insert)
    #: What makes a claim cheaper: nothing.
    relaxed: tuple[Any, ...] = ()
    #: What makes sure that somebody still waits for a claim: nothing.
    awaited: tuple[ColumnElement[bool], ...] = ()
    #: One transaction at a time: no row, no key has to be locked.
    serial = True
    nearby = True
    many = InProcess()

    def __init__(self, settings: QueueSettings, url: Any) -> None:
        self.settings = settings
        path = url.database
        if not path or path == ":memory:":
            raise ConfigurationError(f"{settings.place}: the url must name a file")
        self._path = Path(path.removeprefix("file:").partition("?")[0]).absolute()
        refuse_network(settings, self._path)
        self._url = url
        self._gate = threading.Lock()
        self._turn = threading.local()
        self._engines: list[Engine] = []
        #: The inodes of the file and of its write-ahead log, while a connection has them open.
        self._inodes: dict[str, int] = {}
        #: The connection that looks for what other processes have written.
        self._probe: Any = None

    def engine(self) -> Engine:
        FORKS.watch(self)
        engine = create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=POOL,
            max_overflow=OVERFLOW,
            pool_timeout=self.settings.stage_timeout,
            # The one that has most of the file in memory.
            pool_use_lifo=True,
            connect_args={"timeout": self.settings.stage_timeout, "check_same_thread": False},
            hide_parameters=True,
        )
        event.listen(engine, "connect", partial(_prepare, self.settings.stage_timeout))
        event.listen(engine, "begin", self._begin)
        self._engines.append(engine)
        return engine

    def clock(self) -> float:
        return time.time()

    def patience(self) -> float:
        """The answer is there as soon as it is given."""
        return self.settings.stage_timeout

    @contextmanager
    def turn(self, writes: bool) -> Iterator[None]:
        """Let the threads of this process write in turns: those who wait in SQLite sleep."""
        self._turn.ends = time.monotonic() + self.settings.stage_timeout
        if writes and not self._gate.acquire(timeout=self.settings.stage_timeout):
            raise StorageUnavailable("another thread of this process writes for too long")
        try:
            with FORKS.none():
                self._look_after_files()
                yield
                # From now on a connection of this process has them open: before, another
                # process might have ended, and taken the log with it.
                for path in (f"{self._path}", f"{self._path}-wal"):
                    if path not in self._inodes and (inode := _inode(path)):
                        self._inodes[path] = inode
        finally:
            if writes:
                self._gate.release()

    def _begin(self, connection: Connection) -> None:
        # Who has waited for other threads already waits so much less for other processes: in
        # tenths of a second, so that there is rarely something to be said.
        rest = max(0, math.ceil((self._turn.ends - time.monotonic()) * 10) * 100)
        if connection.info.get("busy_timeout") != rest:
            connection.info["busy_timeout"] = rest
            connection.connection.driver_connection.execute(f"PRAGMA busy_timeout={rest}")  # type: ignore[union-attr]
        # Who reads first and then wants to write would be told that somebody else was faster.
        reads = connection.get_execution_options().get("reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    def _look_after_files(self) -> None:
        # What is written to a file that has lost its name is found by nobody. And without its
        # write-ahead log the file is not what was committed. This process still has the log
        # open, and puts what is in there into the file when it ends; others that begin a new
        # log now would spoil that.
        for path, inode in self._inodes.copy().items():
            if _inode(path) != inode:
                raise StorageUnavailable(
                    f"{path} was moved away or replaced; stop all processes that use it, put"
                    " back what is missing, then start them again"
                )

    def check(self) -> None:
        """Raises `ConfigurationError` if there is no folder for the file."""
        if not self._path.parent.is_dir():
            raise ConfigurationError(
                f"{self.settings.place}: there is no folder {self._path.parent}"
            )

    def numbers(self, connection: Connection, count: int) -> list[int]:
        values = {"name_": self.settings.queue, "count": count}
        last = connection.execute(_COUNT, values).scalar_one()
        return list(range(last - count + 1, last + 1))

    def lock_schema(self, connection: Connection) -> None:
        """The transaction is the lock."""

    def lock_keys(self, connection: Connection, keys: Iterable[str]) -> None:
        """The transaction is the lock."""

    def try_keys(self, connection: Connection, keys: Iterable[str]) -> bool:
        return True

    def go_on(self) -> None:
        """Nobody waits for a file that does not answer."""

    def after_fork(self) -> None:
        """The thread that had the gate is not in this process."""
        self._gate = threading.Lock()
        self._engines.clear()

    def announce(self, connection: Connection) -> None:
        """Other processes see that the file has changed."""

    def listen(self, engine: Engine, alarm: Alarm) -> None:
        """Ring whenever another process has written, until stopped."""
        seen, rounds = 0, 0
        while not alarm.rest(PROBE):
            with FORKS.none():
                if self._probe is None:
                    # It counts what it sees by itself.
                    seen = 0
                    self._probe = engine.raw_connection()
                    self._probe.detach()
                [version] = self._probe.cursor().execute("PRAGMA data_version").fetchone()
            rounds += 1
            if version != seen or rounds * PROBE >= POLL:
                seen, rounds = version, 0
                alarm.ring()
        self._close_probe()

    def let_go(self) -> None:
        """A fork or the end is near, and nobody is in SQLite."""
        self._close_probe()
        for engine in self._engines:
            engine.dispose()
        self._inodes.clear()

    def close(self) -> None:
        """Close the files: what is in the log goes into the file, if nobody else has it open."""
        with FORKS.none():
            self.let_go()

    def _close_probe(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.close()


class PostgreSQL:
    """A server, with row locks, and a clock of its own."""

    now: ColumnElement[float] | None = cast(extract("epoch", func.statement_timestamp()), Double)
    number: ColumnElement[int] = NUMBERS.next_value()
    insert = staticmethod(postgresql.insert)
    serial = False
    nearby = False
    many = OnServer()
    #: A crash of the server may take a claim, and nothing else with it.
    relaxed = (func.set_config("synchronous_commit", "off", True),)
    #: Who claims has given up by the time that somebody lets go of the table, perhaps, and the
    #: server knows nothing of it. The time of the statement is that after the wait; and what
    #: the server reads late it takes for new.
    awaited: tuple[ColumnElement[bool], ...] = (
        cast(extract("epoch", func.clock_timestamp() - func.transaction_timestamp()), Double)
        < cast(bindparam("patience_", type_=Double), Double),
    )

    def __init__(self, settings: QueueSettings, url: Any) -> None:
        self.settings = settings
        try:
            from collective.taskqueue.storages import _psycopg
        except ModuleNotFoundError as exc:
            raise ConfigurationError(
                f"{settings.place}: a url of PostgreSQL needs the extra"
                f" collective.taskqueue[postgresql], there is no {exc.name}"
            ) from exc
        self._driver = _psycopg
        self._engines: list[Engine] = []
        self._url = url.set(drivername="postgresql+psycopg")
        self._channel = f"taskqueue_{_digest(settings.queue)}"

    def engine(self) -> Engine:
        seconds = self.settings.stage_timeout
        engine = create_engine(
            self._url,
            # The driver begins no transaction by itself; each one says what it is.
            isolation_level="AUTOCOMMIT",
            # Placeholders as the server has them: the driver looks for no others, see `connect`.
            paramstyle="numeric_dollar",
            pool_size=POOL,
            max_overflow=OVERFLOW,
            pool_timeout=seconds,
            # Tasks and who they run as have no place in a traceback.
            hide_parameters=True,
            connect_args={
                "connect_timeout": max(2, math.ceil(seconds)),
                "application_name": "collective.taskqueue",
                # A pooler in transaction mode hands each transaction another session.
                "prepare_threshold": None,
            },
        )
        event.listen(
            engine,
            "do_connect",
            lambda dialect, record, args, options: self._driver.connect(*args, **options),
        )
        event.listen(engine, "begin", _begin_on_server)
        self._engines.append(engine)
        return engine

    def clock(self) -> None:
        return None

    def patience(self) -> float:
        """Return seconds from now, or from a moment before, in which an answer is waited for."""
        return self._driver.rest() / 2

    @contextmanager
    def turn(self, writes: bool) -> Iterator[None]:
        with self._driver.patience(self.settings.stage_timeout):
            yield

    def numbers(self, connection: Connection, count: int) -> list[int]:
        series = func.generate_series(1, count).table_valued("n")
        return list(connection.scalars(select(NUMBERS.next_value()).select_from(series)))

    def lock_schema(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(_number("schema"))))

    def lock_keys(self, connection: Connection, keys: Iterable[str]) -> None:
        connection.execute(_LOCK, self._locks(keys))

    def try_keys(self, connection: Connection, keys: Iterable[str]) -> bool:
        return all(connection.scalars(_TRY_LOCK, self._locks(keys)))

    def go_on(self) -> None:
        """A transaction that is large comes along: wait `stage_timeout` for what is next."""
        self._driver.go_on()

    def after_fork(self) -> None:
        """Own no connection of the parent, and close none."""
        _inherited.extend(self._engines)
        self._engines.clear()

    def check(self) -> None:
        """The server tells what is wrong."""

    def close(self) -> None:
        """Close the connections that are not in use."""
        for engine in self._engines:
            engine.dispose()

    def announce(self, connection: Connection) -> None:
        connection.execute(select(func.pg_notify(self._channel, "")))

    def listen(self, engine: Engine, alarm: Alarm) -> None:
        """Ring whenever another process has notified this one, until stopped."""
        connection = engine.raw_connection()
        # Asked for later, a connection that is none of the pool's has no driver.
        driver: Any = connection.driver_connection
        connection.detach()
        with closing(driver):
            self._driver.listen(driver, self._channel, alarm, POLL)

    def _locks(self, keys: Iterable[str]) -> dict[str, Any]:
        # In one order for everybody, so that no two wait for each other. A server has room for
        # a few thousand locks: who wants many takes one instead, which all others share.
        numbers = sorted(_number(f"{self.settings.queue}:{key}") for key in set(keys))
        every = _number(f"{self.settings.queue}:")
        if len(numbers) > MANY:
            return {"shared": None, "numbers": [every]}
        return {"shared": every, "numbers": numbers}


def _prepare(patience: float, connection: Any, record: object) -> None:
    # The driver begins no transaction by itself; each one says what it is.
    connection.isolation_level = None
    mode = _write_ahead(connection, time.monotonic() + patience)
    if mode != "wal":
        raise connection.OperationalError(f"no write-ahead log here (journal mode {mode})")
    # FULL for claims, too. Nothing else would be lost with one, for each later commit takes
    # the log to the disk as far as there is one; but a task that takes the whole machine with
    # it would never be counted as lost, and would run at each start.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", f"cache_size=-{CACHE}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_on_server(connection: Connection) -> None:
    if not connection.get_execution_options().get("alone"):
        # In one message, and for this transaction only: a pooler may give the session to
        # somebody else afterwards.
        connection.exec_driver_sql(
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            f" SET LOCAL idle_in_transaction_session_timeout = {int(IDLE * 1000)}"
        )


def _write_ahead(connection: Any, deadline: float) -> str:
    """Let the file have a write-ahead log; return the mode it has then."""
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            return mode
        except connection.OperationalError as exc:
            # Of two processes that make the file at the same moment one is told at once to go.
            if exc.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _number(text: str) -> int:
    """Return a number for a name that is like no other of ours, as advisory locks want it."""
    digest = blake2b(f"collective.taskqueue:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
