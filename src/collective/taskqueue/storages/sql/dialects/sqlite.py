"""SQLite: a file that one process at a time writes to; see `Dialect`."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.sql.complete import GIVEN
from collective.taskqueue.storages.sql.complete import Given
from collective.taskqueue.storages.sql.dialects.forks import FORKS
from collective.taskqueue.storages.sql.dialects.mounts import refuse_network
from collective.taskqueue.storages.sql.schema import QUEUE
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.wakeup import Notifier
from contextlib import contextmanager
from contextlib import suppress
from functools import partial
from operator import itemgetter
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
from sqlalchemy import func
from sqlalchemy import Integer
from sqlalchemy import LargeBinary
from sqlalchemy import literal_column
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import update
from sqlalchemy import URL
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import QueuePool
from typing import Any
from urllib.parse import quote
import json
import logging
import math
import os
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Kibibytes of the file that each connection may cache: enough for the pages of the waiting and
#: running tasks, and for the inner index pages on the way to the finished ones.
CACHE = 16 * 1024

#: Mode of a file that is made here: only the user of the process may read and write it.
MODE = 0o600

#: Seconds between two checks whether another process has written to the file.
PROBE = 0.05

#: Seconds before the next try to open a file that another process is making just now.
PAUSE = 0.005

#: A larger number is damaged.
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


class Rows:
    """The rows of one statement for many attempts: a parameter in JSON, which SQLite reads.

    One call of the driver is for all rows: after each call this thread may have to wait for the
    GIL, while other threads compute.
    """

    #: Whether one statement can complete attempts and claim tasks.
    at_once = False

    def given(self) -> Given:
        """Return the expressions that stand for the values of each row in a statement."""
        row = func.json_each(bindparam("rows", type_=Text)).table_valued("value", name="row")
        # JSON has no bytes: `last_` is where they begin in the parameter `bytes`, `length` how
        # many they are.
        places = {**GIVEN, "last_": Integer, "length": Integer}
        queue = bindparam("queue_", type_=Text).label("queue_")
        values = [
            func.json_extract(row.c.value, literal_column(f"'$[{number}]'"), type_=kind).label(name)
            for number, (name, kind) in enumerate(places.items())
        ]
        # A subquery with a limit is not merged into the statement: SQLite loops over these rows,
        # and finds each task by its whole primary key.
        given = select(queue, *values).limit(literal_column("-1")).subquery("given").c
        last = func.substr(bindparam("bytes", type_=LargeBinary), given.last_, given.length)
        return {**given, "last_": last}

    def of(self, given: Given) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions that a task belongs to a row."""
        return TASK.c.queue == given["queue_"], TASK.c.id == given["id_"]

    def packed(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the parameters that hold all rows."""
        lists, parts, start = [], [], 1
        for row in rows:
            last = row["last_"]
            lists.append([*_IN_ORDER({**row, "last_": start}), len(last)])
            parts.append(last)
            start += len(last)
        return {"rows": json.dumps(lists, ensure_ascii=False), "bytes": b"".join(parts)}


_IN_ORDER = itemgetter(*GIVEN)


class SQLite:
    """A file that one process at a time writes to; its clock is that of the machine."""

    now: ColumnElement[float] = cast(bindparam("now", callable_=time.time, type_=Double), Double)
    number: ColumnElement[int] = bindparam("number_", type_=BigInteger)
    insert = staticmethod(sqlite.insert)
    relaxed: tuple[Any, ...] = ()
    #: Empty: SQLite runs in this process, so its caller gets each answer at once.
    awaited: tuple[ColumnElement[bool], ...] = ()
    serial = True
    in_process = True
    many = Rows()

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
        #: The connection that checks whether other processes have written to the file.
        self._probe: Any = None

    def engine(self, size: int, overflow: int) -> Engine:
        FORKS.watch(self)
        engine = create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=size,
            max_overflow=overflow,
            pool_timeout=self.settings.stage_timeout,
            # Reuse the connection that was used last: most of the file is in its cache.
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
        # The file holds payloads and names of users. SQLite would make it with the mode that
        # the umask allows; it gives the write-ahead log and its index the mode of the file.
        if self._url.query.get("mode", "rwc") != "rwc":
            return
        with suppress(OSError):
            # On an error the file exists already, or SQLite reports why it cannot be made. The
            # path may be a link to a file that does not exist yet.
            path = os.path.realpath(self._path)
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, MODE)
            try:
                # The umask may have removed even bits of MODE.
                os.fchmod(file, MODE)
            finally:
                os.close(file)

    def clock(self) -> float:
        return time.time()

    @contextmanager
    def turn(self, writes: bool) -> Iterator[None]:
        """Let the threads of this process write in turns.

        Threads that wait for each other within SQLite would sleep between their tries.
        """
        self._turn.ends = time.monotonic() + self.settings.stage_timeout
        if writes and not self._gate.acquire(timeout=self.settings.stage_timeout):
            raise StorageUnavailable("another thread of this process writes for too long")
        try:
            with FORKS.none():
                self._look_after_files()
                yield
                # Record the inodes only now that a connection of this process has the files
                # open: before, another process could end and remove the log.
                for path in (f"{self._path}", f"{self._path}-wal"):
                    if path not in self._inodes and (inode := _inode(path)):
                        self._inodes[path] = inode
        finally:
            if writes:
                self._gate.release()

    def _begin(self, connection: Connection) -> None:
        # Deduct the time spent on the in-process lock from busy_timeout, in steps of a tenth of
        # a second, so that the pragma is rarely needed.
        rest = max(0, math.ceil((self._turn.ends - time.monotonic()) * 10) * 100)
        if connection.info.get("busy_timeout") != rest:
            connection.info["busy_timeout"] = rest
            connection.connection.driver_connection.execute(f"PRAGMA busy_timeout={rest}")  # type: ignore[union-attr]
        # A transaction that reads first and then writes would fail if another connection wrote
        # in between.
        reads = connection.get_execution_options().get("reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    def _look_after_files(self) -> None:
        # Data written to a file that has lost its name is lost. And without its write-ahead log
        # the file lacks committed transactions. This process still has the log open, and copies
        # it into the file when it ends; a process that begins a new log now would corrupt that.
        for path, inode in self._inodes.copy().items():
            if _inode(path) != inode:
                raise StorageUnavailable(
                    f"{path} was moved away or replaced; stop all processes that use it, put"
                    " back what is missing, then start them again"
                )

    def check(self) -> None:
        """Raise `ConfigurationError` if the file's folder is missing, or its path is a folder."""
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

    def numbered(self, connection: Connection) -> dict[str, Any]:
        return {"number_": self.numbers(connection, 1)[0]}

    def _count_anew(self, connection: Connection) -> None:
        """Restore the counter, missing or damaged: go on after all numbers that are in use."""
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
        """Do nothing: the transaction locks the whole file."""

    def lock_keys(self, connection: Connection, keys: Iterable[str]) -> None:
        """Do nothing: the transaction locks the whole file."""

    def try_keys(self, connection: Connection, keys: Iterable[str]) -> bool:
        return True

    def take_time(self) -> None:
        """Do nothing: no deadline ends a migration."""

    def resume(self) -> None:
        """Do nothing: no deadline ends a running transaction."""

    def after_fork(self) -> None:
        """Make a new lock: the thread that held the old one is not in this process."""
        self._gate = threading.Lock()
        self._engines.clear()

    def notify(self, connection: Connection) -> None:
        """Do nothing: other processes see that the file has changed."""

    def listen(self, engine: Engine, notifier: Notifier, poll: float) -> None:
        """Ring when another process has written, and after `poll` seconds, until stopped."""
        seen, rounds = 0, 0
        while not notifier.rest(PROBE):
            with FORKS.none():
                if self._probe is None:
                    # Each connection has a data_version of its own.
                    seen = 0
                    self._probe = engine.raw_connection()
                    self._probe.detach()
                [version] = self._probe.cursor().execute("PRAGMA data_version").fetchone()
            rounds += 1
            if version != seen or rounds * PROBE >= poll:
                seen, rounds = version, 0
                notifier.ring()
        self._close_probe()

    def let_go(self) -> None:
        """Close all files, before a fork or at exit; no thread is in SQLite then."""
        self._close_probe()
        for engine in self._engines:
            engine.dispose()
        self._inodes.clear()

    def close(self) -> None:
        """Close the files; SQLite copies the log into the file if no other process has it open."""
        with FORKS.none():
            self.let_go()

    def _close_probe(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.close()


def _prepare(busy_timeout: float, connection: Any, record: object) -> None:
    # The driver must not begin transactions by itself: `_begin` chooses the kind of each.
    connection.isolation_level = None
    connection.text_factory = _text
    mode = _write_ahead(connection, time.monotonic() + busy_timeout)
    if mode != "wal":
        raise connection.OperationalError(f"no write-ahead log here (journal mode {mode})")
    # FULL for claims, too. A lost claim would lose nothing else, for each later commit syncs the
    # whole log to the disk. But the claim of a task that crashes the machine would be lost: the
    # task would never count as lost, and would run again at each start.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", f"cache_size=-{CACHE}"):
        connection.execute(f"PRAGMA {pragma}")


def _text(stored: bytes) -> str | bytes:
    """Return a stored text, or its bytes if it is not UTF-8, so that other rows can be read."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def _write_ahead(connection: Any, deadline: float) -> str:
    """Switch the file to a write-ahead log; return the journal mode it has then."""
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            return mode
        except connection.OperationalError as exc:
            # Of two processes that make the file at the same moment, one gets SQLITE_BUSY at
            # once, whatever its busy_timeout.
            if exc.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
