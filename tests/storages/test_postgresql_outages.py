"""Outages of PostgreSQL under load: nothing is lost, and the consumers come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import Consumer
from collective.taskqueue.contract.base import aside
from collective.taskqueue.contract.base import BOUND
from collective.taskqueue.contract.base import new_task
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages import _dialects
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SUCCEEDED
from contextlib import ExitStack
from services import PostgresServer
from typing import Any
import psycopg
import pytest
import random
import signal
import threading
import time


#: Seconds after an outage within which every consumer has taken a task again: a promise.
BACK = 5.0

#: Most tasks that wait while the load is on.
BACKLOG = 50

#: Seconds that a process may wait for its database, and that one has no connection to spare.
TIMEOUT, EXHAUSTED = 1.0, 1.5

NAMES = ("one", "two")


class Load:
    """One thread that adds tasks and two consumers, each with connections of its own."""

    def __init__(self, url: str) -> None:
        settings = QueueSettings(type="sql", url=url, max_finished=100_000, stage_timeout=TIMEOUT)
        self.storages = {name: SqlStorage(settings) for name in (*NAMES, "adds")}
        self.ran: Counter[str] = Counter()
        self.added: set[str] = set()
        #: When each consumer began its last task.
        self._last = dict.fromkeys(NAMES, 0.0)
        self._done = threading.Event()
        # Their leases outlast the test: whatever is lost stays running, and is missed.
        self._consumers = [
            Consumer(self.storages[name], self._perform, ServerSettings(name=name, lease=1000.0))
            for name in NAMES
        ]

    def start(self) -> None:
        self._adding = aside(self._add)
        for consumer in self._consumers:
            consumer.start()

    def stop(self) -> None:
        self._done.set()
        try:
            self._adding.result(BOUND)
            _until(lambda: self.storages["adds"].counts()[SUCCEEDED] == len(self.added))
        finally:
            for consumer in self._consumers:
                consumer.stop(grace=BOUND)
            for storage in self.storages.values():
                storage.close()

    def await_return(self) -> None:
        """Called when an outage is over."""
        over = time.monotonic()
        _until(lambda: min(self._last.values()) > over, BACK)

    def _perform(self, attempt: Any) -> Outcome:
        self.ran[attempt.task.id] += 1
        self._last[attempt.lease.consumer] = time.monotonic()
        return Outcome(200)

    def _add(self) -> None:
        storage = self.storages["adds"]
        while not self._done.is_set():
            if len(self.added) - len(self.ran) > BACKLOG:
                self._done.wait(0.01)
                continue
            task = new_task()
            _persist(lambda task=task: storage.stage(task.id, [task]))
            _persist(lambda task=task: storage.promote(task.id, None, [task]))
            self.added.add(task.id)


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
    rng = random.Random(1)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for _ in range(30):
            found = "FROM pg_stat_activity WHERE application_name = 'collective.taskqueue'"
            pids = [pid for (pid,) in connection.execute(f"SELECT pid {found}")]
            if pids:
                connection.execute("SELECT pg_terminate_backend(%s)", [rng.choice(pids)])
            time.sleep(0.02)


def exhaust_pools(server: PostgresServer, load: Load) -> None:
    with ExitStack() as held:
        for name in NAMES:
            for _ in range(_dialects.POOL + _dialects.OVERFLOW):
                held.enter_context(load.storages[name]._session.alone.connect())
        time.sleep(EXHAUSTED)


def test_outages_under_load(server, monkeypatch):
    """Nothing is lost, hardly anything runs twice, and soon after each one all go on."""
    # So few that somebody else can have them all.
    monkeypatch.setattr(_dialects, "POOL", 2)
    monkeypatch.setattr(_dialects, "OVERFLOW", 2)
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


def _persist(call: Callable[[], Any]) -> None:
    deadline = time.monotonic() + BOUND
    while True:
        try:
            call()
            return
        except StorageUnavailable:
            assert time.monotonic() < deadline, "the storage does not come back"
            time.sleep(0.01)


def _until(condition: Callable[[], bool], seconds: float = BOUND) -> None:
    deadline = time.monotonic() + seconds
    while not _holds(condition):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except StorageUnavailable:
        return False
