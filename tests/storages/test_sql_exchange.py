"""Many ends and many claims at once, on databases whose answers are lost, and in a crowd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.sql import completions
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.task import Lease
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import at_once
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import near
from collective.taskqueue.testing.contract.base import new_task
from load import terminate_sessions
from load import until
from typing import Any
import contextlib
import multiprocessing
import os
import pytest
import random
import signal
import threading
import time


@pytest.fixture
def make_storage(url: str) -> Iterator[Callable[..., SqlStorage]]:
    made: list[SqlStorage] = []

    def make(**settings: Any) -> SqlStorage:
        settings = {"type": "sql", "url": url, "stage_timeout": 20.0, **settings}
        made.append(SqlStorage(QueueSettings(**settings)))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


#: A file has no connection that breaks.
ON_A_SERVER = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


def ends_of(leases: list[Lease], state: State = SUCCEEDED, **fields: Any) -> Any:
    return [(lease, completed(lease, state, **fields)) for lease in leases]


class Fault:
    """The next transaction of a storage fails: before it is committed, or its answer is lost."""

    def __init__(self, storage: SqlStorage, committed: bool) -> None:
        self._run = storage._session._run
        self._committed = committed
        self.armed = True
        storage._session._run = self.run

    def run(self, engine: Any, work: Callable[..., Any], writes: bool) -> Any:
        if not (self.armed and writes):
            return self._run(engine, work, writes)
        self.armed = False
        if self._committed:
            self._run(engine, work, writes)
            raise StorageUnavailable("its answer was lost")

        def failing(connection: Any) -> Any:
            work(connection)
            raise StorageUnavailable("it was not committed")

        if engine.get_execution_options().get("alone"):
            raise StorageUnavailable("it was not sent")
        return self._run(engine, failing, writes)


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("state", [SUCCEEDED, SCHEDULED])
def test_asked_again_it_tells_what_was_done(make_storage, committed, state):
    """The same ends and the same leases, whether they had been there before or not."""
    storage = make_storage()
    tasks = add(storage, *(new_task(key=key) for key in (None, "a", "b", None, None)))
    leases = storage.reserve("consumer", limit=3, timeout=0, lease=LONG)
    ends = ends_of(leases, state, due=time.time() + 1000)
    fault = Fault(storage, committed)
    with pytest.raises(StorageUnavailable):
        storage.complete_and_reserve(ends, "consumer", 1, LONG)
    assert not fault.armed
    states, [following] = storage.complete_and_reserve(ends, "consumer", 1, LONG)
    assert states == [state] * 3
    assert following.task == tasks[3]
    assert storage.admin.counts()[RUNNING] == 1
    assert all(len(storage.admin.get(task.id).attempts) == 1 for task in tasks[:3])
    # What has ended and was answered is stale from then on.
    assert storage.complete_and_reserve(ends, "consumer", 0, LONG) == ([None] * 3, [])
    assert storage.complete(following, completed(following)) == SUCCEEDED


@pytest.fixture
def late(url: str) -> Iterator[tuple[ManualClock, SqlStorage, SqlStorage]]:
    """A clock, and two processes that go by it."""
    clock = ManualClock()
    settings = QueueSettings(type="sql", url=url, stage_timeout=20.0)
    storages = [SqlStorage(settings, clock) for _ in range(2)]
    yield clock, *storages
    for storage in storages:
        storage.close()


def test_what_is_asked_for_again_late_has_a_lease_anew(late):
    """The lease was about to expire: its holder did not know of it and could not renew it."""
    clock, storage, _ = late
    add(storage, new_task(), new_task())
    Fault(storage, committed=True)
    with pytest.raises(StorageUnavailable):
        storage.reserve("consumer", timeout=0, lease=30.0)
    clock.advance(25)
    [lease] = storage.reserve("consumer", timeout=0, lease=30.0)
    assert (lease.attempt, lease.expires) == (1, near(clock() + 30))
    clock.advance(20)
    assert storage.admin.recover() == []
    ends = [(lease, completed(lease))]
    Fault(storage, committed=True)
    with pytest.raises(StorageUnavailable):
        storage.complete_and_reserve(ends, "consumer", 1, 30.0)
    clock.advance(25)
    states, [lease] = storage.complete_and_reserve(ends, "consumer", 1, 30.0)
    assert (states, lease.attempt, lease.expires) == ([SUCCEEDED], 1, near(clock() + 30))
    clock.advance(20)
    assert storage.admin.recover() == []
    assert storage.complete(lease, completed(lease)) == SUCCEEDED


def test_what_is_asked_for_again_too_late_belongs_to_another_process(late):
    """The other process keeps its lease; the task is not handed out under the old token."""
    clock, storage, other = late
    [task] = add(storage, new_task())
    Fault(storage, committed=True)
    with pytest.raises(StorageUnavailable):
        storage.reserve("consumer", timeout=0, lease=30.0)
    clock.advance(31)
    [theirs] = other.reserve("consumer", timeout=0, lease=30.0)
    assert (theirs.task.id, theirs.attempt) == (task.id, 2)
    assert storage.reserve("consumer", timeout=0, lease=1000.0) == []
    clock.advance(20)
    assert other.admin.recover() == []
    clock.advance(11)
    assert other.admin.recover() == [task.id]
    assert storage.reserve("consumer", timeout=0)[0].attempt == 3


@ON_A_SERVER
def test_the_connection_breaks_after_it_was_done(make_storage, monkeypatch):
    """The storage asks again by itself, and is told what was done."""
    storage = make_storage()
    tasks = add(storage, *(new_task() for _ in range(4)))
    leases = storage.reserve("consumer", limit=2, timeout=0, lease=LONG)
    execute = storage._session.execute
    lost = [1]

    def lossy(connection: Any, statement: Any, **values: Any) -> Any:
        result = execute(connection, statement, **values)
        if statement is storage._statements.complete_and_reserve and lost:
            lost.pop()
            connection.connection.driver_connection.close()
            connection.exec_driver_sql("SELECT 1")
        return result

    monkeypatch.setattr(storage._session, "execute", lossy)
    states, following = storage.complete_and_reserve(ends_of(leases), "consumer", 2, LONG)
    assert not lost
    assert states == [SUCCEEDED] * 2
    assert ids([lease.task for lease in following]) == ids(tasks[2:])
    assert storage.admin.counts() == {**storage.admin.counts(), RUNNING: 2, SUCCEEDED: 2}


def test_one_that_is_cancelled_and_one_that_is_stale_among_many(make_storage):
    """Each is told how it ended, and the others are not held up."""
    storage = make_storage()
    tasks = add(storage, *(new_task() for _ in range(6)))
    leases = storage.reserve("consumer", limit=5, timeout=0, lease=LONG)
    storage.admin.cancel(tasks[1].id)
    storage.complete(leases[3], completed(leases[3]))
    states, [following] = storage.complete_and_reserve(ends_of(leases), "consumer", 5, LONG)
    assert states == [SUCCEEDED, "cancelled", SUCCEEDED, None, SUCCEEDED]
    assert following.task == tasks[5]
    assert storage.admin.throughput() == {"succeeded": 4, "failed": 0, "cancelled": 1}


def test_a_crowd_of_keys(make_storage):
    """Ends that wait again, claims, recoveries and arrivals of the same keys: none waits for
    another in a circle, and each task runs as often as it should."""
    storage = make_storage(max_finished=100_000, stage_timeout=60.0)
    keys = ["a", "b", None, "c"]
    rounds = 12

    def arrive(mode: str) -> None:
        for n in range(rounds):
            tasks = [new_task(key=keys[(n + m) % 4], on_conflict=mode) for m in range(4)]
            add(storage, *tasks)

    def consume(name: str) -> None:
        leases: list[Lease] = []
        for n in range(rounds):
            half = len(leases) // 2
            storage.release(leases[:half])
            due = time.time() - 1
            ends = ends_of(leases[half:], SCHEDULED if n % 2 else SUCCEEDED, due=due)
            _, leases = storage.complete_and_reserve(ends, name, 4, LONG)
            storage.admin.recover()
        storage.release(leases)

    calls: list[Callable[[], Any]] = [
        lambda mode=mode: arrive(mode) for mode in ("skip", "replace", "after_running")
    ]
    calls += [lambda name=name: consume(name) for name in ("one", "two", "three")]
    assert at_once(calls) == [None] * len(calls)
    assert storage.admin.counts()[RUNNING] == 0
    while leases := storage.reserve("last", limit=100, timeout=0, lease=LONG):
        states, more = storage.complete_and_reserve(ends_of(leases), "last", 0, LONG)
        assert states == [SUCCEEDED] * len(leases)
        assert more == []
    assert storage.admin.counts()[RUNNING] == storage.admin.counts()["queued"] == 0


#: Tasks that processes share.
LOAD = 400

#: Processes that are killed, one after the other.
KILLS = 3


def _work(url: str, name: str) -> None:
    storage = SqlStorage(QueueSettings(type="sql", url=url, max_finished=10_000))
    ends: Any = []
    while True:
        try:
            _, leases = storage.complete_and_reserve(ends, name, 7, 1.0)
        except StorageUnavailable:
            time.sleep(0.01)
            continue
        ends = ends_of(leases)
        if not leases:
            time.sleep(0.01)


def test_processes_that_are_killed(make_storage, url):
    """Two at a time, each killed in the midst of something: no task is lost or stays running."""
    storage = make_storage(max_finished=10_000, max_deliveries=1000)
    context = multiprocessing.get_context("spawn")
    rng = random.Random(6)
    tasks: list[Task] = []
    workers: list[Any] = []

    def hire(number: int) -> None:
        name = f"worker-{number}"
        workers.append(context.Process(target=_work, args=(url, name)))
        workers[-1].start()

    try:
        hire(0)
        for number in range(1, 1 + KILLS):
            hire(number)
            tasks += add(storage, *(new_task() for _ in range(LOAD // KILLS)))
            _until_done(storage, len(tasks) - rng.randrange(30, 120))
            victim = workers.pop(rng.randrange(2))
            os.kill(victim.pid, signal.SIGKILL)
            victim.join(BOUND)
        _until_done(storage, len(tasks))
    finally:
        for worker in workers:
            worker.kill()
            worker.join(BOUND)
    assert all(len(storage.admin.get(task.id).attempts) <= 1 + KILLS for task in tasks)


def _until_done(storage: SqlStorage, number: int) -> None:
    deadline = time.monotonic() + BOUND
    while storage.admin.counts()[SUCCEEDED] < number:
        assert time.monotonic() < deadline, storage.admin.counts()
        time.sleep(0.002)


@ON_A_SERVER
def test_connections_die_under_exchanges(make_storage, postgres_server):
    """Each task runs once, whenever the server drops a connection."""
    storage = make_storage(max_finished=10_000)
    tasks = add(storage, *(new_task() for _ in range(4 * LOAD)))
    ran: Counter[str] = Counter()
    done = threading.Event()

    def consume(name: str) -> None:
        ends: Any = []
        while not done.is_set():
            with contextlib.suppress(StorageUnavailable):
                _, leases = storage.complete_and_reserve(ends, name, 5, LONG)
                ran.update(lease.task.id for lease in leases)
                ends = ends_of(leases)

    consumers = [aside(lambda name=name: consume(name)) for name in ("one", "two")]
    try:
        terminate_sessions(postgres_server, "application_name = 'collective.taskqueue'", 100)
        until(lambda: storage.admin.counts()[SUCCEEDED] == len(tasks))
    finally:
        done.set()
    for consumer in consumers:
        consumer.result(BOUND)
    assert ran == Counter(ids(tasks))
    assert storage.admin.counts()[SUCCEEDED] == len(tasks)


@pytest.mark.parametrize("what", ["too many", "too old"])
def test_more_has_finished_than_is_forgotten_at_once(make_storage, monkeypatch, what):
    """Nothing grows for ever: the next look follows with the next end."""
    monkeypatch.setattr(transitions, "PORTION", 2)
    monkeypatch.setattr(transitions, "LINGER", 0.0)
    monkeypatch.setattr(completions, "LINGER", 0.0)
    # Of hundred it is five that are not worth a look.
    settings = {"max_finished": 100} if what == "too many" else {"keep_succeeded": 0.0}
    storage = make_storage(**settings)
    for _ in range(8):
        add(storage, *(new_task() for _ in range(20)))
        storage.complete_and_reserve(
            ends_of(storage.reserve("consumer", limit=20, timeout=0)), "consumer", 0
        )
    for _ in range(60):
        add(storage, new_task())
        storage.complete_and_reserve(ends_of(storage.reserve("consumer", timeout=0)), "consumer", 0)
    assert storage.admin.counts()[SUCCEEDED] <= 110
