"""Attempts that run in a thread of their own, and a storage that remembers their reports."""

from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Task
import threading


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


def make_attempt(storage=None, timeout=5.0, number=1, **fields):
    fields = {"url": "/", **fields}
    task = Task(id=f"t{number}", queue="default", timeout=timeout, **fields)
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


def taken(lock):
    """Return whether another thread holds a lock: a new thread does not get it."""
    answers = []

    def try_it():
        answers.append(lock.acquire(timeout=5))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return answers == [False]
