"""A consumer that rests, and what is wrong with one that does not work any more."""

from collective.taskqueue.consumer import pulse
from collective.taskqueue.consumer.shutdown import Shutdown
from collective.taskqueue.consumer.tally import Tally
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import BOUND
from consumers import FarStorage
from consumers import started
import pytest
import threading
import time


def wait_for(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_succeeded(storage, task):
    return lambda: storage.admin.get(task.id).state == SUCCEEDED


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_rest_and_resume(make, storage, door, running, perform, limit):
    """The running task finishes, no other begins; after `resume` they begin."""
    first = add_one(storage)
    consumer = make(perform, concurrent_limit=limit)
    with started(consumer):
        assert running.wait(BOUND)
        assert not consumer.rest()
        if limit == 0:
            # The task has a thread of its own; the one that takes tasks rests already.
            wait_for(lambda: consumer._pulse.all_rest(consumer._threads))
        assert not consumer.rest()
        door.set()
        wait_for(consumer.rest)
        assert storage.admin.get(first.id).state == SUCCEEDED
        more = [add_one(storage) for _ in range(10)]
        # All threads rest, and none of them has left a task behind.
        assert consumer.rest()
        assert {storage.admin.get(each.id).state for each in more} == {QUEUED}
        consumer.resume()
        for each in more:
            wait_for(is_succeeded(storage, each))


def test_a_stop_is_not_undone():
    """A consumer that was told to stop does not take tasks, whatever it is told after that."""
    shutdown = Shutdown()
    shutdown.rest()
    shutdown.resume()
    assert shutdown.takes
    shutdown.begin(BOUND)
    shutdown.resume()
    assert not shutdown.takes


def test_a_rest_that_ends_by_a_stop(make, storage):
    """The threads end, though nobody has resumed them."""
    consumer = make()
    with started(consumer):
        wait_for(consumer.rest)
    assert not any(thread.is_alive() for thread in consumer._threads)


def test_a_thread_that_has_ended(make, storage, monkeypatch):
    """It is named, so that the process can be replaced."""
    consumer = make()

    def end():
        raise SystemExit

    monkeypatch.setattr(consumer._shutdown, "wait_while_resting", end)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with started(consumer):
        assert consumer.stuck() == []
        consumer.rest()
        wait_for(consumer.stuck)
        assert consumer.stuck() == ["taskqueue-default-worker1-1"]


def test_a_dead_thread_does_not_hinder_a_rest():
    """It takes no tasks either; without this the process would never leave."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    assert not pulse.Pulse().all_rest([threading.current_thread()])
    thread.join(BOUND)
    assert pulse.Pulse().all_rest([thread])


def test_a_thread_that_does_not_move(make, storage, monkeypatch):
    """One that waits in a storage that answers in time is stuck; one that runs a task is not."""
    remote = isinstance(storage, FarStorage)
    consumer = make()
    with started(consumer):
        assert storage.asked.wait(BOUND)
        assert consumer.stuck() == []
        monkeypatch.setattr(pulse, "STUCK", -1.0)
        assert consumer.stuck() == (["taskqueue-default-worker1-1"] if remote else [])


def test_a_long_task_is_not_stuck(make, storage, door, running, perform, monkeypatch):
    add_one(storage)
    consumer = make(perform)
    with started(consumer):
        assert running.wait(BOUND)
        monkeypatch.setattr(pulse, "STUCK", -1.0)
        assert consumer.stuck() == []
        door.set()


def test_the_tally():
    """An alarm goes off once, in the thread that finishes the attempt, or at once."""
    tally, alarms = Tally(), []
    tally.alarm(2, lambda: alarms.append(threading.get_ident()))
    tally.add(SUCCEEDED)
    assert alarms == []
    tally.add(FAILED)
    tally.add(None)
    assert alarms == [threading.get_ident()]
    assert tally.counts() == {SUCCEEDED: 1, FAILED: 1, None: 1}
    tally.alarm(3, lambda: alarms.append("now"))
    assert alarms[1:] == ["now"]
