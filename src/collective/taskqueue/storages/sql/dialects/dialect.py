"""The protocol for all that differs between the databases, and the choice of one by the url.

`Dialect` lists all of it: the clock, numbers, locks, wake-ups. sqlite.py and postgresql.py
implement it, each for its own SQL; all other modules work the same way for both.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.secrets import remember
from collective.taskqueue.storages.sql.complete import Given
from collective.taskqueue.storages.sql.dialects.postgresql import PostgreSQL
from collective.taskqueue.storages.sql.dialects.sqlite import SQLite
from collective.taskqueue.storages.sql.wakeup import Notifier
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


class Rows(Protocol):
    """The rows of one statement for many attempts."""

    @property
    def at_once(self) -> bool:
        """Whether one statement can complete attempts and claim tasks."""

    def given(self) -> Given:
        """Return the expressions that stand for the values of each row in a statement."""

    def of(self, given: Given) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions that a task belongs to a row."""

    def packed(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the parameters that hold all rows."""


class Dialect(Protocol):
    """One database, as the queue of these settings uses it."""

    # expressions of statements

    @property
    def now(self) -> ColumnElement[float]:
        """The time of the database."""

    @property
    def number(self) -> ColumnElement[int]:
        """The next number, or the parameter `number_`: see `numbered`."""

    @property
    def relaxed(self) -> tuple[ColumnElement[Any], ...]:
        """Expressions that make a claim cheaper if it returns them as additional columns."""

    @property
    def awaited(self) -> tuple[ColumnElement[bool], ...]:
        """Conditions of a claim: the consumer still waits for its answer."""

    @property
    def insert(self) -> Callable[[Any], sqlite.Insert | postgresql.Insert]:
        """The function that returns an INSERT into a table, with ON CONFLICT."""

    # what the database is like

    @property
    def many(self) -> Rows:
        """The way to execute one statement for many rows."""

    @property
    def serial(self) -> bool:
        """Whether only one transaction at a time writes, so that no row or key has to be locked."""

    @property
    def in_process(self) -> bool:
        """Whether the database runs in this process, without a network; see `IRemoteStorage`."""

    # connections

    def check(self) -> None:
        """Raise `ConfigurationError` for mistakes that can be found without a connection."""

    def engine(self, size: int, overflow: int) -> Engine:
        """Return a new pool: `size` connections are kept, `overflow` more may be opened."""

    def turn(self, writes: bool) -> AbstractContextManager[None]:
        """Let the block use connections: it gets its answers within `stage_timeout`, or fails.

        Raises `StorageUnavailable` if this thread gets no turn in that time.
        """

    def resume(self) -> None:
        """Within a large turn that makes progress: restart its deadline."""

    def take_time(self) -> None:
        """Within a turn that migrates tables: extend its deadline, for that may take long."""

    def after_fork(self) -> None:
        """Drop the connections and the locks of the parent process."""

    def close(self) -> None:
        """Close the connections that are not in use."""

    # within a transaction

    def clock(self) -> float | None:
        """Return the time of the database if this process knows it, otherwise None."""

    def numbers(self, connection: Connection, count: int) -> list[int]:
        """Return `count` new numbers, each larger than all before."""

    def numbered(self, connection: Connection) -> dict[str, Any]:
        """Return the parameters of a statement that has `number` in it."""

    def lock_schema(self, connection: Connection) -> None:
        """Let no other transaction make or migrate tables until this one ends."""

    def lock_keys(self, connection: Connection, keys: Iterable[str]) -> None:
        """Let no other transaction promote or end tasks of these keys until this one ends."""

    def try_keys(self, connection: Connection, keys: Iterable[str]) -> bool:
        """Like `lock_keys`, without waiting; return whether all keys could be locked."""

    # between processes

    def notify(self, connection: Connection) -> None:
        """Notify other processes, so that their `listen` rings."""

    def listen(self, engine: Engine, notifier: Notifier, poll: float) -> None:
        """Ring when another process has changed something, until stopped.

        Ring also after `poll` seconds without a change. Spurious wake-ups are harmless.
        """


def dialect_of(settings: QueueSettings) -> Dialect:
    """Return the dialect for the url of the settings; raises `ConfigurationError`."""
    scheme, _, rest = settings.url.partition("://")
    if scheme in ("sqlite", "sqlite+pysqlite"):
        return SQLite(settings, *sqlite_file(settings))
    if scheme in ("postgresql", "postgresql+psycopg") and rest:
        server_url(settings)
        url = make_url(settings.url)
        if settings.password:
            remember(settings.password)
            url = url.set(password=settings.password)
        return PostgreSQL(settings, url)
    if scheme == "postgres" or scheme.startswith("postgresql+"):
        raise mistake(
            settings, f"a url of PostgreSQL begins with postgresql://, not with {scheme}://"
        )
    raise mistake(settings, "type sql needs a url, sqlite:///… or postgresql://…")
