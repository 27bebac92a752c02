"""Which thread does the flush."""

from batchers import end
from batchers import eventually
from batchers import fill
from batchers import run
from batchers import take
from collective.taskqueue.consumer import batcher as batcher_module
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import is_blocked
from dataclasses import replace
from functools import partial
import pytest
import threading


def test_without_a_thread_each_completion_is_reported_alone(
    make, storage, stored, monkeypatch, caplog
):
    """No thread can be started: slower, and nothing is lost."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    tasks = fill(storage, 3)
    batcher = make()
    lease = batcher.take()[0]
    monkeypatch.setattr(threading.Thread, "start", refuse)
    end(batcher, lease)
    assert stored == [(tasks[0], SUCCEEDED)]
    assert f"task {tasks[0]}: no thread can be started" in caplog.text
    assert batcher.take()[0].task.id == tasks[1]
    monkeypatch.undo()
    assert storage.calls == []


def test_the_thread_survives_any_error_of_a_callback(make, storage, stored, caplog):
    tasks = fill(storage, 2)
    batcher = make()

    def broken():
        raise ValueError("broken")

    end(batcher, take(batcher), release=broken)
    lease = take(batcher)
    end(batcher, lease)
    stored.wait_for(1)
    assert stored[-1] == (tasks[1], SUCCEEDED)
    assert "could not be published" in caplog.text


def test_a_thread_flushes_by_itself_if_the_storage_computes_in_this_process(
    make, storage, stored, now
):
    """Two computing threads would take the interpreter's lock from each other."""
    storage.in_process = True
    flushers = set()
    storage.check_completion = lambda *args: flushers.add(threading.current_thread().name)
    tasks = fill(storage, 30)
    batcher = make()
    assert run(batcher, 30) == tasks
    assert aside(partial(batcher.take, 0)).result(BOUND) == []
    assert sorted(stored) == sorted((task_id, SUCCEEDED) for task_id in tasks)
    assert len(storage.calls) < 20
    assert not any("batcher" in name for name in flushers)


def test_the_background_thread_flushes_if_no_other_comes(make, storage, stored, now):
    """After twice the delay, so that others have the time to."""
    storage.in_process = True
    (task,) = fill(storage, 1)
    batcher = make()
    end(batcher, take(batcher))
    now[0] += 1.5 * storage.delay
    batcher.wake()
    assert stored == []
    now[0] += storage.delay
    batcher.wake()
    stored.wait_for(1)
    assert stored == [(task, SUCCEEDED)]


def test_the_background_thread_flushes_at_once_if_the_consumer_stops(
    make, storage, stored, now, shutdown
):
    storage.delay = 1000.0
    fill(storage, 2)
    batcher = make(concurrent_limit=2)
    lease = take(batcher)
    take(batcher)
    end(batcher, lease)
    shutdown.begin(BOUND)
    batcher.wake()
    stored.wait_for(1)


def test_the_background_thread_flushes_for_a_thread_that_waits(make, storage, stored, patient):
    """A redelivered task does not begin while any completion is not stored."""
    storage.delay = 1000.0
    (task,) = fill(storage, 1)
    batcher = make()
    lease = take(batcher)
    redelivered = replace(lease, token="redelivered", attempt=2, lost=1)
    storage.let(go=False)
    end(batcher, lease)
    batcher.release([redelivered])
    waiting = aside(batcher.take)
    assert is_blocked(waiting)
    storage.let(go=True)
    assert waiting.result(BOUND) == [redelivered]
    assert stored == [(task, SUCCEEDED)]


@pytest.mark.parametrize("released", [False, True])
def test_without_a_limit_no_thread_waits_for_a_flush(make, storage, released):
    """Nothing is prefetched then, and while many tasks run there is always a flush."""
    tasks = fill(storage, 2)
    batcher = make(concurrent_limit=0)
    lease = take(batcher)
    storage.let(go=False)
    end(batcher, lease)
    storage.wait_for(1)
    assert take(batcher).task.id == tasks[1]


def test_a_background_thread_that_died_is_replaced(make, storage, stored, monkeypatch):
    tasks = fill(storage, 2)
    batcher = make()
    run(batcher, 1)
    stored.wait_for(1)
    (thread,) = [each for each in threading.enumerate() if each.name.endswith("-batcher")]
    with monkeypatch.context() as patch:
        # It sleeps; when it is woken it cannot even look at the clock.
        patch.setattr(batcher_module, "min", lambda *args: 1 / 0, raising=False)
        patch.setattr(threading, "excepthook", lambda args: None)
        batcher.wake()
        thread.join(BOUND)
        assert not thread.is_alive()
    assert run(batcher, 1) == tasks[1:]
    stored.wait_for(2)
    eventually(lambda: storage.admin.counts()["succeeded"] == 2)
