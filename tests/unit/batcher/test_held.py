"""What is prefetched, and released if it cannot begin."""

from batchers import end
from batchers import eventually
from batchers import fill
from batchers import in_stream
from batchers import run
from batchers import take
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer import batcher as batcher_module
from collective.taskqueue.consumer.batcher import PATIENCE
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import Lease
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import new_task
import pytest
import time


def test_a_task_that_cannot_begin_is_released(make, storage, stored):
    """In its order, before all waiting tasks, with nothing in its history."""
    batcher, tasks = in_stream(make, storage, stored)
    slow = take(batcher)
    assert slow.task.id == tasks[40]
    eventually(lambda: storage.admin.counts()["queued"] == 59)
    assert ids(storage.admin.tasks(QUEUED, size=100)) == tasks[41:]
    assert ids(storage.admin.tasks(RUNNING)) == [slow.task.id]
    assert storage.admin.get(tasks[41]).attempts == ()
    (lease,) = storage.reserve("other", timeout=0)
    assert (lease.task.id, lease.attempt) == (tasks[41], 1)


def prefetching(make, storage, stored, now, **settings):
    """Return a batcher that has prefetched tasks, and has reported all completions."""
    fill(storage, 100)
    batcher = make(**settings)
    run(batcher, 40)
    now[0] += 2 * storage.delay
    batcher.wake()
    stored.wait_for(40)
    return batcher


def test_it_is_released_in_time(make, storage, stored, now):
    """Not before a thread had time to take it."""
    batcher = prefetching(make, storage, stored, now)
    take(batcher)
    now[0] += PATIENCE * 0.9
    batcher.wake()
    assert storage.released == []
    now[0] += PATIENCE * 0.2
    batcher.wake()
    eventually(lambda: storage.released)


def test_a_lease_that_may_be_over_is_not_begun(make, storage, stored, now, patient):
    """After a long outage, another consumer may have the task."""
    batcher = prefetching(make, storage, stored, now, lease=30.0)
    now[0] += 11.0
    (lease,) = aside(batcher.take).result(BOUND) or aside(batcher.take).result(BOUND)
    assert storage.released
    assert lease.expires > time.time() + 25.0
    assert lease.attempt == 1


def test_a_lease_that_is_not_begun_is_released_in_time(make, storage, stored, now, patient):
    """However long a task may wait: if its lease ended, it would lose a delivery."""
    batcher = prefetching(make, storage, stored, now, lease=6.0)
    take(batcher)
    now[0] += 1.0
    batcher.wake()
    assert storage.released == []
    now[0] += 1.5
    batcher.wake()
    eventually(lambda: storage.released)


def test_a_redelivered_task_begins_when_all_else_is_stored(make, storage, stored, patient):
    """D35: if it takes down the process again, the completions before it are stored."""
    first, second = new_task(), new_task()
    add(storage, first)
    storage.reserve("lost", timeout=0, lease=0.0)
    storage.admin.recover()
    batcher = make(concurrent_limit=2)
    redelivered = storage.reserve("consumer", timeout=0)[0]
    assert redelivered.attempt == 2
    add(storage, second)
    lease = take(batcher)
    storage.let(go=False)
    end(batcher, lease)
    storage.wait_for(1)
    # As a consumer does that could not begin it.
    batcher.release([redelivered])
    taken = aside(batcher.take)
    assert is_blocked(taken)
    storage.let(go=True)
    (lease,) = taken.result(BOUND)
    assert lease == redelivered
    assert stored == [(second.id, SUCCEEDED)]
    # Nothing is prefetched while it runs.
    fill(storage, 30)
    number = len(storage.calls)
    run(batcher, 12)
    stored.wait_for(13)
    assert {limit for _, limit in storage.calls[number:]} == {1}


def test_a_task_that_cannot_be_released_is_logged(make, storage, stored, caplog):
    """Its lease expires."""
    batcher, _ = in_stream(make, storage, stored)

    def broken(leases):
        raise ValueError("broken")

    storage.release = broken
    take(batcher)
    eventually(lambda: "not started, not released (broken), its lease expires" in caplog.text)


def test_a_task_that_cannot_be_released_now_is_later(make, storage, stored, quick):
    """No process was lost, so no attempt counts as lost, and the order stays."""
    batcher, tasks = in_stream(make, storage, stored)
    failures = [StorageUnavailable("gone")] * 3
    release = storage.release

    def away(leases):
        if failures:
            raise failures.pop()
        return release(leases)

    storage.release = away
    take(batcher)
    eventually(lambda: storage.admin.counts()["queued"] == 59)
    assert not failures
    assert ids(storage.admin.tasks(QUEUED, size=100)) == tasks[41:]


def test_it_is_tried_no_longer_than_the_leases_last(make, storage, stored, quick, now, caplog):
    """Then another consumer has released them, and completions are more urgent."""
    fill(storage, 100)
    batcher = make(lease=5.0)
    run(batcher, 40)
    now[0] += 2 * storage.delay
    batcher.wake()
    stored.wait_for(40)

    def away(leases):
        now[0] += 1.0
        raise StorageUnavailable("gone")

    storage.release = away
    slow = take(batcher)
    now[0] += 2 * PATIENCE
    batcher.wake()
    eventually(lambda: "not started, not released (gone), its lease expires" in caplog.text)
    end(batcher, slow)
    now[0] += 2 * storage.delay
    batcher.wake()
    stored.wait_for(41)


def test_a_task_that_must_not_be_lost_is_not_prefetched(make, storage, stored):
    """With one delivery only, a prefetched task would fail unseen if the process dies."""
    storage.settings = QueueSettings(max_deliveries=1)
    in_stream(make, storage, stored)
    assert {limit for _, limit in storage.calls} == {1}


def test_a_redelivered_task_of_the_storage_waits_as_well(make, storage, stored, monkeypatch):
    """D35: whichever thread gets it, and whether it is prefetched or not."""
    first, redelivered = new_task(), new_task()
    monkeypatch.setattr(Lease, "is_redelivered", property(lambda lease: lease.task == redelivered))
    add(storage, first)
    batcher = make(concurrent_limit=2)
    lease = take(batcher)
    waiting = aside(batcher.take)
    eventually(lambda: storage._memory.blocked["default"])
    storage.let(go=False)
    end(batcher, lease)
    storage.wait_for(1)
    add(storage, redelivered)
    assert waiting.result(BOUND) == []
    waiting = aside(batcher.take)
    assert is_blocked(waiting)
    storage.let(go=True)
    # Released and reserved again, if that took long.
    (lease,) = waiting.result(BOUND) or [take(batcher)]
    assert lease.task == redelivered
    assert stored == [(first.id, SUCCEEDED)]


def test_what_a_stop_releases_stays_in_its_order(make, storage, stored, shutdown, patient):
    """One waits for its transaction, others are prefetched: they are released together."""
    batcher, tasks = in_stream(make, storage, stored)
    lease = take(batcher)
    shutdown.begin(BOUND)
    # As a consumer does that could not begin it; the background thread has not been woken yet.
    batcher.drop(lease)
    batcher.release([lease])
    batcher.wake()
    batcher.close()
    assert ids(storage.admin.tasks(QUEUED, size=100)) == tasks[40:]


def test_a_rest_releases_what_is_prefetched(make, storage, stored, shutdown, monkeypatch):
    """No thread begins it, others may; after the rest the batcher takes tasks as before."""
    monkeypatch.setattr(batcher_module, "PATIENCE", LONG)
    batcher, tasks = in_stream(make, storage, stored, lease=LONG)
    lease = take(batcher)
    shutdown.rest()
    batcher.wake()
    eventually(lambda: ids(storage.admin.tasks(QUEUED, size=100)) == tasks[41:])
    assert batcher.take() == []
    end(batcher, lease)
    eventually(lambda: stored[-1] == (tasks[40], SUCCEEDED))
    assert ids(storage.admin.tasks(RUNNING)) == []
    shutdown.resume()
    assert take(batcher).task.id == tasks[41]


@pytest.mark.parametrize("threads", [1, 2])
def test_prefetched_tasks_wait_for_any_thread(make, storage, stored, threads, patient):
    """Each thread gets the oldest one."""
    batcher, tasks = in_stream(make, storage, stored, concurrent_limit=threads)
    assert [take(batcher).task.id for _ in range(threads)] == tasks[40 : 40 + threads]
