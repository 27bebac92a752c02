"""The watch over running tasks, at times that the test chooses."""

from collective.taskqueue.attempt import Attempt
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.keeper import CANCEL_INTERVAL
from collective.taskqueue.keeper import INTERRUPT_INTERVAL
from collective.taskqueue.keeper import Keeper
from collective.taskqueue.keeper import STUCK_INTERVAL
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Task
from itertools import pairwise
from math import ceil
import logging
import pytest
import threading
import time


#: Seconds after which a test fails; nothing here takes that long.
BOUND = 30.0

#: Seconds of a lease; its thread does not look by itself while a test lasts.
LEASE = 300.0


class Renewals:
    """A storage that remembers what is renewed, and answers as it is told."""

    def __init__(self):
        self.renewed = []
        self.answers = []

    def renew(self, lease, seconds):
        self.renewed.append((lease.task.id, seconds))
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def report(self, lease, progress=None):
        return False


class Watched(threading.Condition):
    """A condition that remembers how long somebody was going to wait for it."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self.sleeping = threading.Event()

    def wait(self, timeout=None):
        self.waits.append(timeout)
        if timeout is None:
            self.sleeping.set()
        return super().wait(timeout)


@pytest.fixture
def storage():
    return Renewals()


@pytest.fixture
def keeper(storage):
    keeper = Keeper(storage, LEASE, "keeper-of-the-test")
    yield keeper
    keeper.stop()
    if keeper._thread is not None:
        keeper._thread.join(BOUND)
        assert not keeper._thread.is_alive()


def make_attempt(storage, name="t", timeout=None):
    task = Task(id=name, queue="default", url="/", timeout=timeout)
    return Attempt(Lease(task, f"token-{name}", "consumer", 1, 0, 0.0), storage)


class Spinning:
    """A task that runs until it is interrupted, or deaf to it, until it is told to end."""

    def __init__(self, keeper, storage, timeout, deaf=False):
        self.attempt = make_attempt(storage, timeout=timeout)
        self.ended = threading.Event()
        self.outcome = None
        self._keeper = keeper
        self._deaf = deaf
        self._entered = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._entered.wait(BOUND)

    def _run(self):
        try:
            with self._keeper.watch(self.attempt):
                self.attempt.call(self._spin)
        except BaseException as exc:
            self.outcome = exc

    def _spin(self):
        self.attempt.interruptible()
        self._entered.set()
        while not self.ended.is_set():
            try:
                for _ in range(1000):
                    pass
            except TaskTimeout:
                if not self._deaf:
                    raise

    def end(self):
        self.ended.set()
        return self.join()

    def join(self):
        self._thread.join(BOUND)
        assert not self._thread.is_alive()
        return self.outcome


def interruption(caplog):
    return [message for message in caplog.messages if "over its timeout" in message]


def stuck(caplog):
    return [message for message in caplog.messages if "cannot be interrupted" in message]


# leases


def test_a_lease_is_renewed_when_a_third_of_it_has_passed(keeper, storage):
    """Once for each third, to its full length, as long as the task runs; D46."""
    with keeper.watch(make_attempt(storage)):
        now = time.monotonic()
        for seconds, expected in ((99, 0), (101, 1), (101, 1), (200, 1), (202, 2), (303, 3)):
            keeper.look(now + seconds)
            assert storage.renewed == [("t", LEASE)] * expected
    keeper.look(now + 1000)
    assert len(storage.renewed) == 3


def test_every_running_task_is_renewed(keeper, storage):
    """Each at its own time."""
    with keeper.watch(make_attempt(storage, "a")):
        now = time.monotonic()
        keeper.look(now + 101)
        with keeper.watch(make_attempt(storage, "b")):
            assert [attempt.task.id for attempt in keeper.running()] == ["a", "b"]
            keeper.look(now + 150)
            keeper.look(now + 210)
        assert [attempt.task.id for attempt in keeper.running()] == ["a"]
    assert keeper.running() == []
    assert [name for name, _ in storage.renewed] == ["a", "b", "a"]


@pytest.mark.parametrize("failure", [StorageUnavailable("gone"), OSError("broken")])
def test_an_outage_is_told_and_tried_again(keeper, storage, caplog, failure):
    """And the other tasks do not suffer from it."""
    storage.answers = [failure]
    with keeper.watch(make_attempt(storage, "a")), keeper.watch(make_attempt(storage, "b")):
        now = time.monotonic()
        keeper.look(now + 101)
        keeper.look(now + 202)
    assert [name for name, _ in storage.renewed] == ["a", "b", "a", "b"]
    assert caplog.messages == [
        f"task a: lease not renewed ({failure}), another consumer may run it"
    ]


def test_a_lost_lease_is_told(keeper, storage, caplog):
    """The task goes on, but its result will be dropped."""
    storage.answers = [False]
    with keeper.watch(make_attempt(storage)):
        keeper.look(time.monotonic() + 101)
    assert caplog.messages == ["task t: lease lost while running, its result will be dropped"]


def test_a_lost_lease_is_told_once_and_not_renewed_again(keeper, storage, caplog):
    storage.answers = [False, True, True]
    now = time.monotonic()
    with keeper.watch(make_attempt(storage)):
        for seconds in (101, 202, 303):
            keeper.look(now + seconds)
    assert len(caplog.messages) == 1
    assert len(storage.renewed) == 1


def test_a_lease_that_could_not_be_renewed_is_tried_again_soon(keeper, storage):
    """Long before it expires: an outage of a second must not cost it."""
    storage.answers = [ConnectionError("away"), True]
    now = time.monotonic()
    with keeper.watch(make_attempt(storage)):
        keeper.look(now + 101)
        keeper.look(now + 101 + LEASE / 10)
        assert len(storage.renewed) == 2
        keeper.look(now + 101 + LEASE / 5)
        assert len(storage.renewed) == 2


def test_a_task_that_has_ended_may_have_no_lease(keeper, storage, caplog):
    """Its outcome is being stored, and the lease ends with that."""
    storage.answers = [False]
    attempt = make_attempt(storage, timeout=1.0)
    with keeper.watch(attempt):
        with attempt:
            pass
        keeper.look(time.monotonic() + 101)
        keeper.look(time.monotonic() + 1000)
    assert caplog.messages == []


def test_only_the_timeout_waits_for_the_task_to_begin(keeper, storage, caplog):
    """The lease has begun."""
    with keeper.watch(make_attempt(storage, timeout=1.0), timed=False):
        keeper.look(time.monotonic() + 101)
    assert len(storage.renewed) == 1
    assert caplog.messages == []


# timeouts


def test_a_task_is_interrupted_when_its_time_is_over(keeper, storage, caplog):
    """Not before; with one line."""
    task = Spinning(keeper, storage, timeout=50.0)
    now = time.monotonic()
    keeper.look(now + 49)
    assert interruption(caplog) == []
    look_until_interrupted(keeper, now + 50, caplog)
    assert isinstance(task.join(), TaskTimeout)
    assert interruption(caplog) == ["task t: over its timeout of 50 s, interrupted"]
    assert stuck(caplog) == []


def look_until_interrupted(keeper, now, caplog):
    """Look as often as it takes: a thread may be where it must not be torn apart."""
    deadline = time.monotonic() + BOUND
    while not interruption(caplog):
        assert time.monotonic() < deadline, "never interrupted"
        keeper.look(now)
        now += INTERRUPT_INTERVAL
    return now


def test_a_task_without_a_timeout_is_left_alone(keeper, storage, caplog):
    """However long it runs."""
    task = Spinning(keeper, storage, timeout=None)
    keeper.look(time.monotonic() + 10**6)
    assert task.end() is None
    assert caplog.messages == []


def test_what_cannot_be_interrupted_now_is_tried_again_soon(keeper, storage, caplog):
    """It has not begun to run its view, or is in code that must not be torn apart."""
    attempt = make_attempt(storage, timeout=50.0)
    tries = []
    attempt.interrupt = lambda: tries.append(1) and False
    with keeper.watch(attempt):
        now = time.monotonic() + 50
        for step in range(1, 11):
            keeper.look(now)
            keeper.look(now + INTERRUPT_INTERVAL / 2)
            assert len(tries) == step
            now += INTERRUPT_INTERVAL * 1.01
    assert caplog.messages == []


def test_a_stuck_task_is_reported_every_minute(keeper, storage, caplog):
    """With its stack, and its lease is renewed all the same: it never runs twice."""
    attempt = make_attempt(storage, timeout=50.0)
    attempt.interrupt = lambda: False
    with keeper.watch(attempt):
        # Whole seconds: their differences are exact.
        now = ceil(time.monotonic())
        for second in range(40, 300):
            keeper.look(now + second)
    reports = stuck(caplog)
    assert len(reports) == 4
    times = [int(report.split("runs for ")[1].split(" s")[0]) for report in reports]
    assert times[0] >= 50 + STUCK_INTERVAL
    assert [later - earlier for earlier, later in pairwise(times)] == [60] * 3
    assert "test_a_stuck_task_is_reported_every_minute" in reports[0]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert len(storage.renewed) == 2


def test_a_task_that_swallows_the_timeout_is_interrupted_again(keeper, storage, caplog):
    """After a minute, and said to be stuck."""
    task = Spinning(keeper, storage, timeout=50.0, deaf=True)
    now = look_until_interrupted(keeper, time.monotonic() + 50, caplog)
    keeper.look(now + STUCK_INTERVAL / 2)
    assert (len(interruption(caplog)), len(stuck(caplog))) == (1, 0)
    now += STUCK_INTERVAL + 1
    deadline = time.monotonic() + BOUND
    while len(interruption(caplog)) < 2 and time.monotonic() < deadline:
        keeper.look(now)
        now += INTERRUPT_INTERVAL
    assert (len(interruption(caplog)), len(stuck(caplog))) == (2, 1)
    assert "_spin" in stuck(caplog)[0]
    task.end()


# the thread


def test_the_thread_is_started_with_the_first_task_and_stopped(storage):
    """No task, no thread."""
    keeper = Keeper(storage, LEASE, "keeper-of-the-test")
    assert "keeper-of-the-test" not in [thread.name for thread in threading.enumerate()]
    for _ in range(3):
        with keeper.watch(make_attempt(storage)):
            names = [thread.name for thread in threading.enumerate()]
            assert names.count("keeper-of-the-test") == 1
    keeper.stop()
    keeper._thread.join(BOUND)
    assert not keeper._thread.is_alive()


def test_it_sleeps_without_a_limit_while_nothing_runs(storage):
    """And is woken by the next task, not by a clock."""
    keeper = Keeper(storage, 0.03, "keeper-of-the-test")
    keeper._changed = Watched()
    for _ in range(3):
        with keeper.watch(make_attempt(storage)):
            pass
        assert keeper._changed.sleeping.wait(BOUND)
        with keeper._changed:
            assert keeper._changed.waits[-1] is None
            keeper._changed.sleeping.clear()
    keeper.stop()
    keeper._thread.join(BOUND)
    assert not keeper._thread.is_alive()


def test_it_sleeps_for_one_renewal_while_tasks_run(storage):
    """Once for all of them, and no longer than the nearest timeout."""
    keeper = Keeper(storage, LEASE, "keeper-of-the-test")
    keeper._changed = Watched()
    with keeper.watch(make_attempt(storage, "a")), keeper.watch(make_attempt(storage, "b")):
        task = Spinning(keeper, storage, timeout=0.05)
        assert isinstance(task.join(), TaskTimeout)
    keeper.stop()
    keeper._thread.join(BOUND)
    assert not keeper._thread.is_alive()
    longest = max(wait for wait in keeper._changed.waits if wait is not None)
    assert longest <= LEASE / 3


def test_its_thread_renews_by_itself(storage):
    """While a task runs, as often as it takes."""
    renewed = threading.Semaphore(0)
    storage.renew = lambda lease, seconds: renewed.release() or True
    keeper = Keeper(storage, 0.03, "keeper-of-the-test")
    with keeper.watch(make_attempt(storage)):
        for _ in range(3):
            assert renewed.acquire(timeout=BOUND)
    keeper.stop()


def test_its_thread_lives_on(storage, caplog):
    """Whatever goes wrong; it says so, and does not spin."""
    attempt = make_attempt(storage, timeout=0.001)
    interrupted = threading.Event()
    failures = [ValueError("broken")] * 2

    def interrupt():
        if failures:
            raise failures.pop()
        interrupted.set()
        return True

    attempt.interrupt = interrupt
    keeper = Keeper(storage, LEASE, "keeper-of-the-test")
    with keeper.watch(attempt):
        began = time.monotonic()
        assert interrupted.wait(BOUND)
        assert time.monotonic() - began >= INTERRUPT_INTERVAL
    keeper.stop()
    expected = "watching running tasks failed, trying again"
    assert [message for message in caplog.messages if "watching" in message] == [expected] * 2


def test_a_failure_with_one_task_does_not_cost_the_others_their_leases(storage, keeper):
    """Else they would run twice."""
    broken = make_attempt(storage, "broken", timeout=50.0)

    def interrupt():
        raise ValueError("broken")

    broken.interrupt = interrupt
    sound = make_attempt(storage, "sound")
    with (
        keeper.watch(broken),
        keeper.watch(sound),
        pytest.raises(ValueError, match="broken"),
    ):
        keeper.look(time.monotonic() + 101)
    assert [name for name, _ in storage.renewed] == ["broken", "sound"]


# cancellation


def make_hook(storage, name="t"):
    task = Task(id=name, queue="default", url="https://example.org/", timeout=None)
    return Attempt(Lease(task, f"token-{name}", "consumer", 1, 0, 0.0), storage)


def test_a_cancelled_web_hook_is_cut_within_a_second(keeper, storage):
    """H15: it waits for somebody else, and cannot ask for itself."""
    attempt, cuts = make_hook(storage), []
    with keeper.watch(attempt), attempt.cut_by(lambda: cuts.append(1)):
        now = time.monotonic()
        keeper.look(now + CANCEL_INTERVAL * 1.01)
        assert cuts == []
        storage.report = lambda lease, progress=None: True
        attempt._asked = 0.0
        keeper.look(now + CANCEL_INTERVAL * 1.5)
        assert cuts == []
        keeper.look(now + CANCEL_INTERVAL * 2.1)
        assert cuts == [1]


def test_the_storage_is_asked_for_web_hooks_only(keeper, storage):
    """And not before they wait for anybody. A task of Zope asks for itself."""
    asked = []
    storage.report = lambda lease, progress=None: asked.append(lease.task.id)
    hook, other = make_hook(storage, "hook"), make_hook(storage, "not-yet")
    task = make_attempt(storage, "task")
    with keeper.watch(hook), keeper.watch(other), keeper.watch(task), hook.cut_by(list):
        keeper.look(time.monotonic() + CANCEL_INTERVAL * 1.01)
    assert asked == ["hook"]


def test_its_thread_wakes_for_cancellation(storage):
    """However long lease and timeout are, and only while a web hook runs."""
    keeper = Keeper(storage, LEASE, "keeper-of-the-test")
    keeper._changed = Watched()
    with keeper.watch(make_attempt(storage, "task")), keeper.watch(make_hook(storage)) as watched:
        assert watched is None
        wait_until(lambda: any(wait and wait <= CANCEL_INTERVAL for wait in keeper._changed.waits))
    keeper.stop()
    keeper._thread.join(BOUND)
    assert not keeper._thread.is_alive()


def wait_until(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_thread_that_cannot_be_had_is_asked_for_again(keeper, storage, monkeypatch, caplog):
    """Else no lease of this consumer would ever be renewed again, and tasks would run twice."""
    start = threading.Thread.start

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with keeper.watch(make_attempt(storage, "a")):
        assert caplog.messages == [
            "task a: no thread can be had (can't start new thread), its lease is not renewed"
        ]
        monkeypatch.setattr(threading.Thread, "start", start)
        with keeper.watch(make_attempt(storage, "b")):
            assert keeper._thread.is_alive()
        assert [attempt.task.id for attempt in keeper.running()] == ["a"]
    assert keeper.running() == []
