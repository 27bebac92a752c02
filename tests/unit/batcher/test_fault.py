"""What is not lost when the storage fails, or the consumer stops."""

from batchers import end
from batchers import eventually
from batchers import fill
from batchers import in_stream
from batchers import run
from batchers import take
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import is_blocked
import pytest
import threading


@pytest.mark.parametrize("failures", [1, 3])
def test_an_outage_is_waited_out(make, storage, stored, quick, caplog, failures):
    """Nothing is taken meanwhile, and nothing is lost; each task is told of once."""
    tasks = fill(storage, 3)
    batcher = make()
    storage.failures = [StorageUnavailable("gone")] * failures
    end(batcher, take(batcher))
    assert take(batcher).task.id == tasks[1]
    assert stored == [(tasks[0], SUCCEEDED)]
    assert storage.calls == [(1, 1)] * (failures + 1)
    assert caplog.text.count("but its storage failed (gone), trying again") == 1


def test_one_end_that_cannot_be_stored_harms_no_other(make, storage, stored, quick, caplog):
    """Each is then handed in by itself, without what the storage cannot hold at last."""
    tasks = fill(storage, 6)
    batcher = make(concurrent_limit=3)
    leases = [take(batcher) for _ in range(3)]

    def choke(lease, transition):
        if lease.task.id == tasks[1] and not transition.truncated:
            raise TypeError("cannot hold this")

    storage.check_completion = choke
    storage.let(go=False)
    for lease in leases:
        end(batcher, lease)
    storage.let(go=True)
    stored.wait_for(3)
    assert sorted(stored) == sorted((task_id, SUCCEEDED) for task_id in tasks[:3])
    assert storage.admin.get(tasks[1]).truncated
    assert not storage.admin.get(tasks[2]).truncated


def test_who_waits_is_let_go_by_the_stop(make, storage, stored, shutdown):
    """And what was brought for it goes back."""
    batcher, _ = in_stream(make, storage, stored)
    storage.let(go=False)
    number = len(storage.calls)
    end(batcher, take(batcher))
    storage.wait_for(number + 1)

    def drain():
        while leases := batcher.take():
            end(batcher, leases[0])

    waiting = aside(drain)
    assert is_blocked(waiting)
    shutdown.begin(BOUND)
    batcher.wake()
    waiting.result(BOUND)
    storage.let(go=True)
    batcher.close()
    counts = storage.admin.counts()
    assert counts[RUNNING] == 0
    assert counts[SUCCEEDED] == len(stored)
    assert counts[QUEUED] + counts[SUCCEEDED] == 100


def test_a_stop_during_an_outage_says_what_will_run_again(
    make, storage, stored, quick, caplog, shutdown
):
    (task,) = fill(storage, 1)
    batcher = make()
    storage.failures = [StorageUnavailable("gone")] * 10_000
    released = []
    end(batcher, take(batcher), release=lambda: released.append(True))
    shutdown.begin(0.0)
    batcher.close()
    message = f"task {task}: succeeded, but stopped before its storage knew; it will run again"
    eventually(lambda: message in caplog.text)
    assert released
    assert stored == []


def test_a_completion_after_the_stop_is_reported(make, storage, stored, shutdown):
    """It ran longer than the grace period, and the process is still there."""
    (task,) = fill(storage, 1)
    batcher = make()
    lease = take(batcher)
    shutdown.begin(0.0)
    batcher.close()
    end(batcher, lease, FAILED)
    assert stored == [(task, FAILED)]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_stopped_consumer_keeps_nothing(storage, limit):
    """A stop at any moment leaves each task completed, or queued as if never reserved."""
    tasks = fill(storage, 400)
    begun = threading.Event()
    performed = []

    def perform(attempt):
        performed.append(attempt.task.id)
        if len(performed) == 100:
            begun.set()
        return Outcome(200)

    settings = ServerSettings(concurrent_limit=limit, grace=BOUND)
    consumer = Consumer(storage, perform, settings)
    consumer.start()
    assert begun.wait(BOUND)
    consumer.stop()
    counts = storage.admin.counts()
    assert counts[RUNNING] == 0
    assert counts[SUCCEEDED] == len(performed)
    assert counts[SUCCEEDED] + counts[QUEUED] == 400
    left = ids(storage.admin.tasks(QUEUED, size=400))
    assert left == [task_id for task_id in tasks if task_id not in set(performed)]
    assert all(storage.admin.get(task_id).attempts == () for task_id in left)
    add_one(storage)


def test_one_end_that_can_never_be_stored_harms_no_other(make, storage, stored, quick):
    """It is retried again and again in another thread; the batcher goes on."""
    tasks = fill(storage, 6)
    batcher = make(concurrent_limit=2)
    leases = [take(batcher), take(batcher)]
    broken = threading.Event()
    broken.set()

    def choke(lease, transition):
        if lease.task.id == tasks[0] and broken.is_set():
            raise TypeError("cannot hold this")

    storage.check_completion = choke
    for lease in leases:
        end(batcher, lease)
    stored.wait_for(1)
    assert stored == [(tasks[1], SUCCEEDED)]
    assert run(batcher, 4) == tasks[2:]
    stored.wait_for(5)
    broken.clear()
    stored.wait_for(6)
    assert stored[-1] == (tasks[0], SUCCEEDED)


def test_an_end_that_is_lost_renews_no_lease(make, storage, stored, caplog):
    """After any error in the batcher: the task runs again, and is not held for ever."""
    tasks = fill(storage, 2)
    batcher = make()
    released = []

    def struck(lease, transition):
        raise SystemExit

    storage.check_completion = struck
    end(batcher, take(batcher), release=lambda: released.append(True))
    eventually(lambda: released)
    del storage.check_completion
    assert run(batcher, 1) == tasks[1:]
    stored.wait_for(1)
