"""PostgreSQL: a server, with locks and a clock of its own; see `Dialect`."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.storages.sql.bulk import OnServer
from collective.taskqueue.storages.sql.schema import NUMBERS
from collective.taskqueue.storages.sql.wakeup import Alarm
from collective.taskqueue.storages.urls import refuse_options
from contextlib import closing
from contextlib import contextmanager
from hashlib import blake2b
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
from sqlalchemy.dialects import postgresql
from typing import Any
import math


#: Keys that are locked one by one in a transaction; of more, all of the queue are locked.
MANY = 100

#: Seconds after which PostgreSQL ends a transaction whose process asks for nothing more: it is
#: frozen, or its machine is gone, and others wait for its locks. It is tried again if it wakes.
IDLE = 10.0

#: Seconds that tables are migrated at most.
MIGRATION = 3600.0

#: What the driver is told if the url says nothing of it. After so many seconds of silence this
#: machine asks whether the other one is there, every few seconds, and gives up after so many
#: questions without an answer. A firewall forgets no connection on which something is said.
KEEPALIVES = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}

#: Engines of a parent process: never closed here, for their sockets are not ours.
_inherited: list[Engine] = []

_EACH = "FROM unnest(CAST(:numbers AS bigint[])) AS number"
# Without a lock to be shared its function is not called.
_LOCK = text(f"SELECT pg_advisory_xact_lock_shared(:shared), pg_advisory_xact_lock(number) {_EACH}")
_TRY_LOCK = text(
    "SELECT coalesce(pg_try_advisory_xact_lock_shared(:shared), true)"
    f" AND pg_try_advisory_xact_lock(number) {_EACH}"
)


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
            from collective.taskqueue.storages.sql.dialects import driver
        except ModuleNotFoundError as exc:
            raise ConfigurationError(
                f"{settings.place}: a url of PostgreSQL needs the extra"
                f" collective.taskqueue[postgresql], there is no {exc.name}"
            ) from exc
        refuse_options(settings, set(url.query) - driver.options())
        self._driver = driver
        self._engines: list[Engine] = []
        # In the url: what is told to the engine would have the last word.
        query = {**KEEPALIVES, **url.query}
        self._url = url.set(drivername="postgresql+psycopg", query=query)
        self._channel = f"taskqueue_{_digest(settings.queue)}"
        self.parameters: Mapping[str, Callable[[], Any]] = {"patience_": self._patience}

    def engine(self, size: int, overflow: int) -> Engine:
        seconds = self.settings.stage_timeout
        engine = create_engine(
            self._url,
            # The driver begins no transaction by itself; each one says what it is.
            isolation_level="AUTOCOMMIT",
            # Placeholders as the server has them: the driver looks for no others, see `connect`.
            paramstyle="numeric_dollar",
            pool_size=size,
            max_overflow=overflow,
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

    def take_time(self) -> None:
        """To migrate takes longer the more tasks there are."""
        self._driver.go_on(MIGRATION)

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

    def listen(self, engine: Engine, alarm: Alarm, poll: float) -> None:
        """Ring whenever another process has notified this one, until stopped."""
        connection = engine.raw_connection()
        # Asked for later, a connection that is none of the pool's has no driver.
        driver: Any = connection.driver_connection
        connection.detach()
        with closing(driver):
            self._driver.listen(driver, self._channel, alarm, poll)

    def _patience(self) -> float:
        """Return seconds from now, or from a moment before, in which an answer is waited for."""
        return self._driver.rest() / 2

    def _locks(self, keys: Iterable[str]) -> dict[str, Any]:
        # In one order for everybody, so that no two wait for each other. A server has room for
        # a few thousand locks: who wants many takes one instead, which all others share.
        numbers = sorted(_number(f"{self.settings.queue}:{key}") for key in set(keys))
        every = _number(f"{self.settings.queue}:")
        if len(numbers) > MANY:
            return {"shared": None, "numbers": [every]}
        return {"shared": every, "numbers": numbers}


def _begin_on_server(connection: Connection) -> None:
    if not connection.get_execution_options().get("alone"):
        # In one message, and for this transaction only: a pooler may give the session to
        # somebody else afterwards.
        connection.exec_driver_sql(
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            f" SET LOCAL idle_in_transaction_session_timeout = {int(IDLE * 1000)}"
        )


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _number(text: str) -> int:
    """Return a number for a name that is like no other of ours, as advisory locks want it."""
    digest = blake2b(f"collective.taskqueue:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
