"""What differs between the databases, and which of them a url is about.

All of it is here, in the words of `Dialect`: the clock, numbers, locks, and who is woken how.
sqlite.py and postgresql.py say it in SQL, each by itself; every other room has one way for
both.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.sql.bulk import InProcess
from collective.taskqueue.storages.sql.bulk import OnServer
from collective.taskqueue.storages.sql.dialects.postgresql import PostgreSQL
from collective.taskqueue.storages.sql.dialects.sqlite import SQLite
from collective.taskqueue.storages.sql.wakeup import Alarm
from collective.taskqueue.storages.urls import mistake
from collective.taskqueue.storages.urls import server_url
from collective.taskqueue.storages.urls import sqlite_file
from contextlib import AbstractContextManager
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url
from typing import Any
from typing import Protocol


class Dialect(Protocol):
    """One database, as the queue of these settings uses it."""

    # expressions of statements

    @property
    def now(self) -> ColumnElement[float] | None:
        """The time of the database; None if `clock` has it."""

    @property
    def number(self) -> ColumnElement[int]:
        """The next number, or the parameter `number_` for one of `numbers`."""

    @property
    def relaxed(self) -> tuple[ColumnElement[Any], ...]:
        """What makes a claim cheaper where it is selected."""

    @property
    def awaited(self) -> tuple[ColumnElement[bool], ...]:
        """Conditions that somebody still waits for a claim."""

    @property
    def parameters(self) -> Mapping[str, Callable[[], Any]]:
        """Who knows the values of parameters that only these expressions have, by their names."""

    @property
    def insert(self) -> Callable[[Any], sqlite.Insert | postgresql.Insert]:
        """What makes an INSERT into a table, which can be told what to do on a conflict."""

    # what the database is like

    @property
    def many(self) -> InProcess | OnServer:
        """How one statement is executed for many rows."""

    @property
    def serial(self) -> bool:
        """Whether one transaction at a time writes: no row, no key has to be locked."""

    @property
    def nearby(self) -> bool:
        """Whether it answers without a network in between; see `IExchange`."""

    # connections

    def check(self) -> None:
        """Raise `ConfigurationError` for what can be told without a connection."""

    def engine(self, size: int, overflow: int) -> Engine:
        """Return new connections: `size` are kept, `overflow` may be opened on top of them."""

    def turn(self, writes: bool) -> AbstractContextManager[None]:
        """Let the block use connections: it has answers within `stage_timeout`, or fails.

        Raises `StorageUnavailable` if this thread gets no turn in that time.
        """

    def go_on(self) -> None:
        """Within a turn that is large, and comes along: let its time begin anew."""

    def take_time(self) -> None:
        """Within a turn that migrates tables: give nothing up that takes long."""

    def after_fork(self) -> None:
        """Own no connection of the parent, and no lock."""

    def close(self) -> None:
        """Close the connections that are not in use."""

    # within a transaction

    def clock(self) -> float | None:
        """Return the time of the database, if this process knows it."""

    def numbers(self, connection: Connection, count: int) -> list[int]:
        """Return so many new numbers, each larger than all before."""

    def lock_schema(self, connection: Connection) -> None:
        """Be the only one to make or migrate tables, until the transaction ends."""

    def lock_keys(self, connection: Connection, keys: Iterable[str]) -> None:
        """Be the only one to admit or end tasks of these keys, until the transaction ends."""

    def try_keys(self, connection: Connection, keys: Iterable[str]) -> bool:
        """The same without waiting; return whether it was possible."""

    # between processes

    def announce(self, connection: Connection) -> None:
        """Let `listen` ring in other processes."""

    def listen(self, engine: Engine, alarm: Alarm, poll: float) -> None:
        """Ring when other processes have changed something, until stopped.

        And after `poll` seconds without. Who hears too much looks once too often.
        """


def dialect_of(settings: QueueSettings) -> Dialect:
    """Return the dialect of the settings' url; raises `ConfigurationError`."""
    scheme, _, rest = settings.url.partition("://")
    if scheme in ("sqlite", "sqlite+pysqlite"):
        return SQLite(settings, *sqlite_file(settings))
    if scheme in ("postgresql", "postgresql+psycopg") and rest:
        server_url(settings)
        return PostgreSQL(settings, make_url(settings.url))
    if scheme == "postgres" or scheme.startswith("postgresql+"):
        raise mistake(
            settings, f"a url of PostgreSQL begins with postgresql://, not with {scheme}://"
        )
    raise mistake(settings, "type sql needs a url, sqlite:///… or postgresql://…")
