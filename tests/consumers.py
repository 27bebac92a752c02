"""Consumers that a test starts, and storages that fail them as it says."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import RUNNING
from collective.taskqueue.testing.contract.base import BOUND
from contextlib import contextmanager
from zope.interface import implementer
import logging
import threading
import time


NAME = "collective.taskqueue"


class Storage(LocalStorage):
    """A local storage that fails as it is told, and counts how often it is asked."""

    def __init__(self, clock=time.time, **settings):
        super().__init__(QueueSettings(**settings), clock)
        #: Method name → exceptions to raise before it works again.
        self.failures = {}
        self.reserves = []
        self.finishes = 0
        self.asked = threading.Event()

    def reserve(self, *args, **more):
        self.reserves.append((args, more))
        self.asked.set()
        self.fail("reserve")
        return super().reserve(*args, **more)

    def complete(self, lease, transition):
        self.finishes += 1
        self.fail("complete")
        return super().complete(lease, transition)

    def fail(self, method):
        pending = self.failures.get(method)
        if pending:
            raise pending.pop(0)


@implementer(IRemoteStorage)
class FarStorage(Storage):
    """The same, as if it were so far away that a consumer batches its calls."""

    in_process = False
    most = 128
    delay = 0.02

    def complete_and_reserve(self, ends, consumer, limit=1, seconds=30.0, slots=()):
        states = [self.complete(lease, transition) for lease, transition in ends]
        return states, LocalStorage.reserve(self, consumer, limit, 0, seconds, slots)


class Told(list):
    """Remembers what the consumer tells, and who waits for it."""

    def __init__(self):
        super().__init__()
        self.changed = threading.Condition()

    def __call__(self, state, task_id):
        with self.changed:
            self.append((state, task_id))
            self.changed.notify_all()

    def wait_for(self, number):
        """Wait until as many tasks have ended."""

        def ended():
            return sum(state != RUNNING for state, _ in self) >= number

        with self.changed:
            assert self.changed.wait_for(ended, BOUND)


@contextmanager
def started(consumer, grace=BOUND):
    consumer.start()
    try:
        yield consumer
    finally:
        consumer.stop(grace)
        batcher = getattr(consumer._batcher, "_thread", None)
        threads = [*consumer._threads, *([batcher] if batcher else [])]
        for thread in threads:
            thread.join(BOUND)
        assert not any(thread.is_alive() for thread in threads)


def messages(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]
