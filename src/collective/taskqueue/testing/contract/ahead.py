"""Prefetch: a consumer reserves many tasks, and releases those that it cannot start."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import complete_and_reserve
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from collective.taskqueue.testing.contract.base import unchanged
from typing import Any
import pytest


def take_some(storage: Any, number: int) -> list[Lease]:
    """Reserve `number` tasks; fails if fewer are queued."""
    leases: list[Lease] = storage.reserve("consumer", limit=number, timeout=0, lease=LONG)
    assert len(leases) == number
    return leases


class Ahead(Base):
    """To reserve many tasks at once changes neither their order nor their attempts."""

    def test_what_is_given_back_was_never_taken(self, storage: Any) -> None:
        """A released task is in its old place, with all its attempts and an empty history."""
        tasks = add(storage, *(new_task() for _ in range(4)))
        leases = take_some(storage, 3)
        assert storage.release(leases[1:]) == ids(tasks[1:3])
        assert ids(storage.admin.tasks(QUEUED)) == ids(tasks[1:])
        assert storage.admin.counts()[RUNNING] == 1
        assert storage.admin.counts()["queued"] == 3
        status = storage.admin.get(tasks[1].id)
        assert status.attempts == ()
        assert [state for state, _ in status.changes] == [QUEUED, RUNNING, QUEUED]
        again = take_some(storage, 3)
        assert ids([lease.task for lease in again]) == ids(tasks[1:])
        assert {(lease.attempt, lease.counted) for lease in again} == {(1, 0)}

    def test_it_is_no_lost_delivery(self, make_storage: Callable[..., Any]) -> None:
        """A release never counts for `max_deliveries`, because no process was lost."""
        storage = make_storage(max_deliveries=1)
        task = add_one(storage)
        for _ in range(3):
            assert storage.release([take(storage)]) == [task.id]
        lease = take(storage)
        assert storage.complete(lease, completed(lease)) == SUCCEEDED

    def test_an_attempt_before_it_stays(self, storage: Any, clock: Any) -> None:
        """A release takes back only the attempt that did not start."""
        add_one(storage, max_attempts=3)
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock()))
        lease = take(storage)
        assert (lease.attempt, lease.counted) == (2, 1)
        storage.release([lease])
        lease = take(storage)
        assert (lease.attempt, lease.counted) == (2, 1)

    def test_only_the_holder_gives_back(self, storage: Any, clock: Any) -> None:
        """An expired lease, a completed one and a released one have no effect."""
        lost, done, back = add(storage, new_task(), new_task(), new_task())
        stale = [lose(storage, clock)]
        storage.admin.recover()
        assert take(storage).task == lost
        stale += take_some(storage, 2)
        storage.complete(stale[1], completed(stale[1]))
        assert storage.release(stale[2:]) == [back.id]
        with unchanged(storage):
            assert storage.release(stale) == []
        assert storage.complete(stale[2], completed(stale[2])) is None
        assert storage.admin.get(done.id).state == SUCCEEDED

    def test_what_was_cancelled_meanwhile_is_cancelled(self, storage: Any) -> None:
        """A task cancelled while reserved does not run again, and `notify` is called."""
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        task = add_one(storage)
        lease = take(storage)
        storage.admin.cancel(task.id)
        assert storage.release([lease]) == []
        assert storage.admin.get(task.id).state == CANCELLED
        assert told == [(CANCELLED, task.id)]

    @pytest.mark.parametrize("mode", ["replace", "after_running"])
    def test_what_a_newer_one_replaces_is_cancelled(self, storage: Any, mode: str) -> None:
        """A newer task of the key replaces a released one as if that had waited all the time."""
        task = add_one(storage, key="k", on_conflict=mode)
        lease = take(storage)
        newer = add_one(storage, key="k", on_conflict=mode)
        assert storage.release([lease]) == []
        assert storage.admin.get(task.id).reason == f"replaced by {newer.id}"
        assert take_all(storage) == [newer.id]

    def test_a_parked_task_comes_when_the_other_goes_back(self, storage: Any) -> None:
        """A released task with mode `skip` waits, too: two tasks of a key never run at once."""
        task = add_one(storage, key="k", on_conflict="skip")
        lease = take(storage)
        serial = add_one(storage, key="k", on_conflict="after_running")
        assert take_all(storage) == []
        assert storage.release([lease]) == [task.id]
        assert take(storage).task == task
        assert take_all(storage) == []
        assert storage.admin.get(serial.id).state == QUEUED

    def test_a_blocked_reserve_gets_what_is_given_back(self, storage: Any) -> None:
        """A release wakes a waiting consumer for the task."""
        task = add_one(storage)
        lease = take(storage)
        blocked = aside(lambda: storage.reserve("blocked", timeout=2 * BOUND))
        assert is_blocked(blocked)
        storage.release([lease])
        (again,) = blocked.result(BOUND)
        assert again.task == task

    def test_a_paused_queue_takes_back(self, storage: Any) -> None:
        """A paused queue accepts a release, and hands the task out once it is resumed."""
        task = add_one(storage)
        lease = take(storage)
        storage.admin.pause()
        assert storage.release([lease]) == [task.id]
        assert take_all(storage) == []
        storage.admin.resume()
        assert take_all(storage) == [task.id]

    def test_many_end_and_many_begin(self, storage: Any, clock: Any) -> None:
        """Each completion works as a single one; a stale one gets None; the oldest tasks come."""
        tasks = add(storage, *(new_task() for _ in range(8)))
        done, failed, retried, stale = take_some(storage, 4)
        storage.complete(stale, completed(stale))
        ends = [
            (done, completed(done)),
            (failed, completed(failed, FAILED)),
            (stale, completed(stale, FAILED)),
            (retried, completed(retried, SCHEDULED, due=clock() + 1000)),
        ]
        states, leases = complete_and_reserve(storage, ends, limit=3)
        assert states == [SUCCEEDED, FAILED, None, SCHEDULED]
        assert ids([lease.task for lease in leases]) == ids(tasks[4:7])
        assert len({lease.token for lease in leases}) == 3
        assert [storage.admin.get(task.id).state for task in tasks] == [
            *(SUCCEEDED, FAILED, SCHEDULED, SUCCEEDED),
            *[RUNNING] * 3,
            QUEUED,
        ]
        states, leases = complete_and_reserve(
            storage, [(lease, completed(lease)) for lease in leases], limit=9
        )
        assert states == [SUCCEEDED] * 3
        assert ids([lease.task for lease in leases]) == [tasks[7].id]

    def test_many_may_end_and_none_begin(self, storage: Any) -> None:
        """With `limit=0`, the call completes attempts and reserves nothing."""
        task = add(storage, new_task(), new_task())[1]
        lease = take(storage)
        assert complete_and_reserve(storage, [(lease, completed(lease))], limit=0) == (
            [SUCCEEDED],
            [],
        )
        assert take_all(storage) == [task.id]

    def test_one_retry_after_the_other(self, storage: Any, clock: Any) -> None:
        """Attempts completed together and due together run in the order of their completions."""
        add(storage, new_task(), new_task(), new_task())
        leases = take_some(storage, 3)
        ends = [(lease, completed(lease, SCHEDULED, due=clock() - 1)) for lease in leases]
        _, again = complete_and_reserve(storage, ends, limit=3)
        assert [lease.task for lease in again] == [lease.task for lease in leases]
        assert {(lease.attempt, lease.counted) for lease in again} == {(2, 1)}

    def test_a_parked_task_begins_with_the_end_of_the_other(self, storage: Any) -> None:
        """A completion frees the key for one parked task, whatever the limit."""
        fields = {"key": "k", "on_conflict": "after_running"}
        add_one(storage, **fields)
        lease = take(storage)
        following = add_one(storage, **fields)
        other = add_one(storage)
        _, leases = complete_and_reserve(storage, [(lease, completed(lease))], limit=5)
        assert ids([lease.task for lease in leases]) == ids([following, other])
        add_one(storage, **fields)
        _, none = complete_and_reserve(storage, [(leases[1], completed(leases[1]))], limit=5)
        assert none == []

    def test_a_task_that_was_lost_before_is_reserved_alone(self, storage: Any, clock: Any) -> None:
        """D35: a redelivered task may kill its process; then all tasks claimed with it are lost."""
        suspects = add(storage, new_task(), new_task())
        storage.reserve("lost", limit=2, timeout=0, lease=30.0)
        clock.advance(60)
        storage.admin.recover()
        others = add(storage, new_task(), new_task(), new_task())
        order: list[Task] = []
        ends: list[tuple[Lease, Transition]] = []
        for expected in (1, 1, 3):
            states, leases = complete_and_reserve(storage, ends, limit=10)
            assert len(leases) == expected
            assert states == [SUCCEEDED] * len(ends)
            order += [lease.task for lease in leases]
            ends = [(lease, completed(lease)) for lease in leases]
        assert ids(order) == ids([*suspects, *others])

    def test_a_suspect_in_the_midst_waits_for_its_turn(self, storage: Any, clock: Any) -> None:
        """Tasks before a redelivered one are reserved; it and the tasks after it come later."""
        first, suspect, last = add(storage, new_task(), new_task(), new_task())
        held = take(storage)
        lose(storage, clock)
        storage.admin.recover()
        storage.release([held])
        _, leases = complete_and_reserve(storage, [], limit=10)
        assert ids([lease.task for lease in leases]) == [first.id]
        _, leases = complete_and_reserve(
            storage, [(lease, completed(lease)) for lease in leases], limit=10
        )
        assert ids([lease.task for lease in leases]) == [suspect.id]
        assert ids(storage.admin.tasks(QUEUED)) == [last.id]
