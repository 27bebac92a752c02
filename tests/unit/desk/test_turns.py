"""Who goes to the storage: a thread, or the clerk."""

from collective.taskqueue.consumer import clerk as clerk_room
from collective.taskqueue.consumer.clerk import BusyDesk
from collective.taskqueue.consumer.clerk import MOMENT
from collective.taskqueue.consumer.clerk import PATIENCE
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from dataclasses import replace
from desks import end
from desks import eventually
from desks import fill
from desks import run
from desks import take
from functools import partial
from types import SimpleNamespace
import pytest
import threading
import time


def test_without_a_clerk_each_hands_in_by_itself(make, storage, stored, monkeypatch, caplog):
    """No thread can be had: slower, and nothing is lost."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    tasks = fill(storage, 3)
    desk = make()
    lease = desk.take()[0]
    monkeypatch.setattr(threading.Thread, "start", refuse)
    end(desk, lease)
    assert stored == [(tasks[0], SUCCEEDED)]
    assert f"task {tasks[0]}: no thread can be started" in caplog.text
    assert desk.take()[0].task.id == tasks[1]
    monkeypatch.undo()
    assert storage.exchanges == []


def test_a_clerk_lives_on_whatever_happens(make, storage, stored, caplog):
    """What it is called back with may be wrong."""
    tasks = fill(storage, 2)
    desk = make()

    def broken():
        raise ValueError("broken")

    end(desk, take(desk), release=broken)
    lease = take(desk)
    end(desk, lease)
    stored.wait_for(1)
    assert stored[-1] == (tasks[1], SUCCEEDED)
    assert "could not be published" in caplog.text


def test_a_thread_goes_by_itself_to_what_is_nearby(make, storage, stored, monkeypatch):
    """It does not wait for a clerk, who would compute in its stead."""
    monkeypatch.setattr(BusyDesk, "_run", lambda self: self._shutdown.begun.wait(BOUND))
    storage.in_process = True
    tasks = fill(storage, 30)
    desk = make()
    assert run(desk, 30) == tasks
    assert aside(partial(desk.take, 0)).result(BOUND) == []
    assert sorted(stored) == sorted((task_id, SUCCEEDED) for task_id in tasks)
    assert len(storage.exchanges) < 20
    desk._shutdown.begin(0)


def test_the_clerk_goes_if_nobody_comes(make, storage, stored, now):
    """It lets them have the time to: two that compute take the lock from each other."""
    storage.in_process = True
    tasks = fill(storage, 9)
    desk = make()
    assert run(desk, 9) == tasks
    with desk._work:
        assert desk._ends
        assert desk._is_pressing()
        assert desk._pause() == pytest.approx(2 * storage.delay)
        now[0] += 1.5 * storage.delay
        assert not desk._is_its_turn()
        now[0] += storage.delay
    stored.wait_for(9)


def test_the_clerk_goes_at_once_if_the_consumer_stops(make, storage, stored, now):
    storage.delay = 1000.0
    fill(storage, 1)
    desk = make(concurrent_limit=2)
    end(desk, take(desk))
    desk._shutdown.begin(BOUND)
    desk.wake()
    stored.wait_for(1)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_clerk_goes_for_a_thread_that_waits(make, storage, stored, now, threads):
    """For a task that was lost before: it does not begin while anything is unsaid."""
    (task,) = fill(storage, 1)
    storage.delay = 1000.0 if threads == 1 else PATIENCE / 2
    desk = make(concurrent_limit=threads)
    lease = take(desk)
    suspect = replace(lease, token="suspect", attempt=2, counted=0)
    with desk._work:
        desk._put_in_hand([suspect, suspect])
    rests = []
    desk._pause = lambda: rests.append(True) or 10 * BOUND
    end(desk, lease)
    # With the lock; it is let go when the clerk waits.
    eventually(lambda: rests)
    with desk._work:
        assert not desk._waiting
    waiting = aside(desk.take)
    if threads == 2:
        # The other one may still add something.
        eventually(lambda: desk._waiting)
        assert stored == []
        with desk._work:
            assert not desk._is_its_turn()
            now[0] += storage.delay
            assert desk._is_its_turn()
            desk._work.notify()
    assert waiting.result(BOUND) == [suspect]
    assert stored == [(task, SUCCEEDED)]


def test_threads_give_way_to_a_clerk_that_works(make, storage, stored, monkeypatch):
    """Else it waits for the interpreter's lock, as long as they compute."""
    fill(storage, 2)
    desk = make()
    with desk._work:
        desk._put_in_hand(storage.reserve("consumer", limit=2, timeout=0))
    slept: list[float] = []
    pauses = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr(clerk_room, "time", pauses)
    take(desk)
    assert slept == []
    desk._under_way = True
    take(desk)
    assert slept == [MOMENT]
    desk._under_way = False


def test_without_a_limit_nobody_waits_for_the_clerk(make, storage):
    """The clerk brings nothing then, and while many tasks run it is always away."""
    tasks = fill(storage, 2)
    desk = make(concurrent_limit=0)
    lease = take(desk)
    storage.let(go=False)
    end(desk, lease)
    storage.wait_for(1)
    assert take(desk).task.id == tasks[1]


def test_a_clerk_that_died_is_replaced(make, storage, stored, monkeypatch):
    """Nobody should wait for one who does not come back."""
    tasks = fill(storage, 2)
    desk = make()
    run(desk, 1)
    stored.wait_for(1)
    clerk = desk._clerk
    with monkeypatch.context() as patch:
        # It is asleep; when it is woken it cannot even look around.
        patch.setattr(desk, "_is_late", lambda: 1 / 0)
        patch.setattr(threading, "excepthook", lambda args: None)
        desk.wake()
        clerk.join(BOUND)
        assert not clerk.is_alive()
    assert run(desk, 1) == tasks[1:]
    stored.wait_for(2)
