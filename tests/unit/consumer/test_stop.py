"""How a consumer stops, and what it waits for."""

from collective.taskqueue.consumer import consumer as consumer_module
from collective.taskqueue.consumer import shutdown
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import new_task
from consumers import messages
from consumers import NAME
from consumers import started
import logging
import pytest
import threading


@pytest.mark.parametrize("method", ["reserve", "complete"])
def test_a_pause_is_interrupted_by_the_stop(make, storage, method, monkeypatch, caplog):
    """The stop does not wait for a back-off and retries nothing early; a lost result is logged."""
    for module in (consumer_module, shutdown):
        monkeypatch.setattr(module, "pause", lambda errors: 10 * BOUND)
    failed = threading.Event()

    class Failures(list):
        def pop(self, index):
            failed.set()
            return super().pop(index)

    storage.failures[method] = Failures([StorageUnavailable("gone")] * 1000)
    task = add_one(storage)
    with started(make(), grace=1.0):
        assert failed.wait(BOUND)
    lost = f"task {task.id}: succeeded, but stopped before its storage knew; it will run again"
    assert (lost in caplog.messages) is (method == "complete")
    # A result has a last try when the grace period ends.
    assert storage.finishes == (2 if method == "complete" else 0)
    assert len(storage.reserves) == 1
    assert storage.admin.get(task.id).state == (RUNNING if method == "complete" else QUEUED)


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_stop_drains(make, storage, door, running, perform, limit):
    """C89, H25, O19: what runs ends, what waits stays queued."""
    first = add_one(storage)
    consumer = make(perform, concurrent_limit=limit)
    consumer.start()
    assert running.wait(BOUND)
    storage.admin.pause()
    second = add_one(storage)
    stopping = aside(consumer.stop)
    assert is_blocked(stopping)
    storage.admin.resume()
    door.set()
    stopping.result(BOUND)
    assert storage.admin.get(first.id).state == SUCCEEDED
    assert storage.admin.get(second.id).state == QUEUED
    assert not any(thread.is_alive() for thread in [*consumer._threads, *consumer._extra])


def test_a_stop_waits_for_what_was_taken_at_the_last_moment(make, storage, door, perform, told):
    """Without a limit a thread for it may be started when the stop has already begun."""
    woken = threading.Semaphore(0)
    wake, reserve = storage.wake, storage.reserve
    storage.wake = lambda: (wake(), woken.release())

    def reserve_late(*args, **more):
        # The second time `stop` wakes it already waits for its threads.
        assert woken.acquire(timeout=BOUND)
        assert woken.acquire(timeout=BOUND)
        return reserve(*args, **{**more, "timeout": 0})

    storage.reserve = reserve_late
    task = add_one(storage)
    consumer = make(perform, concurrent_limit=0)
    consumer.start()
    stopping = aside(consumer.stop)
    assert is_blocked(stopping)
    with told.changed:
        assert told.changed.wait_for(lambda: (RUNNING, task.id) in told, BOUND)
    assert is_blocked(stopping)
    door.set()
    stopping.result(BOUND)
    assert storage.admin.get(task.id).state == SUCCEEDED


def test_a_stuck_task_is_left_and_said_to_be(make, storage, running, perform, caplog):
    """After the grace period, with its lease: it may yet commit."""
    task = add_one(storage)
    consumer = make(perform, grace=0.05)
    consumer.start()
    assert running.wait(BOUND)
    aside(consumer.stop).result(BOUND)
    expected = f"task {task.id}: still running after the grace period, left unfinished"
    assert messages(caplog, logging.ERROR) == [expected]
    assert storage.admin.get(task.id).state == RUNNING
    assert storage.admin.recover() == []


def test_a_stopped_consumer_takes_nothing(make, storage):
    """Its threads are gone."""
    consumer = make(concurrent_limit=2)
    consumer.start()
    consumer.stop()
    task = add_one(storage)
    assert not any(thread.is_alive() for thread in consumer._threads)
    assert storage.admin.get(task.id).state == QUEUED


def test_it_says_when_it_starts_and_stops(make, caplog):
    """One line each, with name and queue."""
    caplog.set_level(logging.INFO, NAME)
    consumer = make(concurrent_limit=0)
    consumer.start()
    consumer.stop()
    assert [m for m in caplog.messages if "worker1 of queue default: st" in m] == [
        "consumer worker1 of queue default: started, concurrent limit none",
        "consumer worker1 of queue default: stopping, 0 tasks running",
        "consumer worker1 of queue default: stopped",
    ]


def test_an_outage_while_it_stops_is_waited_for(make, storage, perform, running, door, quick):
    """As long as there is grace left: else the task would run again."""
    task = add_one(storage)
    storage.failures["complete"] = [StorageUnavailable("away")] * 5
    consumer = make(perform, grace=BOUND)
    consumer.start()
    assert running.wait(BOUND)
    stopping = aside(consumer.stop)
    assert consumer._shutdown.begun.wait(BOUND)
    door.set()
    stopping.result(BOUND)
    assert storage.admin.get(task.id).state == SUCCEEDED


def test_a_stop_while_a_task_waits_for_its_transaction(make, storage):
    """The attempt has not begun: the task returns to its place, for another consumer."""
    waiting = threading.Event()

    def ready(tid):
        waiting.set()
        return False

    storage.stage("batch", [new_task(id="a")])
    storage.promote("batch", b"\0" * 8)
    with started(make(ready=ready)):
        assert waiting.wait(BOUND)
    add_one(storage)
    status = storage.admin.get("a")
    assert (status.state, status.attempts) == (QUEUED, ())
    (lease,) = storage.reserve("other", timeout=0)
    assert (lease.task.id, lease.attempt) == ("a", 1)
