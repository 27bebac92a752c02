"""How long records of finished tasks are kept, and within which number and size."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import assert_consistent
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import everything
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import refused
from collective.taskqueue.testing.contract.base import take
from dataclasses import replace
from typing import Any
import pytest


JANE = Identity("/acl_users", "jane")

#: A function that reads the storage and returns how many of two tasks it shows; one is given.
Look = Callable[[Any, State, Task], int]


def _get(storage: Any, state: State, task: Task) -> int:
    try:
        return 2 * bool(storage.admin.get(task.id, brief=True))
    except UnknownTask:
        return 1


def _whole(storage: Any, state: State, task: Task) -> int:
    try:
        return 2 * bool(storage.admin.get(task.id))
    except UnknownTask:
        return 1


def _all(storage: Any, state: State, task: Task) -> int:
    return len(storage.admin.tasks())


def _in_state(storage: Any, state: State, task: Task) -> int:
    return len(storage.admin.tasks(state))


def _of_user(storage: Any, state: State, task: Task) -> int:
    return len(storage.admin.tasks(None, "jane"))


def _of_person(storage: Any, state: State, task: Task) -> int:
    return len(storage.admin.tasks(state, JANE))


def _counts(storage: Any, state: State, task: Task) -> int:
    return int(storage.admin.counts()[state])


def _counts_of_person(storage: Any, state: State, task: Task) -> int:
    return int(storage.admin.counts(JANE)[state])


LOOKS: list[Look] = [_get, _whole, _all, _in_state, _of_user, _of_person, _counts]
LOOKS.append(_counts_of_person)


def _end_with(storage: Any, state: State, large: str) -> Task:
    """Bring a new task to a final state, with 10000 bytes in one of its fields."""
    data = bytes(10_000)
    task = add_one(storage, payload=data if large == "payload" else b"")
    lease = take(storage)
    transition = completed(lease, state, body=data if large == "body" else b"")
    error = "x" * 10_000 if large == "error" else ""
    transition = replace(transition, attempt=replace(transition.attempt, error=error))
    assert storage.complete(lease, transition) == state
    return task


class Keeping(Base):
    """Records of finished tasks are kept for a time, and within a number and a size in bytes."""

    @pytest.mark.parametrize("state", FINISHED)
    def test_records_are_kept_as_long_as_the_queue_says(
        self, make_storage: Callable[..., Any], clock: Any, state: State
    ) -> None:
        """N46, T09: cancelled tasks are kept as long as failed ones, whatever finishes later."""
        keep = {"keep_succeeded": 100.0, "keep_failed": 1000.0}
        storage = make_storage(**keep)
        seconds = 100 if state == SUCCEEDED else 1000
        old = bring_to(storage, clock, state)
        clock.advance(seconds - 20)
        young = bring_to(storage, clock, state)
        assert ids(storage.admin.tasks(state)) == ids([old, young])
        clock.advance(40)
        last = bring_to(storage, clock, CANCELLED)
        assert sorted(ids(everything(storage))) == sorted(ids([young, last]))
        with refused(storage, UnknownTask, old.id):
            storage.admin.get(old.id)

    @pytest.mark.parametrize("state", FINISHED)
    @pytest.mark.parametrize("look", LOOKS, ids=[look.__name__ for look in LOOKS])
    def test_a_record_whose_time_is_over_is_unknown_at_once(
        self, make_storage: Callable[..., Any], clock: Any, state: State, look: Look
    ) -> None:
        """Every way to read hides the record, also if no task was reserved or finished since."""
        storage = make_storage(keep_succeeded=100.0, keep_failed=100.0)
        old = bring_to(storage, clock, state, user=JANE)
        clock.advance(50)
        young = bring_to(storage, clock, state, user=JANE)
        assert look(storage, state, old) == 2
        clock.advance(70)
        assert look(storage, state, old) == 1
        assert ids(everything(storage)) == [young.id]
        assert_consistent(storage)

    @pytest.mark.parametrize("method", ["get", "cancel", "retry", "remove", "forget_response"])
    @pytest.mark.parametrize("state", FINISHED)
    def test_a_record_whose_time_is_over_is_not_steered(
        self, make_storage: Callable[..., Any], clock: Any, state: State, method: str
    ) -> None:
        """Every method raises `UnknownTask`, as for a task that never existed."""
        storage = make_storage(keep_succeeded=100.0, keep_failed=100.0)
        old = bring_to(storage, clock, state)
        clock.advance(120)
        with pytest.raises(UnknownTask, match=old.id):
            getattr(storage.admin, method)(old.id)
        assert everything(storage) == []

    def test_an_idle_queue_forgets(self, make_storage: Callable[..., Any], clock: Any) -> None:
        """If no task finishes, `reserve` removes expired records, a portion in each call."""
        storage = make_storage(keep_succeeded=100.0)
        for _ in range(5):
            bring_to(storage, clock, SUCCEEDED, user=JANE)
        clock.advance(120)
        assert storage.reserve("consumer", timeout=0) == []
        assert everything(storage) == []
        assert_consistent(storage)

    @pytest.mark.parametrize("state", [SUCCEEDED, FAILED, CANCELLED])
    def test_the_payload_is_kept_as_long_as_it_may_be_needed(
        self, storage: Any, clock: Any, state: State
    ) -> None:
        """Succeeded tasks lose it: they cannot be retried; failed and cancelled tasks can."""
        task = bring_to(storage, clock, state, payload=b"once more", user=JANE)
        if state == SUCCEEDED:
            task = replace(task, payload=b"")
        assert storage.admin.get(task.id).task == task
        if state != SUCCEEDED:
            storage.admin.retry(task.id)
            assert take(storage).task == task

    def test_the_payload_is_kept_until_the_last_attempt(self, storage: Any, clock: Any) -> None:
        """It survives retries, a lost lease, and a cancellation requested while the task ran."""
        task = add_one(storage, payload=b"once more", max_attempts=3)
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock()))
        lose(storage, clock)
        storage.admin.recover()
        lease = take(storage)
        assert lease.task == task
        storage.admin.cancel(task.id)
        storage.complete(lease, completed(lease))
        storage.admin.retry(task.id)
        assert take(storage).task == task

    @pytest.mark.parametrize("large", ["payload", "body", "error"])
    def test_finished_records_are_bounded_in_bytes(
        self, make_storage: Callable[..., Any], clock: Any, large: str
    ) -> None:
        """The oldest records are removed, of any state. A storage may keep 5 % more bytes."""
        storage = make_storage(max_finished_bytes=100_000, keep_succeeded=1e6, keep_failed=1e6)
        tasks = []
        for number in range(20):
            state = FAILED if number % 2 or large == "payload" else SUCCEEDED
            tasks.append(_end_with(storage, state, large))
            clock.advance(20)
        storage.reserve("consumer", timeout=0)
        kept = ids(everything(storage))
        assert len(kept) in (9, 10)
        assert kept == ids(tasks[-len(kept) :])
        assert_consistent(storage)

    def test_what_is_known_no_more_takes_no_room(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """The bytes of retried, removed and purged tasks and of removed responses do not count."""
        storage = make_storage(max_finished_bytes=100_000, keep_succeeded=1e6, keep_failed=1e6)
        kept = _end_with(storage, FAILED, "body")
        for _ in range(20):
            removed = _end_with(storage, FAILED, "body")
            storage.admin.retry(removed.id)
            lease = take(storage)
            storage.complete(lease, completed(lease, FAILED, body=bytes(10_000)))
            storage.admin.remove(removed.id)
            purged = _end_with(storage, SUCCEEDED, "body")
            storage.admin.purge(SUCCEEDED)
            forgotten = _end_with(storage, FAILED, "body")
            storage.admin.forget_response(forgotten.id)
            clock.advance(20)
            storage.reserve("consumer", timeout=0)
            assert purged.id not in ids(everything(storage))
            assert storage.admin.get(kept.id).body == bytes(10_000)

    def test_a_record_that_is_too_large_alone_lingers(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """Subscribers can read it for a while; then it is removed, also if no task finishes."""
        storage = make_storage(max_finished_bytes=5_000)
        task = _end_with(storage, FAILED, "body")
        other = _end_with(storage, SUCCEEDED, "body")
        for known in (task, other):
            assert storage.admin.get(known.id).body == bytes(10_000)
        clock.advance(20)
        storage.reserve("consumer", timeout=0)
        assert everything(storage) == []
        assert_consistent(storage)

    def test_what_waits_is_never_forgotten(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """N46, T09: a task may wait for any time, and the limits for finished tasks spare it."""
        storage = make_storage(keep_succeeded=1.0, keep_failed=1.0, max_finished=1)
        tasks = [add_one(storage), add_one(storage, due=clock() + 10**8)]
        clock.advance(10**6)
        bring_to(storage, clock, CANCELLED)
        last = bring_to(storage, clock, CANCELLED)
        assert sorted(ids(everything(storage))) == sorted(ids([*tasks, last]))

    def test_a_task_may_be_kept_longer_or_shorter(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """`keep` of the task overrides both settings of its queue."""
        storage = make_storage(keep_succeeded=100.0, keep_failed=100.0)
        longer = [bring_to(storage, clock, state, keep=1000.0) for state in FINISHED]
        for state in FINISHED:
            bring_to(storage, clock, state, keep=20.0)
        clock.advance(50)
        last = bring_to(storage, clock, SUCCEEDED)
        assert sorted(ids(everything(storage))) == sorted(ids([*longer, last]))

    @pytest.mark.parametrize("state", FINISHED)
    def test_who_is_told_of_the_end_can_look_at_it(
        self, make_storage: Callable[..., Any], clock: Any, state: State
    ) -> None:
        """With `keep=0` a record is still kept for a moment, also if other tasks finish."""
        storage = make_storage(keep_succeeded=0.0, keep_failed=0.0)
        tasks = [bring_to(storage, clock, state, keep=keep) for keep in (0.0, None)]
        assert [storage.admin.get(task.id).state for task in tasks] == [state, state]
        clock.advance(60)
        bring_to(storage, clock, state)
        for task in tasks:
            with refused(storage, UnknownTask, task.id):
                storage.admin.get(task.id)

    def test_a_retried_task_is_kept_from_its_new_end_on(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """The time of its first completion does not count, while it waits and afterwards."""
        storage = make_storage(keep_failed=100.0)
        task = bring_to(storage, clock, FAILED)
        clock.advance(80)
        storage.admin.retry(task.id)
        clock.advance(80)
        lease = take(storage)
        assert lease.task == task
        bring_to(storage, clock, CANCELLED)
        storage.complete(lease, completed(lease, FAILED))
        clock.advance(80)
        bring_to(storage, clock, CANCELLED)
        assert storage.admin.get(task.id).state == FAILED
        clock.advance(40)
        bring_to(storage, clock, CANCELLED)
        with refused(storage, UnknownTask, task.id):
            storage.admin.get(task.id)

    @pytest.mark.parametrize("state", FINISHED)
    def test_no_more_records_are_kept_than_the_queue_says(
        self, make_storage: Callable[..., Any], clock: Any, state: State
    ) -> None:
        """The oldest records of a state are removed; those of other states stay."""
        storage = make_storage(max_finished=3)
        others = [bring_to(storage, clock, other) for other in FINISHED if other != state]
        tasks = [bring_to(storage, clock, state) for _ in range(5)]
        assert ids(storage.admin.tasks(state)) == ids(tasks[2:])
        assert storage.admin.counts()[state] == 3
        assert all(storage.admin.get(other.id).finished for other in others)
        assert_consistent(storage)
        with refused(storage, UnknownTask, tasks[0].id):
            storage.admin.get(tasks[0].id)
