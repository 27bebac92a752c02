"""What waits at the desk, and goes back if it cannot begin."""

from collections import deque
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer import clerk as clerk_room
from collective.taskqueue.consumer.clerk import PATIENCE
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import new_task
from desks import end
from desks import eventually
from desks import fill
from desks import hold_up
from desks import in_stream
from desks import make_late
from desks import older
from desks import run
from desks import take
import time


def test_what_cannot_begin_is_given_back(make, storage, stored):
    """In its order, before all that waits, with nothing in its history."""
    desk, tasks = in_stream(make, storage, stored)
    slow = take(desk)
    assert slow.task.id == tasks[40]
    eventually(lambda: storage.admin.counts()["queued"] == 59)
    assert ids(storage.admin.tasks(QUEUED, size=100)) == tasks[41:]
    assert ids(storage.admin.tasks(RUNNING)) == [slow.task.id]
    assert storage.admin.get(tasks[41]).attempts == ()
    (lease,) = storage.reserve("other", timeout=0)
    assert (lease.task.id, lease.attempt) == (tasks[41], 1)


def test_it_is_given_back_in_time(make, storage, stored, patient):
    """Not before somebody had time to take it, and not long after."""
    desk, _ = in_stream(make, storage, stored)
    hold_up(desk, storage)
    with desk._work:
        assert not desk._is_late()
    make_late(desk)
    with desk._work:
        assert desk._is_late()


def test_a_lease_that_may_be_over_is_not_begun(make, storage, stored, patient):
    """The clerk was held up for so long: somebody else may have been given the task."""
    desk, _ = in_stream(make, storage, stored, lease=30.0)
    hold_up(desk, storage)
    with desk._work:
        assert desk._hand
        desk._hand = deque(older(held, 11.0) for held in desk._hand)
    make_late(desk)
    taken = aside(desk.take)
    storage.let(go=True)
    (lease,) = taken.result(BOUND)
    # Given back and reserved anew, by whoever was first.
    assert lease.expires > time.time() + 25.0
    assert lease.attempt == 1


def test_a_task_that_was_lost_before_begins_when_nothing_else_is_unsaid(
    make, storage, stored, patient
):
    """D35: if it takes down the process again, what has ended before it is stored."""
    first, second = new_task(), new_task()
    add(storage, first)
    storage.reserve("lost", timeout=0, lease=0.0)
    storage.admin.recover()
    desk = make()
    suspect = storage.reserve("consumer", timeout=0)[0]
    assert suspect.attempt == 2
    add(storage, second)
    lease = take(desk)
    storage.let(go=False)
    end(desk, lease)
    storage.wait_for(1)
    with desk._work:
        desk._put_in_hand([suspect])
    taken = aside(desk.take)
    assert not taken.done()
    storage.let(go=True)
    (lease,) = taken.result(BOUND)
    assert lease == suspect
    assert stored == [(second.id, SUCCEEDED)]
    fill(storage, 5)
    with desk._work:
        desk._recent.extend([time.monotonic()] * 20)
        assert desk._wanted() == 0


def test_what_cannot_be_given_back_is_said(make, storage, stored, caplog, patient):
    """Its lease expires."""
    desk, _ = in_stream(make, storage, stored)

    def broken(leases):
        raise ValueError("broken")

    storage.release = broken
    take(desk)
    make_late(desk)
    eventually(lambda: "not started, not released (broken), its lease expires" in caplog.text)


def test_what_cannot_be_given_back_now_is_later(make, storage, stored, quick, patient):
    """No process was lost, so no attempt counts as lost, and the order stays."""
    desk, tasks = in_stream(make, storage, stored)
    failures = [StorageUnavailable("gone")] * 3
    release = storage.release

    def away(leases):
        if failures:
            raise failures.pop()
        return release(leases)

    storage.release = away
    take(desk)
    make_late(desk)
    eventually(lambda: storage.admin.counts()["queued"] == 59)
    assert not failures
    assert ids(storage.admin.tasks(QUEUED, size=100)) == tasks[41:]


def test_it_is_tried_no_longer_than_the_leases_last(make, storage, stored, quick, now, caplog):
    """Then they have been given back by whoever came first, and the ends are more urgent."""
    fill(storage, 100)
    desk = make(lease=5.0)
    run(desk, 40)
    now[0] += 2 * storage.delay
    stored.wait_for(40)

    def away(leases):
        now[0] += 1.0
        raise StorageUnavailable("gone")

    storage.release = away
    slow = take(desk)
    now[0] += 2 * PATIENCE
    desk.wake()
    eventually(lambda: "not started, not released (gone), its lease expires" in caplog.text)
    end(desk, slow)
    now[0] += 2 * storage.delay
    stored.wait_for(41)


def test_a_task_that_must_not_be_lost_is_not_held(make, storage, stored):
    """With one delivery only, what is held when the process dies would fail unseen."""
    storage.settings = QueueSettings(max_deliveries=1)
    in_stream(make, storage, stored)
    assert {limit for _, limit in storage.exchanges} == {1}


def test_a_suspect_from_the_storage_waits_as_well(make, storage, stored, monkeypatch):
    """D35: it makes no difference which of the threads it comes to, and how."""
    first, suspect = new_task(), new_task()
    monkeypatch.setattr(clerk_room, "_is_redelivered", lambda lease: lease.task == suspect)
    add(storage, first)
    desk = make(concurrent_limit=2)
    lease = take(desk)
    waiting = aside(desk.take)
    eventually(lambda: storage._memory.blocked["default"])
    storage.let(go=False)
    end(desk, lease)
    storage.wait_for(1)
    add(storage, suspect)
    assert waiting.result(BOUND) == []
    waiting = aside(desk.take)
    assert is_blocked(waiting)
    storage.let(go=True)
    # Given back and reserved again, if that took long.
    (lease,) = waiting.result(BOUND) or [take(desk)]
    assert lease.task == suspect
    assert stored == [(first.id, SUCCEEDED)]


def test_what_a_stop_gives_back_stays_in_its_order(make, storage, stored, patient):
    """One waits for its transaction, others have been brought: they go back together."""
    desk, tasks = in_stream(make, storage, stored)
    with desk._work:
        desk._hand = deque(older(held, -1000.0) for held in desk._hand)
    lease = take(desk)
    assert desk._hand
    desk._shutdown.begin(BOUND)
    # As the consumer does that could not begin it; the clerk has not been woken yet.
    desk.drop(lease)
    desk.release([lease])
    desk.wake()
    desk.close()
    assert ids(storage.admin.tasks(QUEUED, size=100)) == tasks[40:]
