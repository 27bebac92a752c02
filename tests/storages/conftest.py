"""Servers that all tests of storages share."""

from __future__ import annotations

from collections.abc import Iterator
from services import PostgresServer
import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer().start()
    yield server
    server.remove()
