"""Servers that all tests of storages share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from services import PostgresServer
import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer().start()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, postgres_server: PostgresServer) -> str:
    """A new file of SQLite, then a new database of PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite"
    return postgres_server.new_database()
