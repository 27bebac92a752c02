"""SQLite: a file, written by one process at a time; see `Dialect`."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.sql.bulk import InProcess
from collective.taskqueue.storages.sql.dialects.forks import FORKS
from collective.taskqueue.storages.sql.dialects.mounts import refuse_network
from collective.taskqueue.storages.sql.schema import QUEUE
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.wakeup import Alarm
from contextlib import contextmanager
from contextlib import suppress
from functools import partial
from pathlib import Path
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import create_engine
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy import update
from sqlalchemy import URL
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import QueuePool
from typing import Any
from urllib.parse import quote
import logging
import math
import os
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Kibibytes of the file that each connection may keep in memory: those of the tasks that wait
#: and run, and the way to the finished ones.
CACHE = 16 * 1024

#: Who may read and write a file that is made here: the user of the process.
MODE = 0o600

#: Seconds between two looks whether another process has written to the file.
PROBE = 0.05

#: Seconds before a file is tried again that another process is making just now.
PAUSE = 0.005

#: Larger numbers are damaged.
LIMIT = 2**62

_COUNT = (
    update(QUEUE)
    .where(
        QUEUE.c.name == bindparam("name_"),
        QUEUE.c.number.between(0, LIMIT),
        func.typeof(QUEUE.c.number) == "integer",
    )
    .values(number=QUEUE.c.number + bindparam("count"))
    .returning(QUEUE.c.number)
)


class SQLite:
    """A file, written by one process at a time; its clock is that of the machine."""

    now: ColumnElement[float] | None = None
    number: ColumnElement[int] = bindparam("number_", type_=BigInteger)
    insert = staticmethod(sqlite.insert)
    relaxed: tuple[Any, ...] = ()
    #: Nothing: the answer is there as soon as it is given.
    awaited: tuple[ColumnElement[bool], ...] = ()
    parameters: Mapping[str, Callable[[], Any]] = {}
    serial = True
    nearby = True
    many = InProcess()

    def __init__(self, settings: QueueSettings, path: str, mode: str = "") -> None:
        self.settings = settings
        self._path = Path(path)
        refuse_network(settings, self._path)
        self._url = URL.create("sqlite", database=path)
        if mode:
            query = {"uri": "true", "mode": mode}
            self._url = URL.create("sqlite", database=f"file:{quote(path)}", query=query)
        self._gate = threading.Lock()
        self._turn = threading.local()
        self._engines: list[Engine] = []
        #: The inodes of the file and of its write-ahead log, while a connection has them open.
        self._inodes: dict[str, int] = {}
        #: The connection that looks for what other processes have written.
        self._probe: Any = None

    def engine(self, size: int, overflow: int) -> Engine:
        FORKS.watch(self)
        engine = create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=size,
            max_overflow=overflow,
            pool_timeout=self.settings.stage_timeout,
            # The one that has most of the file in memory.
            pool_use_lifo=True,
            connect_args={"timeout": self.settings.stage_timeout, "check_same_thread": False},
            hide_parameters=True,
        )
        event.listen(engine, "do_connect", self._make_file)
        event.listen(engine, "connect", partial(_prepare, self.settings.stage_timeout))
        event.listen(engine, "begin", self._begin)
        self._engines.append(engine)
        return engine

    def _make_file(self, *connecting: Any) -> None:
        # It has payloads and the names of people in it. SQLite would make it as open as the
        # umask is; to its log and its index it gives the mode that the file has.
        if self._url.query.get("mode", "rwc") != "rwc":
            return
        with suppress(OSError):
            # It is there already, or SQLite says why it cannot be. A link may lead to none yet.
            path = os.path.realpath(self._path)
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, MODE)
            try:
                # An umask may have taken even that.
                os.fchmod(file, MODE)
            finally:
                os.close(file)

    def clock(self) -> float:
        return time.time()

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
        """Raises `ConfigurationError` if there is no folder for the file, or one in its place."""
        if self._path.is_dir():
            raise ConfigurationError(f"{self.settings.place}: {self._path} is a folder")
        if not self._path.parent.is_dir():
            raise ConfigurationError(
                f"{self.settings.place}: there is no folder {self._path.parent}"
            )

    def numbers(self, connection: Connection, count: int) -> list[int]:
        values = {"name_": self.settings.queue, "count": count}
        last = connection.scalar(_COUNT, values)
        if last is None:
            self._count_anew(connection)
            last = connection.execute(_COUNT, values).scalar_one()
        return list(range(last - count + 1, last + 1))

    def _count_anew(self, connection: Connection) -> None:
        """Its row is gone, or its number is none: go on after all numbers that are in use."""
        queue = self.settings.queue
        used = [
            select(extreme(column)).where(TASK.c.queue == queue, column.between(-LIMIT, LIMIT))
            for extreme, column in (
                (func.max, TASK.c.number),
                (func.max, TASK.c.place),
                (func.min, TASK.c.place),
            )
        ]
        number = max(abs(connection.scalar(query) or 0) for query in used)
        new = sqlite.insert(QUEUE).values(name=queue, paused=False, number=int(number))
        connection.execute(
            new.on_conflict_do_update(
                index_elements=[QUEUE.c.name], set_={"number": new.excluded.number}
            )
        )
        logger.error("queue %s: its number was damaged, counted anew", queue)

    def lock_schema(self, connection: Connection) -> None:
        """The transaction is the lock."""

    def lock_keys(self, connection: Connection, keys: Iterable[str]) -> None:
        """The transaction is the lock."""

    def try_keys(self, connection: Connection, keys: Iterable[str]) -> bool:
        return True

    def take_time(self) -> None:
        """It takes what it takes."""

    def go_on(self) -> None:
        """Nobody waits for a file that does not answer."""

    def after_fork(self) -> None:
        """The thread that had the gate is not in this process."""
        self._gate = threading.Lock()
        self._engines.clear()

    def announce(self, connection: Connection) -> None:
        """Other processes see that the file has changed."""

    def listen(self, engine: Engine, alarm: Alarm, poll: float) -> None:
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
            if version != seen or rounds * PROBE >= poll:
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


def _prepare(patience: float, connection: Any, record: object) -> None:
    # The driver begins no transaction by itself; each one says what it is.
    connection.isolation_level = None
    connection.text_factory = _text
    mode = _write_ahead(connection, time.monotonic() + patience)
    if mode != "wal":
        raise connection.OperationalError(f"no write-ahead log here (journal mode {mode})")
    # FULL for claims, too. Nothing else would be lost with one, for each later commit takes
    # the log to the disk as far as there is one; but a task that takes the whole machine with
    # it would never be counted as lost, and would run at each start.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", f"cache_size=-{CACHE}"):
        connection.execute(f"PRAGMA {pragma}")


def _text(stored: bytes) -> str | bytes:
    """Return a text, or what was stored as one and is none: the other rows can be read."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


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
