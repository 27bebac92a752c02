"""Outages of PostgreSQL under load: nothing is lost, and the consumers come back."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.storages.sql import session
from contextlib import ExitStack
from load import Load
from load import terminate_sessions
from services import PostgresServer
import pytest
import signal
import time


#: Seconds that a process has no connection to spare.
EXHAUSTED = 1.5


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    server = PostgresServer().start()
    yield server
    server.remove()


def restart(server: PostgresServer, load: Load) -> None:
    server.stop(signal.SIGINT)
    server.start()


def crash(server: PostgresServer, load: Load) -> None:
    server.stop(signal.SIGQUIT)
    server.start()


def terminate_some(server: PostgresServer, load: Load) -> None:
    terminate_sessions(server, "application_name = 'collective.taskqueue'", 30)


def exhaust_pools(server: PostgresServer, load: Load) -> None:
    with ExitStack() as held:
        for storage in load.storages.values():
            for _ in range(session.POOL + session.OVERFLOW):
                held.enter_context(storage._session.alone.connect())
        time.sleep(EXHAUSTED)


def test_outages_under_load(server, monkeypatch):
    """Nothing is lost, hardly anything runs twice, and soon after each one all go on."""
    # So few connections that other sessions can have them all.
    monkeypatch.setattr(session, "POOL", 2)
    monkeypatch.setattr(session, "OVERFLOW", 2)
    load = Load(server.url())
    load.start()
    try:
        for outage in (restart, terminate_some, crash, exhaust_pools, terminate_some):
            load.await_return()
            outage(server, load)
            load.await_return()
    finally:
        load.stop()
    assert set(load.ran) == load.added
    # The server that is killed takes the claims of its last moment with it.
    assert max(load.ran.values()) <= 2
    assert sum(load.ran.values()) < len(load.added) + 20
