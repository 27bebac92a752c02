"""Connections to a PostgreSQL that is on another machine, as far as the system knows."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.dialects import driver
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from load import until
from services import PostgresServer
from typing import Any
import contextlib
import os
import psycopg
import pytest
import socket


@pytest.fixture(scope="module")
def tcp_server() -> Iterator[PostgresServer]:
    server = PostgresServer(tcp=True).start()
    yield server
    server.remove()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", (30, 10, 3)),
        ("?keepalives_idle=7&keepalives_count=4", (7, 10, 4)),
        ("?keepalives=0", None),
    ],
)
def test_a_firewall_does_not_forget_idle_connections(tcp_server, monkeypatch, query, expected):
    """Neither those of the pool nor the one that listens; the url has the last word."""
    found: list[Any] = []
    connect = driver.connect

    def look(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        found.append(_keepalives(connection))
        return connection

    monkeypatch.setattr(driver, "connect", look)
    settings = QueueSettings(type="sql", url=tcp_server.tcp_url() + query)
    with contextlib.closing(SqlStorage(settings)) as storage:
        blocked = aside(lambda: storage.reserve("consumer", timeout=BOUND))
        until(lambda: _listens(tcp_server))
        add_one(storage)
        assert blocked.result(BOUND)
    until(lambda: not _listens(tcp_server))
    assert len(found) > 1
    assert set(found) == {expected}


def _listens(server: PostgresServer) -> bool:
    with psycopg.connect(server.tcp_url()) as connection:
        query = "SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
        return connection.execute(query).rowcount > 0


def _keepalives(connection: psycopg.Connection[Any]) -> tuple[int, int, int] | None:
    """Seconds of silence, seconds between two questions, and how many may stay unanswered."""
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        assert sock.family == socket.AF_INET
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return None
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        return idle, interval, count
