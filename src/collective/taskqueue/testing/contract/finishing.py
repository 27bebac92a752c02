"""Completing an attempt: finish, report, results, retries, stale and forged tokens."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import finish_and_take
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import near
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from collective.taskqueue.testing.contract.base import unchanged
from dataclasses import replace
from typing import Any
import pytest


RESPONSE: dict[str, Any] = {
    "headers": (("Content-Type", "text/html"), ("X-Text", "ä")),
    "body": b"\x00\xff<html>",
    "truncated": True,
}


def _finished(storage: Any, clock: Any, task_id: str, lease: Lease) -> None:
    storage.complete(lease, completed(lease))


def _lost(storage: Any, clock: Any, task_id: str, lease: Lease) -> None:
    clock.advance(60)
    storage.admin.recover()


def _running_again(storage: Any, clock: Any, task_id: str, lease: Lease) -> None:
    _lost(storage, clock, task_id, lease)
    take(storage)


def _running_after_retry(storage: Any, clock: Any, task_id: str, lease: Lease) -> None:
    storage.complete(lease, completed(lease, FAILED))
    storage.admin.retry(task_id)
    take(storage)


def _rescheduled(storage: Any, clock: Any, task_id: str, lease: Lease) -> None:
    storage.complete(lease, completed(lease, SCHEDULED, due=clock() + 100))


def _removed(storage: Any, clock: Any, task_id: str, lease: Lease) -> None:
    storage.complete(lease, completed(lease))
    storage.admin.remove(task_id)


WAYS_TO_LOSE_IT = [
    _finished,
    _lost,
    _running_again,
    _running_after_retry,
    _rescheduled,
    _removed,
]


class Finishing(Base):
    """Only the holder of the token completes an attempt, and its result is kept."""

    def test_the_end_of_one_and_the_beginning_of_the_next(self, storage: Any, clock: Any) -> None:
        """One call, if the storage has it, does the same as `finish` and then `reserve`."""
        first, second, third = add(storage, new_task(), new_task(key="k"), new_task())
        lease = take(storage)
        state, (following,) = finish_and_take(storage, lease, completed(lease, FAILED))
        assert (state, following.task, following.attempt) == (FAILED, second, 1)
        assert following.consumer == "consumer"
        assert following.expires == near(clock() + LONG)
        assert storage.admin.get(first.id).attempts == (completed(lease, FAILED).attempt,)
        assert storage.admin.get(second.id).state == RUNNING
        assert storage.report(following) is False
        retry = completed(following, SCHEDULED, due=clock())
        state, (last,) = finish_and_take(storage, following, retry)
        assert (state, last.task) == (SCHEDULED, third)
        state, (again,) = finish_and_take(storage, last, completed(last))
        assert (state, again.task, again.attempt) == (SUCCEEDED, second, 2)
        assert finish_and_take(storage, again, completed(again)) == (SUCCEEDED, [])

    def test_a_stale_finisher_may_still_begin_the_next(self, storage: Any, clock: Any) -> None:
        """Its result is dropped, but the new lease of the same call is valid."""
        lost = add_one(storage)
        stale = lose(storage, clock)
        storage.admin.recover()
        state, (lease,) = finish_and_take(storage, stale, completed(stale))
        assert (state, lease.task, lease.attempt) == (None, lost, 2)
        assert storage.complete(lease, completed(lease)) == SUCCEEDED

    def test_a_paused_queue_gives_out_nothing_at_the_end_of_a_task(self, storage: Any) -> None:
        """Nor does a queue whose next task waits for its key; once it may run, it comes at once."""
        fields = {"key": "k", "on_conflict": "after_running"}
        add_one(storage, **fields)
        lease = take(storage)
        following = add_one(storage, **fields)
        assert take_all(storage) == []
        storage.admin.pause()
        assert finish_and_take(storage, lease, completed(lease)) == (SUCCEEDED, [])
        storage.admin.resume()
        lease = take(storage)
        assert lease.task == following
        after = add_one(storage, **fields)
        assert take_all(storage) == []
        state, (lease,) = finish_and_take(storage, lease, completed(lease))
        assert (state, lease.task) == (SUCCEEDED, after)

    @pytest.mark.parametrize("state", [SUCCEEDED, FAILED])
    def test_a_finished_task_keeps_its_result(self, storage: Any, clock: Any, state: State) -> None:
        """D06: the record of a completed task stays, with its result and its attempt."""
        task = add_one(storage)
        lease = take(storage)
        transition = completed(lease, state, reason="because", **RESPONSE)
        attempt = replace(transition.attempt, error="Traceback …")
        clock.advance(10)
        assert storage.complete(lease, replace(transition, attempt=attempt)) == state
        status = storage.admin.get(task.id)
        assert (status.state, status.reason) == (state, "because")
        assert [name for name, _ in status.changes] == [QUEUED, RUNNING, state]
        assert status.time_of(state) == near(clock())
        assert status.attempts == (attempt,)
        assert status.status == transition.attempt.status
        response = {name: getattr(status, name) for name in RESPONSE}
        assert response == RESPONSE
        assert status.consumer == "consumer"
        assert status.due is None
        assert status.finished
        assert take_all(storage) == []

    def test_an_attempt_that_is_retried_schedules_the_task(self, storage: Any, clock: Any) -> None:
        """The task is scheduled with reason and due time, and then the next attempt starts."""
        task = add_one(storage, max_attempts=3)
        lease = take(storage)
        transition = completed(lease, SCHEDULED, due=clock() + 100, **RESPONSE)
        assert storage.complete(lease, transition) == SCHEDULED
        status = storage.admin.get(task.id)
        assert (status.state, status.reason) == (SCHEDULED, "status 503")
        assert status.due == near(clock() + 100)
        assert status.attempts == (transition.attempt,)
        assert (status.status, status.body) == (503, RESPONSE["body"])
        assert storage.admin.counts()["queued"] == 0
        clock.advance(80)
        assert take_all(storage) == []
        clock.advance(40)
        lease = take(storage)
        assert lease.task == task
        assert (lease.attempt, lease.counted) == (2, 1)

    def test_an_attempt_that_could_not_start_does_not_count(self, storage: Any, clock: Any) -> None:
        """The attempt is in the history, but does not count for `max_attempts`."""
        add_one(storage, max_attempts=1)
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock(), counts=False))
        lease = take(storage)
        assert (lease.attempt, lease.counted) == (2, 0)

    def test_retries_and_delays_ripen_in_the_order_they_are_due(
        self, storage: Any, clock: Any
    ) -> None:
        """Retried tasks and tasks with a delay are sorted together by due time."""
        first, second = add(storage, new_task(), new_task())
        for lease, pause in zip([take(storage), take(storage)], (300, 100), strict=True):
            storage.complete(lease, completed(lease, SCHEDULED, due=clock() + pause))
        third = add_one(storage, due=clock() + 200)
        clock.advance(400)
        assert take_all(storage) == ids([second, third, first])

    def test_every_attempt_stands_in_the_history(self, storage: Any, clock: Any) -> None:
        """Retried, lost and last attempts are in the history, oldest first."""
        task = add_one(storage)
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock()))
        lose(storage, clock)
        storage.admin.recover()
        lease = take(storage)
        assert (lease.attempt, lease.counted) == (3, 1)
        storage.complete(lease, completed(lease))
        attempts = storage.admin.get(task.id).attempts
        assert [(attempt.number, attempt.status) for attempt in attempts] == [
            (1, 503),
            (2, None),
            (3, 200),
        ]

    @pytest.mark.parametrize("lose_it", WAYS_TO_LOSE_IT)
    def test_a_stale_token_changes_nothing(
        self, storage: Any, clock: Any, lose_it: Callable[..., None]
    ) -> None:
        """N32, guarantee 2: the token fences, however the lease was lost since."""
        task = add_one(storage)
        lease = take(storage, lease=30.0)
        storage.report(lease, Progress(1.0, 2.0, "half", clock()))
        lose_it(storage, clock, task.id, lease)
        with unchanged(storage):
            for state in (SUCCEEDED, FAILED, SCHEDULED):
                transition = completed(lease, state, due=clock(), **RESPONSE)
                assert storage.complete(lease, transition) is None
            assert storage.renew(lease, 1000.0) is False
            assert storage.report(lease, Progress(2.0, 2.0, "all", clock())) is True

    def test_a_forged_token_changes_nothing(self, storage: Any) -> None:
        """Every call needs the token of the lease; the id of the task is not enough."""
        add_one(storage)
        forged = replace(take(storage), token="forged")
        with unchanged(storage):
            assert storage.complete(forged, completed(forged)) is None
            assert storage.renew(forged) is False
            assert storage.report(forged, Progress(1.0, None, "", 0.0)) is True

    def test_a_late_completion_is_accepted_while_no_other_lease_was_made(
        self, storage: Any, clock: Any
    ) -> None:
        """The token decides, not the expiry: while it matches, no other lease was made."""
        task = add_one(storage)
        late = lose(storage, clock)
        assert storage.complete(late, completed(late)) == SUCCEEDED
        assert storage.admin.recover() == []
        assert storage.admin.get(task.id).state == SUCCEEDED

    def test_progress_is_visible_at_once(self, storage: Any, clock: Any) -> None:
        """The newest progress is kept; a report without progress does not erase it."""
        task = add_one(storage)
        lease = take(storage)
        assert storage.admin.get(task.id).progress is None
        for done in (1.0, 2.0):
            progress = Progress(done, None, f"Schritt {done} für ä", clock())
            assert storage.report(lease, progress) is False
            assert storage.report(lease) is False
            assert storage.admin.get(task.id).progress == progress

    def test_a_running_task_learns_that_it_is_cancelled(self, storage: Any, clock: Any) -> None:
        """Every later `report` returns True, and still stores the progress."""
        task = add_one(storage)
        lease = take(storage)
        assert storage.admin.get(task.id).cancel_requested is False
        assert storage.admin.cancel(task.id) == RUNNING
        assert storage.report(lease) is True
        progress = Progress(1.0, 2.0, "half", clock())
        assert storage.report(lease, progress) is True
        status = storage.admin.get(task.id)
        assert (status.state, status.progress) == (RUNNING, progress)
        assert status.cancel_requested is True
        with unchanged(storage):
            assert storage.admin.cancel(task.id) == RUNNING

    @pytest.mark.parametrize("state", [SUCCEEDED, FAILED, SCHEDULED])
    def test_what_is_cancelled_while_it_runs_ends_as_cancelled(
        self, storage: Any, clock: Any, state: State
    ) -> None:
        """Whatever the attempt returns, its result is kept, and it is not retried."""
        task = add_one(storage)
        lease = take(storage)
        storage.admin.cancel(task.id)
        transition = completed(lease, state, due=clock(), **RESPONSE)
        assert storage.complete(lease, transition) == CANCELLED
        status = storage.admin.get(task.id)
        assert status.state == CANCELLED
        assert "cancelled" in status.reason
        assert status.attempts == (transition.attempt,)
        assert (status.status, status.body) == (transition.attempt.status, RESPONSE["body"])
        assert take_all(storage) == []

    def test_what_is_cancelled_and_then_lost_does_not_run_again(
        self, storage: Any, clock: Any
    ) -> None:
        """The requested cancellation outlives the process; the storage calls `notify` for it."""
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        task = add_one(storage)
        lease = take(storage, lease=30.0)
        storage.admin.cancel(task.id)
        clock.advance(60)
        assert storage.admin.recover() == []
        status = storage.admin.get(task.id)
        assert status.state == CANCELLED
        assert [attempt.number for attempt in status.attempts] == [1]
        assert told == [(CANCELLED, task.id)]
        assert take_all(storage) == []
        assert storage.complete(lease, completed(lease)) is None

    def test_the_queue_is_not_told_what_it_was_asked_for(self, storage: Any, clock: Any) -> None:
        """`notify` is not called for a change that the caller learns from the return value."""
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        for state in (SUCCEEDED, FAILED, CANCELLED):
            task = bring_to(storage, clock, state)
            if state != SUCCEEDED:
                storage.admin.retry(task.id)
                storage.admin.cancel(task.id)
        add_one(storage)
        lose(storage, clock)
        storage.admin.recover()
        storage.admin.clear()
        assert told == []
