"""A load on a SQL queue, during which tests do to its database what they like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from services import PostgresServer
from typing import Any
import psycopg
import random
import threading
import time


#: Seconds after an outage within which every consumer has taken a task again: a promise.
BACK = 5.0

#: Most tasks that wait while the load is on.
BACKLOG = 50

#: Seconds that a process may wait for its database.
TIMEOUT = 1.0


class Load:
    """Threads that add tasks, and consumers, each with connections of its own.

    `names` are those of the consumers; `ran` counts how often each task was run.
    """

    def __init__(
        self,
        url: str,
        names: Sequence[str] = ("one", "two"),
        adders: int = 1,
        timeout: float = TIMEOUT,
    ) -> None:
        settings = QueueSettings(type="sql", url=url, max_finished=100_000, stage_timeout=timeout)
        self._url = url
        self.names = names
        self.storages = {name: SqlStorage(settings) for name in names}
        self._sources = [SqlStorage(settings) for _ in range(adders)]
        self.ran: Counter[str] = Counter()
        self.added: set[str] = set()
        #: When each consumer began its last task.
        self._last = dict.fromkeys(names, 0.0)
        self._done = threading.Event()
        # Their leases outlast the test: a lost task stays running, and is missed.
        self._consumers = [
            Consumer(storage, self._perform, ServerSettings(name=name, lease=1000.0))
            for name, storage in self.storages.items()
        ]

    def start(self) -> None:
        """Begin to add and to consume."""
        # The tables may take longer than a call later.
        first = SqlStorage(QueueSettings(type="sql", url=self._url, stage_timeout=BOUND))
        first.admin.check()
        first.close()
        self._adding = [aside(lambda source=source: self._add(source)) for source in self._sources]
        for consumer in self._consumers:
            consumer.start()

    def stop(self) -> None:
        """Add nothing more, and wait until all that was added has succeeded."""
        self._done.set()
        try:
            for adding in self._adding:
                adding.result(BOUND)
            until(lambda: self._sources[0].admin.counts()[SUCCEEDED] == len(self.added))
        finally:
            for consumer in self._consumers:
                consumer.stop(grace=BOUND)
            for storage in (*self.storages.values(), *self._sources):
                storage.close()

    def await_return(self, seconds: float = BACK) -> None:
        """Wait until each consumer has begun a task; called when an outage is over."""
        over = time.monotonic()
        until(lambda: min(self._last.values()) > over, seconds)

    def assert_once(self) -> None:
        """Nothing is lost, and nothing was run twice; called after `stop`."""
        assert set(self.ran) == self.added
        assert max(self.ran.values()) == 1

    def _perform(self, attempt: Any) -> Outcome:
        self.ran[attempt.task.id] += 1
        self._last[attempt.lease.consumer] = time.monotonic()
        return Outcome(200)

    def _add(self, storage: SqlStorage) -> None:
        while not self._done.is_set():
            if len(self.added) - len(self.ran) > BACKLOG:
                self._done.wait(0.01)
                continue
            task = new_task()
            persist(lambda task=task: storage.stage(task.id, [task]))
            persist(lambda task=task: storage.promote(task.id, None, [task]))
            self.added.add(task.id)


def until(condition: Callable[[], bool], seconds: float = BOUND) -> None:
    """Wait until the condition holds; a database that is away does not hold it."""
    deadline = time.monotonic() + seconds
    while not _holds(condition):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def persist(call: Callable[[], Any]) -> None:
    """Make the call until the storage is there."""
    deadline = time.monotonic() + BOUND
    while True:
        try:
            call()
            return
        except StorageUnavailable:
            assert time.monotonic() < deadline, "the storage does not come back"
            time.sleep(0.01)


def terminate_sessions(server: PostgresServer, which: str, times: int) -> None:
    """Let the server end a random session of those, again and again."""
    rng = random.Random(1)
    found = f"SELECT pid FROM pg_stat_activity WHERE {which}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for _ in range(times):
            pids = [pid for (pid,) in connection.execute(found)]
            if pids:
                connection.execute("SELECT pg_terminate_backend(%s)", [rng.choice(pids)])
            time.sleep(0.02)


def wake_too_late(frozen: SqlStorage, storage: SqlStorage, monkeypatch: Any) -> None:
    """Freeze a batch call within its transaction: the task runs elsewhere, and nothing changes."""
    task = add_one(storage)
    [lease] = frozen.reserve("frozen", timeout=0, lease=0.5)
    execute = frozen._session.execute
    asleep, awake = threading.Event(), threading.Event()

    def stall(connection: Any, statement: Any, **values: Any) -> Any:
        result = execute(connection, statement, **values)
        if statement is frozen._statements.complete_many and not asleep.is_set():
            asleep.set()
            assert awake.wait(BOUND)
        return result

    monkeypatch.setattr(frozen._session, "execute", stall)
    ends = [(lease, completed(lease, "scheduled", due=1.0))]
    late = aside(lambda: frozen.complete_and_reserve(ends, "frozen"))
    assert asleep.wait(BOUND)
    [again] = storage.reserve("consumer", timeout=BOUND)
    assert (again.task.id, again.attempt) == (task.id, 2)
    awake.set()
    assert late.result(BOUND) == ([None], [])
    assert storage.complete(again, completed(again)) == SUCCEEDED


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except StorageUnavailable:
        return False
