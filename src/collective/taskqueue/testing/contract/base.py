"""Helpers of the contract tests: a clock, tasks, checks, and concurrent calls."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Lease
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4
import pytest
import threading


#: Seconds after which a test gives up a wait that should be over long before.
BOUND = 30.0

#: A call that has not returned after these seconds is blocked; other calls return sooner.
SILENCE = 0.2

#: Seconds of a lease that does not expire during a test.
LONG = 100_000.0

#: Threads of a race.
THREADS = 8


class ManualClock:
    """A clock that stands still until the test advances it."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self._now = now
        self._passed = 0.0

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now += seconds
        self._passed += seconds

    def step(self, seconds: float) -> None:
        """Set the clock forward by `seconds`, as NTP or an admin does; no time passes."""
        self._now += seconds

    def monotonic(self) -> float:
        """Return the seconds that have passed, not counting steps of the clock."""
        return self._passed


class Base:
    """Fixtures, and the check that follows every test."""

    @pytest.fixture
    def storage(self, make_storage: Callable[..., Any]) -> Iterator[Any]:
        """Yield an empty queue with default settings; check afterwards that it is consistent."""
        storage = make_storage()
        yield storage
        assert_consistent(storage)


def new_task(**fields: Any) -> Task:
    """Return a task with an id of its own."""
    return Task(**{"id": str(uuid4()), "queue": "default", "url": "/view", **fields})


def add(storage: Any, *tasks: Task) -> tuple[Task, ...]:
    """Commit the tasks in one transaction."""
    batch = str(uuid4())
    storage.stage(batch, tasks)
    storage.promote(batch)
    return tasks


def add_one(storage: Any, **fields: Any) -> Task:
    """Commit one new task."""
    return add(storage, new_task(**fields))[0]


def take(storage: Any, **arguments: Any) -> Lease:
    """Reserve the next task; fails if none is due."""
    lease: Lease
    (lease,) = storage.reserve("consumer", timeout=0, **{"lease": LONG, **arguments})
    return lease


def complete_and_reserve(
    storage: Any, ends: Sequence[tuple[Lease, Transition]], limit: int = 1
) -> tuple[list[State | None], list[Lease]]:
    """Complete attempts and reserve the next tasks, in one call if the storage has it."""
    if IRemoteStorage.providedBy(storage):
        found: tuple[list[State | None], list[Lease]] = storage.complete_and_reserve(
            ends, "consumer", limit, LONG
        )
        return found
    states = [storage.complete(lease, transition) for lease, transition in ends]
    leases: list[Lease] = []
    while len(leases) < limit:
        more = storage.reserve("consumer", timeout=0, lease=LONG)
        suspect = any(lease.attempt - lease.counted > 1 for lease in more)
        if suspect and leases:
            storage.release(more)
        else:
            leases += more
        if suspect or not more:
            break
    return states, leases


def finish_and_take(
    storage: Any, lease: Lease, transition: Transition
) -> tuple[State | None, list[Lease]]:
    """Complete one attempt and reserve the next task."""
    (state,), leases = complete_and_reserve(storage, [(lease, transition)])
    return state, leases


def take_all(storage: Any) -> list[str]:
    """Reserve all tasks that may run now, and return their ids in order."""
    leases = storage.reserve("consumer", limit=1000, timeout=0, lease=LONG)
    return [lease.task.id for lease in leases]


def ids(items: Any) -> list[str]:
    """Return the ids of tasks or of their statuses."""
    return [item.id for item in items]


def completed(lease: Lease, state: State = SUCCEEDED, **fields: Any) -> Transition:
    """Return a transition that the policy could choose after the attempt."""
    status = 200 if state == SUCCEEDED else 503
    reason = fields.get("reason", "" if state == SUCCEEDED else "status 503")
    attempt = AttemptRecord(lease.attempt, lease.consumer, 1000.0, 2.5, status, reason)
    return Transition(**{"state": state, "attempt": attempt, "reason": reason, **fields})


def bring_to(storage: Any, clock: Any, state: State, **fields: Any) -> Task:
    """Commit a task and bring it into a state; no other task may be waiting."""
    if state == SCHEDULED:
        return add_one(storage, due=clock() + 1000, **fields)
    task = add_one(storage, **fields)
    if state == CANCELLED:
        storage.admin.cancel(task.id)
    elif state != QUEUED:
        lease = take(storage)
        assert lease.task.id == task.id
        if state in FINISHED:
            storage.complete(lease, completed(lease, state))
    assert storage.admin.get(task.id).state == state
    return task


def lose(storage: Any, clock: Any) -> Lease:
    """Reserve the next task and let its lease expire."""
    lease = take(storage, lease=30.0)
    clock.advance(60)
    return lease


def near(when: float) -> Any:
    """Return a value equal to any time within 5 seconds: the clock may run during a test."""
    return pytest.approx(when, abs=5.0)


def everything(storage: Any) -> list[TaskStatus]:
    """Return the brief status of every known task."""
    found: list[TaskStatus] = storage.admin.tasks(size=1_000_000)
    return found


def whole(storage: Any) -> list[TaskStatus]:
    """Return the full status of every known task."""
    return [storage.admin.get(status.id) for status in everything(storage)]


def brief_of(status: TaskStatus) -> TaskStatus:
    """Return a status as lists show it, without large fields."""
    nothing: dict[str, Any] = {"attempts": (), "headers": (), "body": b"", "truncated": False}
    return replace(status, task=replace(status.task, payload=b""), **nothing)


def assert_consistent(storage: Any) -> None:
    """Check that all ways to read a storage agree, while no other thread uses it."""
    known = everything(storage)
    _assert_consistent_lists(storage, None, known)
    users = {status.task.user for status in known if status.task.user is not None}
    for user in users:
        mine = [status for status in known if status.task.user == user]
        _assert_consistent_lists(storage, user, mine)
    for name in {user.id for user in users}:
        mine = [i for i in known if i.task.user is not None and i.task.user.id == name]
        _assert_consistent_lists(storage, name, mine)
    assert storage.admin.counts()["queued"] == storage.admin.counts()[QUEUED]
    for status in known:
        assert storage.admin.get(status.id, brief=True) == status
        assert brief_of(storage.admin.get(status.id)) == status
        assert status.changes[-1][0] == status.state


def _assert_consistent_lists(
    storage: Any, user: str | Identity | None, known: list[TaskStatus]
) -> None:
    counts = storage.admin.counts(user)
    assert set(counts) == set(STATES)
    assert storage.admin.tasks(user=user, size=1_000_000) == known
    for state in STATES:
        listed = storage.admin.tasks(state, user, size=1_000_000)
        assert counts[state] == len(listed)
        assert sorted(ids(listed)) == sorted(i.id for i in known if i.state == state)
    assert sum(counts.values()) == len(known) == len(set(ids(known)))


@contextmanager
def unchanged(storage: Any) -> Iterator[None]:
    """Check that the block changes nothing that the storage shows."""
    before = _picture(storage)
    yield
    assert _picture(storage) == before


@contextmanager
def refused(storage: Any, error: type[Exception], word: str) -> Iterator[None]:
    """Check that the block raises the error with `word` in its message, and changes nothing."""
    with unchanged(storage), pytest.raises(error, match=word):
        yield


def _picture(storage: Any) -> Any:
    return (
        storage.admin.counts(),
        whole(storage),
        ids(storage.admin.in_doubt()),
        storage.admin.paused(),
    )


def aside(call: Callable[[], Any]) -> Future[Any]:
    """Start the call in its own thread; `result(BOUND)` of the future waits for its result."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


def is_blocked(future: Future[Any]) -> bool:
    """Return whether the call has not returned after `SILENCE` seconds."""
    try:
        future.exception(SILENCE)
    except NotYet:
        return True
    return False


def at_once(calls: list[Callable[[], Any]], bound: float = BOUND) -> list[Any]:
    """Make all calls at the same moment; return the result or the exception of each."""
    barrier = threading.Barrier(len(calls))

    def started(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            barrier.wait(BOUND)
            return call()

        return run

    futures = [aside(started(call)) for call in calls]
    return [future.exception(bound) or future.result() for future in futures]
