"""PostgreSQL: a server, with locks and a clock of its own; see `Dialect`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.storages.sql.complete import GIVEN
from collective.taskqueue.storages.sql.complete import Given
from collective.taskqueue.storages.sql.schema import NUMBERS
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.states import HERE
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.states import quoted
from collective.taskqueue.storages.sql.wakeup import Notifier
from collective.taskqueue.storages.urls import refuse_options
from collective.taskqueue.task import RUNNING
from contextlib import closing
from contextlib import contextmanager
from hashlib import blake2b
from sqlalchemy import bindparam
from sqlalchemy import cast
from sqlalchemy import column
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import create_engine
from sqlalchemy import Double
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import extract
from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import text
from sqlalchemy import true
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSON
from typing import Any
import json
import math


#: Most keys that a transaction locks one by one; for more, it locks all keys of the queue.
MANY = 100

#: Seconds after which PostgreSQL ends an idle transaction: its process is frozen, or its machine
#: is gone, and others wait for its locks. A process that wakes up again repeats the transaction.
IDLE = 10.0

#: Most seconds that a migration of the tables may take.
MIGRATION = 3600.0

#: Options of the driver, unless the url sets them. After `idle` seconds of silence TCP sends a
#: probe every `interval` seconds, and closes the connection after `count` probes without an
#: answer. The probes also keep a firewall from dropping an idle connection.
KEEPALIVES = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}

#: Engines of a parent process: never closed here, for the parent uses their sockets.
_inherited: list[Engine] = []

_EACH = "FROM unnest(CAST(:numbers AS bigint[])) AS number"
# If :shared is NULL, PostgreSQL does not call the function that takes the shared lock.
_LOCK = text(f"SELECT pg_advisory_xact_lock_shared(:shared), pg_advisory_xact_lock(number) {_EACH}")
_TRY_LOCK = text(
    "SELECT coalesce(pg_try_advisory_xact_lock_shared(:shared), true)"
    f" AND pg_try_advisory_xact_lock(number) {_EACH}"
)


class Rows:
    """The rows of one statement for many attempts: a parameter in JSON."""

    at_once = True

    def given(self) -> Given:
        """Return the expressions that stand for the values of each row in a statement."""
        columns = [column(n, Text if n == "last_" else kind) for n, kind in GIVEN.items()]
        rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
        given = rows.table_valued(*columns).render_derived(name="row", with_types=True).c
        return {**given, "last_": func.decode(given.last_, quoted("base64"))}

    def of(self, given: Given) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions that a task belongs to a row."""
        # Without statistics of the table, a planner would read all tasks of the queue. The
        # condition `running` lets it use the partial index, which it sees is short.
        return HERE, one_of(RUNNING), TASK.c.id == given["id_"]

    def packed(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the parameters that hold all rows."""
        return {"rows": json.dumps(rows, default=_base64, ensure_ascii=False)}


def _base64(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value)} cannot be sent to the database")
    return b64encode(value).decode()


class PostgreSQL:
    """A server, with row locks and a clock of its own."""

    now: ColumnElement[float] = cast(extract("epoch", func.statement_timestamp()), Double)
    number: ColumnElement[int] = NUMBERS.next_value()
    insert = staticmethod(postgresql.insert)
    serial = False
    in_process = False
    many = Rows()
    #: Commit a claim asynchronously: a crash of the server may lose it, and nothing else.
    relaxed = (func.set_config(quoted("synchronous_commit"), quoted("off"), true()),)

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
        # In the url, so that the url's own options win: connect_args would override them.
        query = {**KEEPALIVES, **url.query}
        self._url = url.set(drivername="postgresql+psycopg", query=query)
        self._channel = f"taskqueue_{_digest(settings.queue)}"
        #: Claim only while the consumer still waits. A claim may wait for a lock on the table until
        #: its consumer has given up, which the server does not notice. statement_timestamp() is
        #: taken after that wait; and a request that the server reads late looks new to it.
        waited = extract("epoch", func.clock_timestamp() - func.transaction_timestamp())
        patience = bindparam("patience_", callable_=self._busy_timeout, type_=Double)
        self.awaited = (cast(waited, Double) < cast(patience, Double),)

    def engine(self, size: int, overflow: int) -> Engine:
        seconds = self.settings.stage_timeout
        engine = create_engine(
            self._url,
            # The driver must not begin transactions by itself: `_begin_on_server` does.
            isolation_level="AUTOCOMMIT",
            # The server's own placeholders: the driver need not look for others, see `connect`.
            paramstyle="numeric_dollar",
            pool_size=size,
            max_overflow=overflow,
            pool_timeout=seconds,
            # Keep tasks, and the users they run as, out of tracebacks.
            hide_parameters=True,
            connect_args={
                "connect_timeout": max(2, math.ceil(seconds)),
                "application_name": "collective.taskqueue",
                # No prepared statements: a pooler in transaction mode gives each transaction
                # another session.
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
        with self._driver.busy_timeout(self.settings.stage_timeout):
            yield

    def numbers(self, connection: Connection, count: int) -> list[int]:
        series = func.generate_series(1, count).table_valued("n")
        return list(connection.scalars(select(NUMBERS.next_value()).select_from(series)))

    def numbered(self, connection: Connection) -> dict[str, Any]:
        return {}

    def lock_schema(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(_number("schema"))))

    def lock_keys(self, connection: Connection, keys: Iterable[str]) -> None:
        connection.execute(_LOCK, self._locks(keys))

    def try_keys(self, connection: Connection, keys: Iterable[str]) -> bool:
        return all(connection.scalars(_TRY_LOCK, self._locks(keys)))

    def resume(self) -> None:
        """Restart the deadline of a large transaction: wait `stage_timeout` for what is next."""
        self._driver.resume()

    def take_time(self) -> None:
        """Extend the deadline: a migration takes longer the more tasks there are."""
        self._driver.resume(MIGRATION)

    def after_fork(self) -> None:
        """Drop the connections of the parent process without closing them."""
        _inherited.extend(self._engines)
        self._engines.clear()

    def check(self) -> None:
        """Do nothing: the server reports what is wrong."""

    def close(self) -> None:
        """Close the connections that are not in use."""
        for engine in self._engines:
            engine.dispose()

    def notify(self, connection: Connection) -> None:
        connection.execute(select(func.pg_notify(self._channel, "")))

    def listen(self, engine: Engine, notifier: Notifier, poll: float) -> None:
        """Ring when another process has notified this one, until stopped; see `driver.listen`."""
        connection = engine.raw_connection()
        # Before `detach`: SQLAlchemy does not return it for a connection outside of the pool.
        driver: Any = connection.driver_connection
        connection.detach()
        with closing(driver):
            self._driver.listen(driver, self._channel, notifier, poll)

    def _busy_timeout(self) -> float:
        """Return seconds, from now or shortly before, in which this thread waits for an answer."""
        return self._driver.rest() / 2

    def _locks(self, keys: Iterable[str]) -> dict[str, Any]:
        # Every transaction takes the locks in the same order, against deadlocks. A server has
        # room for a few thousand locks: a transaction with many keys takes one lock instead,
        # which all other transactions share.
        numbers = sorted(_number(f"{self.settings.queue}:{key}") for key in set(keys))
        every = _number(f"{self.settings.queue}:")
        if len(numbers) > MANY:
            return {"shared": None, "numbers": [every]}
        return {"shared": every, "numbers": numbers}


def _begin_on_server(connection: Connection) -> None:
    if not connection.get_execution_options().get("alone"):
        # In one message, and for this transaction only: a pooler may give the session to
        # another client afterwards.
        connection.exec_driver_sql(
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            f" SET LOCAL idle_in_transaction_session_timeout = {int(IDLE * 1000)}"
        )


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _number(text: str) -> int:
    """Return the number of an advisory lock for a name; no two of our names share one."""
    digest = blake2b(f"collective.taskqueue:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
