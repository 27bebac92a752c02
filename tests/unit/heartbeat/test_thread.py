"""The thread that watches: when it sleeps and wakes, and that it lives on."""

from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.heartbeat import CANCEL_INTERVAL
from collective.taskqueue.consumer.heartbeat import Heartbeat
from collective.taskqueue.consumer.heartbeat import INTERRUPT_INTERVAL
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Task
from heartbeats import BOUND
from heartbeats import LEASE
from heartbeats import make_attempt
from heartbeats import Spinning
import pytest
import threading
import time


class Watched(threading.Condition):
    """A condition that remembers the timeout of each wait."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self.sleeping = threading.Event()

    def wait(self, timeout=None):
        self.waits.append(timeout)
        if timeout is None:
            self.sleeping.set()
        return super().wait(timeout)


# the thread


def test_the_thread_is_started_with_the_first_task_and_stopped(storage):
    """No task, no thread."""
    heartbeat = Heartbeat(storage, LEASE, "heartbeat-of-the-test")
    assert "heartbeat-of-the-test" not in [thread.name for thread in threading.enumerate()]
    for _ in range(3):
        with heartbeat.watch(make_attempt(storage)):
            names = [thread.name for thread in threading.enumerate()]
            assert names.count("heartbeat-of-the-test") == 1
    heartbeat.stop()
    heartbeat._thread.join(BOUND)
    assert not heartbeat._thread.is_alive()


def test_it_sleeps_without_a_limit_while_nothing_runs(storage):
    """And is woken by the next task, not by a clock."""
    heartbeat = Heartbeat(storage, 0.03, "heartbeat-of-the-test")
    heartbeat._changed = Watched()
    for _ in range(3):
        with heartbeat.watch(make_attempt(storage)):
            pass
        assert heartbeat._changed.sleeping.wait(BOUND)
        with heartbeat._changed:
            assert heartbeat._changed.waits[-1] is None
            heartbeat._changed.sleeping.clear()
    heartbeat.stop()
    heartbeat._thread.join(BOUND)
    assert not heartbeat._thread.is_alive()


def test_it_sleeps_for_one_renewal_while_tasks_run(storage):
    """Once for all of them, and no longer than the nearest timeout."""
    heartbeat = Heartbeat(storage, LEASE, "heartbeat-of-the-test")
    heartbeat._changed = Watched()
    with heartbeat.watch(make_attempt(storage, "a")), heartbeat.watch(make_attempt(storage, "b")):
        task = Spinning(heartbeat, storage, timeout=0.05)
        assert isinstance(task.join(), TaskTimeout)
    heartbeat.stop()
    heartbeat._thread.join(BOUND)
    assert not heartbeat._thread.is_alive()
    longest = max(wait for wait in heartbeat._changed.waits if wait is not None)
    assert longest <= LEASE / 3


def test_its_thread_renews_by_itself(storage):
    """While a task runs, as often as it takes."""
    renewed = threading.Semaphore(0)
    storage.renew = lambda lease, seconds: renewed.release() or True
    heartbeat = Heartbeat(storage, 0.03, "heartbeat-of-the-test")
    with heartbeat.watch(make_attempt(storage)):
        for _ in range(3):
            assert renewed.acquire(timeout=BOUND)
    heartbeat.stop()


def test_its_thread_lives_on(storage, caplog):
    """After any error; the thread logs the error, and does not spin."""
    attempt = make_attempt(storage, timeout=0.001)
    interrupted = threading.Event()
    failures = [ValueError("broken")] * 2

    def interrupt():
        if failures:
            raise failures.pop()
        interrupted.set()
        return True

    attempt.interrupt = interrupt
    heartbeat = Heartbeat(storage, LEASE, "heartbeat-of-the-test")
    began = time.monotonic()
    with heartbeat.watch(attempt):
        assert interrupted.wait(BOUND)
        assert time.monotonic() - began >= INTERRUPT_INTERVAL
    heartbeat.stop()
    expected = "checking leases and timeouts failed, trying again"
    assert [message for message in caplog.messages if "checking" in message] == [expected] * 2


def test_a_failure_with_one_task_does_not_cost_the_others_their_leases(storage, heartbeat):
    """Else they would run twice."""
    broken = make_attempt(storage, "broken", timeout=50.0)

    def interrupt():
        raise ValueError("broken")

    broken.interrupt = interrupt
    sound = make_attempt(storage, "sound")
    with (
        heartbeat.watch(broken),
        heartbeat.watch(sound),
        pytest.raises(ValueError, match="broken"),
    ):
        heartbeat.look(time.monotonic() + 101)
    assert [name for name, _ in storage.renewed] == ["broken", "sound"]


# cancellation


def make_hook(storage, name="t"):
    task = Task(id=name, queue="default", url="https://example.org/", timeout=None)
    return Attempt(Lease(task, f"token-{name}", "consumer", 1, 0, 0.0), storage)


def test_a_cancelled_web_hook_is_cut_within_a_second(heartbeat, storage):
    """H15: it waits for another server, and cannot ask for itself."""
    attempt, cuts = make_hook(storage), []
    with heartbeat.watch(attempt), attempt.cut_by(lambda: cuts.append(1)):
        now = time.monotonic()
        heartbeat.look(now + CANCEL_INTERVAL * 1.01)
        assert cuts == []
        storage.report = lambda lease, progress=None: True
        attempt._asked = 0.0
        heartbeat.look(now + CANCEL_INTERVAL * 1.5)
        assert cuts == []
        heartbeat.look(now + CANCEL_INTERVAL * 2.1)
        assert cuts == [1]


def test_the_storage_is_asked_for_web_hooks_only(heartbeat, storage):
    """Only once they wait for a server; a task of Zope asks by itself."""
    asked = []
    storage.report = lambda lease, progress=None: asked.append(lease.task.id)
    hook, other = make_hook(storage, "hook"), make_hook(storage, "not-yet")
    task = make_attempt(storage, "task")
    with heartbeat.watch(hook), heartbeat.watch(other), heartbeat.watch(task), hook.cut_by(list):
        heartbeat.look(time.monotonic() + CANCEL_INTERVAL * 1.01)
    assert asked == ["hook"]


def test_its_thread_wakes_for_cancellation(storage):
    """However long lease and timeout are, and only while a web hook runs."""
    heartbeat = Heartbeat(storage, LEASE, "heartbeat-of-the-test")
    heartbeat._changed = Watched()
    with (
        heartbeat.watch(make_attempt(storage, "task")),
        heartbeat.watch(make_hook(storage)) as watched,
    ):
        assert watched is None
        wait_until(
            lambda: any(wait and wait <= CANCEL_INTERVAL for wait in heartbeat._changed.waits)
        )
    heartbeat.stop()
    heartbeat._thread.join(BOUND)
    assert not heartbeat._thread.is_alive()


def wait_until(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_thread_that_cannot_be_had_is_asked_for_again(heartbeat, storage, monkeypatch, caplog):
    """Else no lease of this consumer would ever be renewed again, and tasks would run twice."""
    start = threading.Thread.start

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with heartbeat.watch(make_attempt(storage, "a")):
        assert caplog.messages == [
            "task a: no thread can be started (can't start new thread), its lease is not renewed"
        ]
        monkeypatch.setattr(threading.Thread, "start", start)
        with heartbeat.watch(make_attempt(storage, "b")):
            assert heartbeat._thread.is_alive()
        assert [attempt.task.id for attempt in heartbeat.running()] == ["a"]
    assert heartbeat.running() == []
