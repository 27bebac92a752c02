"""An attempt: how it is interrupted, and what must never be torn apart."""

from _thread import start_new_thread
from attempts import make_attempt
from attempts import PATIENCE
from attempts import Reports
from attempts import Running
from attempts import taken
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.heartbeat import Heartbeat
from collective.taskqueue.consumer.interrupt import _set_async_exc
from collective.taskqueue.consumer.interrupt import raise_in
from collective.taskqueue.errors import TaskTimeout
from contextlib import contextmanager
from types import SimpleNamespace
import logging
import pytest
import random
import sys
import threading
import time


def interrupt(attempt):
    """Interrupt as the watchdog does: again and again, until it is possible."""
    deadline = time.monotonic() + PATIENCE
    while not attempt.interrupt():
        assert time.monotonic() < deadline, "the task could not be interrupted"


def spin():
    while True:
        pass


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


def test_a_lock_for_which_the_task_waited_is_released():
    """Since Python 3.14, an exception can be raised between a lock and the block under it."""
    attempt, lock = make_attempt(), threading.Lock()

    def block():
        with lock:
            spin()

    with lock:
        running = Running(attempt, block)
        wait_for_line(running.thread, "block")
        interrupted = attempt.interrupt()
    if not interrupted:
        interrupt(attempt)
    assert isinstance(running.end(), TaskTimeout)
    assert not lock.locked()


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
    assert not taken(attempt._gate)
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
    heartbeat = Heartbeat(storage, 30.0, "heartbeat-of-the-stress-test")

    def busy():
        while True:
            logger.info("busy")
            with condition:
                pass
            sum(range(200))

    outcomes = set()
    for number in range(150):
        attempt = make_attempt(storage, timeout=random.uniform(0.001, 0.005), number=number)
        with heartbeat.watch(attempt):
            outcomes.add(type(Running(attempt, busy).end()))
        assert not taken(handler.lock)
        assert not taken(condition)
    heartbeat.stop()
    assert outcomes == {TaskTimeout}
