"""Admin operations: cancel, retry, run now, remove, clear, purge; forbidden ones; fork."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import everything
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import near
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import refused
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from collective.taskqueue.testing.contract.base import unchanged
from contextlib import contextmanager
from typing import Any
import os
import pytest
import select
import signal
import threading


FORBIDDEN = [
    *(("cancel", state) for state in FINISHED),
    *(("retry", state) for state in (QUEUED, SCHEDULED, RUNNING, SUCCEEDED)),
    *(("remove", state) for state in (QUEUED, SCHEDULED, RUNNING)),
]


class Steering(Base):
    """Which admin operations are allowed in which state, and their effects."""

    @pytest.mark.parametrize(("method", "state"), FORBIDDEN)
    def test_a_forbidden_request_changes_nothing(
        self, storage: Any, clock: Any, method: str, state: State
    ) -> None:
        """D55: the error names the task and its state."""
        task = bring_to(storage, clock, state)
        with refused(storage, ForbiddenTransition, f"{task.id}.*{state}"):
            getattr(storage.admin, method)(task.id)

    @pytest.mark.parametrize(
        "method", ["get", "cancel", "retry", "remove", "run_now", "forget_response"]
    )
    def test_an_unknown_task_is_refused(self, storage: Any, method: str) -> None:
        """The error names the id."""
        add_one(storage)
        with refused(storage, UnknownTask, "no-such-task"):
            getattr(storage.admin, method)("no-such-task")

    @pytest.mark.parametrize("state", [state for state in STATES if state not in FINISHED])
    def test_only_final_states_are_purged(self, storage: Any, clock: Any, state: State) -> None:
        """`purge` of another state raises an error that names the state."""
        bring_to(storage, clock, state)
        with refused(storage, ForbiddenTransition, state):
            storage.admin.purge(state)

    @pytest.mark.parametrize("state", [QUEUED, SCHEDULED])
    def test_a_waiting_task_that_is_cancelled_never_runs(
        self, storage: Any, clock: Any, state: State
    ) -> None:
        """H14: it does not run when it would be due; its record shows when it was cancelled."""
        task = bring_to(storage, clock, state)
        other = add_one(storage)
        assert storage.admin.cancel(task.id) == CANCELLED
        status = storage.admin.get(task.id)
        assert (status.state, status.due) == (CANCELLED, None)
        assert "cancelled" in status.reason
        assert status.time_of(CANCELLED) == near(clock())
        assert status.attempts == ()
        clock.advance(2000)
        assert take_all(storage) == [other.id]

    @pytest.mark.parametrize("state", [FAILED, CANCELLED])
    def test_a_retried_task_is_queued_again(self, storage: Any, clock: Any, state: State) -> None:
        """The retried task is at the end of the queue, due at once."""
        task = bring_to(storage, clock, state)
        other = add_one(storage)
        assert storage.admin.retry(task.id) is None
        status = storage.admin.get(task.id)
        assert status.state == QUEUED
        assert [name for name, _ in status.changes][-2:] == [state, QUEUED]
        assert take_all(storage) == ids([other, task])

    def test_a_retried_task_keeps_its_history(self, storage: Any, clock: Any) -> None:
        """Old attempts stay in the history, but do not count for `max_attempts`."""
        task = add_one(storage, max_attempts=2)
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock()))
        lease = take(storage)
        assert lease.counted == 1
        storage.complete(lease, completed(lease, FAILED))
        storage.admin.retry(task.id)
        assert len(storage.admin.get(task.id).attempts) == 2
        lease = take(storage)
        assert (lease.attempt, lease.counted) == (3, 0)
        storage.complete(lease, completed(lease))
        assert [attempt.number for attempt in storage.admin.get(task.id).attempts] == [1, 2, 3]

    def test_the_life_of_a_retried_task_begins_anew(self, storage: Any, clock: Any) -> None:
        """`max_age` counts from the retry, also in later attempts."""
        created = clock() - 500
        task = add_one(storage, created=created, max_age=60.0)
        lease = take(storage)
        assert storage.admin.get(task.id).since == created
        storage.complete(lease, completed(lease, FAILED))
        clock.advance(100)
        storage.admin.retry(task.id)
        retried = storage.admin.get(task.id).time_of(QUEUED)
        clock.advance(10)
        for _ in range(2):
            lease = take(storage)
            assert storage.admin.get(task.id).since == retried > created + 500
            storage.complete(lease, completed(lease, SCHEDULED, due=clock()))

    def test_a_retried_task_may_be_lost_as_often_as_before(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """Losses count anew: before retrying a poison task, an admin has fixed the cause."""
        storage = make_storage(max_deliveries=2)
        task = add_one(storage)
        for _ in range(2):
            for expected in ([task.id], []):
                take(storage, lease=30.0)
                clock.advance(60)
                assert storage.admin.recover() == expected
            assert storage.admin.get(task.id).state == FAILED
            storage.admin.retry(task.id)

    def test_a_retried_task_is_not_cancelled_any_more(self, storage: Any) -> None:
        """The earlier request for cancellation was carried out, so `retry` removes it."""
        task = add_one(storage)
        lease = take(storage)
        storage.admin.cancel(task.id)
        storage.complete(lease, completed(lease))
        storage.admin.retry(task.id)
        assert storage.admin.get(task.id).cancel_requested is False
        lease = take(storage)
        assert storage.report(lease) is False
        assert storage.complete(lease, completed(lease)) == SUCCEEDED

    def test_a_hastened_task_is_queued_before_it_is_due(self, storage: Any, clock: Any) -> None:
        """N12: it goes to the end of the queue; a queued task keeps its place."""
        late = add_one(storage, due=clock() + 1000)
        first, last = add(storage, new_task(), new_task())
        assert storage.admin.run_now(late.id) is None
        status = storage.admin.get(late.id)
        assert (status.state, status.due) == (QUEUED, None)
        assert status.time_of(QUEUED) == near(clock())
        with unchanged(storage):
            storage.admin.run_now(first.id)
        assert take_all(storage) == ids([first, last, late])

    def test_a_task_is_hastened_for_its_next_attempt(self, storage: Any, clock: Any) -> None:
        """The backoff before the next attempt ends; attempts made still count."""
        task = add_one(storage, max_attempts=2, key="one", on_conflict="after_running")
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock() + 1000))
        storage.admin.run_now(task.id)
        lease = take(storage)
        assert (lease.task.id, lease.attempt, lease.counted) == (task.id, 2, 1)

    @pytest.mark.parametrize("state", [RUNNING, *FINISHED])
    def test_only_what_waits_is_hastened(self, storage: Any, clock: Any, state: State) -> None:
        """D55: running and finished tasks cannot be run now."""
        task = bring_to(storage, clock, state)
        with refused(storage, ForbiddenTransition, state):
            storage.admin.run_now(task.id)

    def test_a_hastened_task_wakes_a_consumer(self, storage: Any, clock: Any) -> None:
        """A blocked `reserve` returns at once, not when the task would have been due."""
        task = add_one(storage, due=clock() + 1000)
        blocked = aside(lambda: storage.reserve("consumer", timeout=BOUND))
        assert is_blocked(blocked)
        storage.admin.run_now(task.id)
        assert [lease.task.id for lease in blocked.result(BOUND)] == [task.id]

    @pytest.mark.parametrize("state", [SUCCEEDED, FAILED])
    def test_a_response_is_forgotten(self, storage: Any, clock: Any, state: State) -> None:
        """H17: only the response is removed; a second call returns False."""
        task = add_one(storage)
        lease = take(storage)
        headers = (("Content-Type", "text/plain"),)
        storage.complete(lease, completed(lease, state, body=b"said", headers=headers))
        before = storage.admin.get(task.id)
        assert before.result is not None
        assert storage.admin.forget_response(task.id) is True
        status = storage.admin.get(task.id)
        assert (status.result, status.status, status.headers) == (None, None, ())
        assert (status.body, status.forgotten) == (b"", True)
        assert (status.state, status.changes) == (before.state, before.changes)
        assert status.attempts == before.attempts
        with unchanged(storage):
            assert storage.admin.forget_response(task.id) is False

    def test_the_next_response_is_kept(self, storage: Any) -> None:
        """`forget_response` removes only the present response, not later ones."""
        task = add_one(storage)
        for body in (b"one", b"two"):
            lease = take(storage)
            storage.complete(lease, completed(lease, FAILED, body=body))
            assert storage.admin.get(task.id).result.body == body
            storage.admin.forget_response(task.id)
            storage.admin.retry(task.id)

    @pytest.mark.parametrize("state", [QUEUED, SCHEDULED, RUNNING])
    def test_a_response_of_an_unfinished_task_is_not_forgotten(
        self, storage: Any, clock: Any, state: State
    ) -> None:
        """The task may have no response, or soon another one, so the call is refused."""
        task = bring_to(storage, clock, state)
        with refused(storage, ForbiddenTransition, state):
            storage.admin.forget_response(task.id)

    @pytest.mark.parametrize("state", FINISHED)
    def test_a_removed_task_is_forgotten(self, storage: Any, clock: Any, state: State) -> None:
        """T04: `remove` deletes one task; a second call raises `UnknownTask`."""
        task = bring_to(storage, clock, state)
        other = bring_to(storage, clock, state)
        assert storage.admin.remove(task.id) is None
        assert ids(everything(storage)) == [other.id]
        with refused(storage, UnknownTask, task.id):
            storage.admin.remove(task.id)

    def test_clear_touches_only_what_waits(self, storage: Any, clock: Any) -> None:
        """D25, T05: `clear` keeps running, finished and staged tasks."""
        kept = [bring_to(storage, clock, state) for state in (*FINISHED, RUNNING)]
        waiting = [*add(storage, new_task(), new_task()), add_one(storage, due=clock() + 100)]
        staged = new_task()
        storage.stage("batch", [staged])
        assert storage.admin.clear() == 3
        assert sorted(ids(everything(storage))) == sorted(ids(kept))
        for task in waiting:
            with refused(storage, UnknownTask, task.id):
                storage.admin.get(task.id)
        clock.advance(20)
        assert storage.admin.clear() == 0
        storage.promote("batch")
        assert take_all(storage) == [staged.id]

    def test_a_running_task_ends_as_usual_after_a_clear(self, storage: Any) -> None:
        """Its lease is still valid."""
        task = add_one(storage)
        lease = take(storage)
        storage.admin.clear()
        assert storage.renew(lease) is True
        assert storage.complete(lease, completed(lease)) == SUCCEEDED
        assert storage.admin.get(task.id).state == SUCCEEDED

    @pytest.mark.parametrize("state", FINISHED)
    def test_purge_forgets_one_state(self, storage: Any, clock: Any, state: State) -> None:
        """`purge` removes all tasks of the state, and no others."""
        purged = [bring_to(storage, clock, state) for _ in range(3)]
        others = [name for name in FINISHED if name != state]
        kept = [bring_to(storage, clock, name) for name in (*others, RUNNING, SCHEDULED)]
        assert storage.admin.purge(state) == 3
        assert sorted(ids(everything(storage))) == sorted(ids(kept))
        assert storage.admin.purge(state) == 0
        with refused(storage, UnknownTask, purged[0].id):
            storage.admin.get(purged[0].id)

    def test_what_is_dropped_is_logged(
        self, storage: Any, clock: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Guarantee 6: one log line for each task, with its id, the cause and the effect."""
        finished = [bring_to(storage, clock, SUCCEEDED) for _ in range(3)]
        waiting = add(storage, *(new_task(due=due) for due in (None, None, clock() + 100)))
        caplog.set_level("INFO", "collective.taskqueue")
        for call, tasks, words in (
            (storage.admin.clear, waiting, "reset, dropped"),
            (lambda: storage.admin.purge(SUCCEEDED), finished, "purged, forgotten"),
        ):
            caplog.clear()
            call()
            lines = [line for line in caplog.messages if words in line]
            assert sorted(line.split()[1].rstrip(":") for line in lines) == sorted(ids(tasks))

    def test_pausing_is_no_change_of_any_task(self, storage: Any, clock: Any) -> None:
        """`pause` and `resume` change no task, and may be called twice."""
        for state in (SUCCEEDED, SCHEDULED, QUEUED):
            bring_to(storage, clock, state)
        before = everything(storage)
        for method, expected in (("pause", True), ("resume", False)):
            getattr(storage.admin, method)()
            with unchanged(storage):
                getattr(storage.admin, method)()
            assert storage.admin.paused() is expected
        assert everything(storage) == before

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_child_uses_the_storage(self, make_storage: Callable[..., Any]) -> None:
        """The child may fork while threads of the parent use the storage; no task runs twice."""
        storage = make_storage()
        with _in_use(storage):
            for _ in range(10):
                waiting = add_one(storage)
                taken = _in_child(lambda: _run_after_fork(storage)) + take_all(storage)
                assert taken.count(waiting.id) == 1
                assert len(taken) == 2


@contextmanager
def _in_use(storage: Any) -> Iterator[None]:
    stopped = threading.Event()

    def use() -> None:
        while not stopped.is_set():
            storage.admin.counts()

    users = [aside(use) for _ in range(4)]
    try:
        yield
    finally:
        stopped.set()
        for user in users:
            user.result(BOUND)


def _run_after_fork(storage: Any) -> list[str]:
    """Add and run tasks in a forked child; return the ids of the tasks that it took."""
    storage.after_fork()
    task = add_one(storage)
    taken = []
    while leases := storage.reserve("child", timeout=0):
        taken.append(leases[0].task.id)
        assert storage.complete(leases[0], completed(leases[0])) == SUCCEEDED
    assert task.id in taken
    return taken


def _in_child(call: Callable[[], list[str]]) -> list[str]:
    """Make the call in a forked child; return its result, or an empty list if it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        # Also after an error, the child must not return into the tests of its parent.
        try:
            os.write(writer, " ".join(call()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    if not select.select([reader], [], [], BOUND)[0]:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reader) as answer:
        return answer.read().split()
