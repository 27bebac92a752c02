"""The contract suite on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.schema import METADATA
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract import StorageContract
from pathlib import Path
from services import PostgresServer
from typing import Any
import pytest
import sqlalchemy


class OnSql(StorageContract):
    """See `ITaskStorage`; every sentence of it."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def make_storage(self, clock: ManualClock, url: str) -> Iterator[Callable[..., Any]]:
        made: list[SqlStorage] = []

        def make(**settings: Any) -> SqlStorage:
            # Many threads of a slow machine take turns: no test waits for a dead server here.
            settings = {"url": url, "type": "sql", "stage_timeout": 20.0, **settings}
            made.append(SqlStorage(QueueSettings(**settings), clock))
            return made[-1]

        yield make
        for storage in made:
            storage.close()


class TestSQLite(OnSql):
    """In a file of its own for each test."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/queue.sqlite"


class TestPostgreSQL(OnSql):
    """In one database, emptied for each test."""

    @pytest.fixture
    def url(self, postgres_server: PostgresServer) -> str:
        url = postgres_server.url()
        engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            METADATA.drop_all(connection)
        engine.dispose()
        return url
