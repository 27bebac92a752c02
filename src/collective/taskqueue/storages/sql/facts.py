"""What the database of a SQL queue is like."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.facts import Facts
from collective.taskqueue.storages.secrets import shown
from collective.taskqueue.storages.sql import migrations
from collective.taskqueue.storages.sql.dialects.dialect import Dialect
from collective.taskqueue.storages.sql.dialects.dialect import dialect_of
from collective.taskqueue.storages.sql.schema import SCHEMA
from collective.taskqueue.storages.sql.session import unavailable
from collective.taskqueue.storages.urls import sqlite_file
from contextlib import closing
from pathlib import Path
from sqlalchemy import Connection
from sqlalchemy import inspect
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
import sqlite3
import time


def facts(settings: QueueSettings) -> Facts:
    """Ask the database, without making or migrating its tables.

    Raises `StorageUnavailable` and `ConfigurationError`.
    """
    dialect = dialect_of(settings)
    dialect.check()
    if dialect.in_process and not Path(sqlite_file(settings)[0]).exists():
        # To open the file would make it, maybe as another user than that of Zope.
        return _facts(f"SQLite {sqlite3.sqlite_version}", 0.0, None)
    with closing(dialect), dialect.turn(False):
        engine = dialect.engine(1, 0).execution_options(alone=True, reads=True)
        try:
            with engine.begin() as connection:
                return _facts(*_product(dialect, connection), _version(connection))
        except (DBAPIError, PoolTimeout) as exc:
            raise unavailable(exc) from shown(exc)


def _facts(product: str, skew: float, version: int | None) -> Facts:
    known = len(migrations.STEPS)
    notes = "no tables" if version is None else f"tables of version {version}"
    return Facts(product=product, skew=skew, notes=(notes,), tables=version, tables_known=known)


def _product(dialect: Dialect, connection: Connection) -> tuple[str, float]:
    if dialect.in_process:
        return f"SQLite {sqlite3.sqlite_version}", 0.0
    version = str(connection.scalar(text("SHOW server_version"))).split()[0]
    before = time.time()
    now = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)
    return f"PostgreSQL {version}", now - (before + time.time()) / 2


def _version(connection: Connection) -> int | None:
    if not inspect(connection).has_table(SCHEMA.name):
        return None
    found = connection.scalar(select(SCHEMA.c.version))
    # A damaged version is repaired by a migration: each step checks what exists already.
    return found if type(found) is int and found >= 0 else 0
