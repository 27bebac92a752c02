"""An attempt: what it reports, how it is interrupted, and what must never be torn apart."""

from _thread import start_new_thread
from collective.taskqueue import attempt as module
from collective.taskqueue.attempt import Attempt
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.interrupt import _set_async_exc
from collective.taskqueue.interrupt import raise_in
from collective.taskqueue.keeper import Keeper
from collective.taskqueue.response import MAX_REASON
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import Task
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
import logging
import pytest
import random
import sys
import threading
import time


#: Seconds after which a test fails; nothing here takes that long.
PATIENCE = 60.0


class Reports:
    """A storage that remembers what is reported, and fails as often as it is told."""

    def __init__(self):
        self.reports = []
        self.failures = []
        self.cancelled = False

    def report(self, lease, progress=None):
        if self.failures:
            raise self.failures.pop(0)
        self.reports.append(progress)
        return self.cancelled

    def renew(self, lease, seconds):
        return True


@pytest.fixture
def storage():
    return Reports()


@pytest.fixture
def clock(monkeypatch):
    """The time as the attempt sees it."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock.now, sleep=time.sleep))
    return clock


def make_attempt(storage=None, timeout=5.0, number=1):
    task = Task(id=f"t{number}", queue="default", url="/", timeout=timeout)
    return Attempt(Lease(task, f"token{number}", "consumer", 1, 0, 0.0), storage or Reports())


class Running:
    """A function that runs in a thread as a task would, and how it ended."""

    def __init__(self, attempt, function):
        self.attempt = attempt
        self.outcome = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self.outcome = self.attempt.call(self._call)
        except BaseException as exc:
            self.outcome = exc

    def _call(self):
        self.attempt.interruptible()
        return self._function()

    def end(self):
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the task has not ended"
        return self.outcome

    @property
    def thread(self):
        return self._thread.ident


def interrupt(attempt):
    """Interrupt as the watchdog does: again and again, until it is possible."""
    deadline = time.monotonic() + PATIENCE
    while not attempt.interrupt():
        assert time.monotonic() < deadline, "the task could not be interrupted"


def spin():
    while True:
        pass


def taken(lock):
    """Whether somebody else holds a lock: another thread does not get it."""
    answers = []

    def try_it():
        answers.append(lock.acquire(timeout=1))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return answers == [False]


# reports


def test_progress_is_stored_at_most_twice_a_second(storage, clock):
    attempt = make_attempt(storage)
    for done in range(100):
        attempt.report(done, None, "")
        clock.now += 1 / 64
    assert [progress.done for progress in storage.reports] == [0, 32, 64, 96]


def test_the_last_progress_is_stored_in_the_end(storage, clock):
    with make_attempt(storage) as attempt:
        attempt.report(1, 10, "one")
        attempt.report(2, 10, "two")
        assert len(storage.reports) == 1
    assert storage.reports[-1] == Progress(2, 10, "two", 1000.0)
    assert attempt.ended


def test_completion_is_stored_at_once(storage, clock):
    attempt = make_attempt(storage)
    attempt.report(1, 2, "")
    attempt.report(2, 2, "")
    assert [progress.done for progress in storage.reports] == [1, 2]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ((Decimal("0.5"), Fraction(3, 2), "half"), (0.5, 1.5, "half")),
        ((True, 2, 3), (1.0, 2.0, "3")),
        ((1, None, "a\n\tb\x00"), (1.0, None, "a b\ufffd")),
        ((1, None, "x" * 10_000_000), (1.0, None, "x" * MAX_REASON)),
    ],
)
def test_progress_is_what_every_storage_can_keep(storage, clock, given, stored):
    """Two numbers, and one line that fits into a list."""
    make_attempt(storage).report(*given)
    assert storage.reports == [Progress(*stored, clock.now)]
    assert all(isinstance(value, float) for value in stored[:2] if value is not None)


@pytest.mark.parametrize("given", [("half", None), (None, None), (1, "all"), (10**400, None)])
def test_progress_that_is_no_number_is_refused_in_the_view(storage, given):
    """Not where somebody asks how far it has come."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        make_attempt(storage).report(*given, "")
    assert storage.reports == []


def test_a_clock_that_is_set_back_does_not_hold_reports_back(storage, clock):
    attempt = make_attempt(storage)
    attempt.report(1, None, "")
    clock.now -= 3600
    attempt.report(2, None, "")
    assert not attempt.cancelled()
    clock.now -= 3600
    storage.cancelled = True
    assert attempt.cancelled()
    assert [progress and progress.done for progress in storage.reports] == [1, 2, None]


def test_cancellation_is_asked_for_twice_a_second_until_it_is_known(storage, clock):
    attempt = make_attempt(storage)
    assert not attempt.cancelled()
    storage.cancelled = True
    assert not attempt.cancelled()
    clock.now += 0.5
    assert attempt.cancelled()
    storage.cancelled = False
    clock.now += 0.5
    assert attempt.cancelled()
    assert len(storage.reports) == 2


def test_progress_learns_of_cancellation_on_the_way(storage, clock):
    attempt = make_attempt(storage)
    storage.cancelled = True
    attempt.report(1, 10, "")
    assert attempt.cancelled()
    assert len(storage.reports) == 1


@pytest.mark.parametrize("failure", [StorageUnavailable("gone"), OSError("broken")])
def test_a_task_does_not_fail_for_want_of_an_audience(storage, caplog, failure):
    storage.failures = [failure, failure]
    with make_attempt(storage) as attempt:
        attempt.report(1, 1, "")
        assert not attempt.cancelled()
        attempt.report(1, None, "")
    assert f"task t1: progress not stored ({failure}), going on" in caplog.messages


# interruption


def test_a_task_is_interrupted_where_it_is():
    attempt = make_attempt(timeout=1.5)
    running = Running(attempt, spin)
    interrupt(attempt)
    outcome = running.end()
    assert isinstance(outcome, TaskTimeout)
    names = []
    traceback = outcome.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "spin"


def test_an_exception_handler_does_not_swallow_the_timeout():
    attempt = make_attempt()

    def stubborn():
        while True:
            try:
                spin()
            except Exception:
                continue

    running = Running(attempt, stubborn)
    interrupt(attempt)
    assert isinstance(running.end(), TaskTimeout)


def test_a_task_that_swallows_the_timeout_is_over_its_time_all_the_same():
    attempt = make_attempt(timeout=1.5)

    def deaf():
        try:
            spin()
        except BaseException:
            return "done"

    running = Running(attempt, deaf)
    interrupt(attempt)
    outcome = running.end()
    assert isinstance(outcome, TaskTimeout)
    assert str(outcome) == "the task took more than 1.5 s"


def test_a_task_that_swallows_the_timeout_can_be_interrupted_again():
    attempt = make_attempt()
    swallowed = threading.Event()

    def deaf_once():
        try:
            spin()
        except BaseException:
            swallowed.set()
        spin()

    running = Running(attempt, deaf_once)
    interrupt(attempt)
    assert swallowed.wait(PATIENCE)
    interrupt(attempt)
    assert isinstance(running.end(), TaskTimeout)


def test_what_the_task_raises_itself_is_not_replaced():
    attempt = make_attempt()

    def fail():
        try:
            spin()
        except BaseException as exc:
            raise ValueError("cleaned up") from exc

    running = Running(attempt, fail)
    interrupt(attempt)
    assert isinstance(running.end(), ValueError)


def test_nothing_is_interrupted_before_and_after():
    attempt = make_attempt()

    def task():
        attempt.interruptible()
        return "done"

    assert attempt.call(task) == "done"
    assert not attempt.interrupt()
    assert sum(range(100_000))  # an exception that was still to come would strike here


def test_nothing_is_interrupted_until_the_task_is_ready():
    attempt = make_attempt()

    def traverse():
        assert not attempt.interrupt()
        return "found"

    with pytest.raises(TaskTimeout, match="the task took more than 5 s"):
        attempt.call(traverse)


def test_a_task_whose_time_is_up_is_not_begun():
    attempt = make_attempt()
    assert not attempt.interrupt()
    with pytest.raises(TaskTimeout, match="the task took more than 5 s"):
        attempt.interruptible()
    assert not attempt.interrupt()


def test_a_timeout_that_comes_at_the_very_end_does_not_strike_the_next_task():
    attempt = make_attempt()
    latch, entered = threading.Lock(), threading.Event()
    latch.acquire()

    def blocked():
        attempt.interruptible()
        entered.set()
        latch.acquire()

    def two_tasks():
        with pytest.raises(TaskTimeout):
            attempt.call(blocked)
        return make_attempt(number=2).call(sum, range(100_000))

    running = Running(make_attempt(number=3), two_tasks)
    assert entered.wait(PATIENCE)
    with attempt._gate:
        latch.release()
        wait_for_line(running.thread, "_close")
        assert not raise_in(running.thread, TaskTimeout, Attempt.call.__code__)
        # It cannot happen, and if it did, it would do no harm.
        attempt._overdue = True
        assert _set_async_exc(running.thread, id(TaskTimeout)) == 1
    assert running.end() == sum(range(100_000))
    assert not attempt._gate.locked()
    assert attempt._thread is None


def wait_for_line(thread, name):
    """Wait until the innermost Python function of a thread is the one of that name."""
    deadline = time.monotonic() + PATIENCE
    while sys._current_frames()[thread].f_code.co_name != name:
        assert time.monotonic() < deadline, f"the thread has not come to {name}"
        time.sleep(0.001)


# what must not be torn apart


class Blocking(logging.Handler):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def emit(self, record):
        self.block()


class Entered:
    def __init__(self, block):
        self.block = block

    def __enter__(self):
        self.block()

    def __exit__(self, *exc_info):
        pass


class Left(Entered):
    def __enter__(self):
        pass

    def __exit__(self, *exc_info):
        self.block()


class Deleted:
    def __init__(self, block):
        self.block = block

    def __del__(self):
        self.block()


def in_logging(block):
    Blocking(block).handle(logging.makeLogRecord({}))


def in_enter(block):
    with Entered(block):
        pass


def in_exit(block):
    with Left(block):
        pass


def in_generator(block):
    @contextmanager
    def manager():
        block()
        yield

    with manager():
        pass


def in_finalizer(block):
    Deleted(block)


def in_this_package(block):
    make_attempt(SimpleNamespace(report=lambda lease, progress: block())).report(1, None, "")


def in_the_transaction(block):
    import transaction

    transaction.TransactionManager(explicit=True).run(block)


@pytest.mark.parametrize(
    "where",
    [
        in_logging,
        in_enter,
        in_exit,
        in_generator,
        in_finalizer,
        in_this_package,
        in_the_transaction,
    ],
)
def test_critical_code_is_left_before_the_task_is_interrupted(where):
    attempt = make_attempt()
    latch, entered, torn = threading.Event(), threading.Event(), []

    def block():
        entered.set()
        try:
            while not latch.is_set():
                pass
        except BaseException as exc:
            torn.append(exc)

    def task():
        where(block)
        spin()

    running = Running(attempt, task)
    assert entered.wait(PATIENCE)
    assert not attempt.interrupt()
    latch.set()
    interrupt(attempt)
    assert isinstance(running.end(), TaskTimeout)
    assert not torn


def test_a_thread_is_left_alone_unless_it_runs_what_may_be_interrupted():
    ready, done = threading.Event(), threading.Event()
    idents, latch, torn = [], [], []

    def wait():
        idents.append(threading.get_ident())
        ready.set()
        try:
            while not latch:
                pass
        except BaseException as exc:
            torn.append(exc)
        done.set()

    # Not threading.Thread: it has a critical frame on every stack.
    start_new_thread(wait, ())
    assert ready.wait(PATIENCE)
    assert not raise_in(idents[0], TaskTimeout, Attempt.call.__code__)
    latch.append(True)
    assert done.wait(PATIENCE)
    assert not torn


def test_a_thread_is_left_alone_between_the_task_and_its_caller():
    attempt = make_attempt()
    latch = threading.Lock()
    latch.acquire()

    def task():
        attempt.interruptible()
        # From here on the innermost function of Python is the caller.
        return make_attempt(number=2).call(latch.acquire)

    running = Running(attempt, task)
    wait_for_line(running.thread, "call")
    assert not attempt.interrupt()
    latch.release()
    assert isinstance(running.end(), TaskTimeout)


def test_a_thread_that_has_ended_is_left_alone():
    thread = threading.Thread(target=time.time)
    thread.start()
    thread.join()
    assert not raise_in(thread.ident, TaskTimeout, Attempt.call.__code__)


def test_the_turns_of_threads_are_as_long_as_before():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.003)
    try:
        attempt = make_attempt()
        running = Running(attempt, spin)
        interrupt(attempt)
        running.end()
        assert sys.getswitchinterval() == pytest.approx(0.003)
    finally:
        sys.setswitchinterval(interval)


def test_no_lock_stays_taken_by_tasks_that_are_interrupted():
    """The proof by trial: without the look at the stack, one in ten leaves a lock taken."""
    logger = logging.Logger("stress")
    handler = Blocking(lambda: None)
    logger.addHandler(handler)
    condition = threading.Condition()
    storage = Reports()
    keeper = Keeper(storage, 30.0, "keeper-of-the-stress-test")

    def busy():
        while True:
            logger.info("busy")
            with condition:
                pass
            sum(range(200))

    outcomes = set()
    for number in range(150):
        attempt = make_attempt(storage, timeout=random.uniform(0.001, 0.005), number=number)
        with keeper.watch(attempt):
            outcomes.add(type(Running(attempt, busy).end()))
        assert not taken(handler.lock)
        assert not taken(condition)
    keeper.stop()
    assert outcomes == {TaskTimeout}


# cutting


def test_what_waits_for_somebody_else_is_cut():
    attempt, cuts = make_attempt(), []
    with attempt.cut_by(lambda: cuts.append(threading.get_ident())):
        assert attempt.interrupt()
        assert attempt.interrupt()
        assert sum(range(100_000))  # nothing is raised in the thread that waits
    assert cuts == [threading.get_ident()] * 2
    assert not attempt.interrupt()
    assert len(cuts) == 2


def test_nothing_is_cut_after_a_failure():
    attempt, cuts = make_attempt(), []
    with pytest.raises(OSError, match="reset"), attempt.cut_by(lambda: cuts.append(1)):
        raise OSError("reset")
    assert not attempt.interrupt()
    assert cuts == []


def test_nothing_is_cut_unless_cancellation_was_asked_for(storage, clock):
    attempt, cuts = make_attempt(storage), []
    storage.cancelled = True
    attempt.cut_if_cancelled()
    assert storage.reports == []
    storage.cancelled = False
    with attempt.cut_by(lambda: cuts.append(1)):
        attempt.cut_if_cancelled()
        assert cuts == []
        storage.cancelled = True
        clock.now += module.REPORT_INTERVAL
        attempt.cut_if_cancelled()
        assert cuts == [1]


def test_an_outage_cuts_nothing(storage):
    attempt, cuts = make_attempt(storage), []
    storage.failures = [StorageUnavailable("gone")]
    with attempt.cut_by(lambda: cuts.append(1)):
        attempt.cut_if_cancelled()
    assert cuts == []
