"""What a heartbeat of a test watches, and a storage that remembers what is renewed."""

from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Task
import threading


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


def make_attempt(storage, name="t", timeout=None):
    task = Task(id=name, queue="default", url="/", timeout=timeout)
    return Attempt(Lease(task, f"token-{name}", "consumer", 1, 0, 0.0), storage)


class Spinning:
    """A task that runs until it is interrupted, or deaf to it, until it is told to end."""

    def __init__(self, heartbeat, storage, timeout, deaf=False):
        self.attempt = make_attempt(storage, timeout=timeout)
        self.ended = threading.Event()
        self.outcome = None
        self._heartbeat = heartbeat
        self._deaf = deaf
        self._entered = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._entered.wait(BOUND)

    def _run(self):
        try:
            with self._heartbeat.watch(self.attempt):
                self.attempt.call(self._spin)
        except BaseException as exc:
            self.outcome = exc
        finally:
            self._entered.set()

    def _spin(self):
        self.attempt.interruptible()
        self._entered.set()
        while True:
            try:
                while not self.ended.is_set():
                    for _ in range(1000):
                        pass
                return
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
