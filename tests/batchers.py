"""A storage that is remote, and what a test does with the batcher that has it."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.calls import Completion
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import new_task
from dataclasses import replace
from zope.interface import implementer
import threading
import time


@implementer(IRemoteStorage)
class RemoteStorage(LocalStorage):
    """Holds each batch call until it is let go, and fails as it is told."""

    in_process = False
    most = 128
    delay = 0.02

    def __init__(self, **settings):
        super().__init__(QueueSettings(**settings))
        self.failures = []
        #: The number of completions, and the limit, of each batch call.
        self.calls = []
        #: The ids of the tasks of each `release`.
        self.released = []
        self.changed = threading.Condition()
        self.open = True
        self.reserves = 0

    def reserve(self, *args, **more):
        self.reserves += 1
        return super().reserve(*args, **more)

    def complete_and_reserve(self, ends, consumer, limit=1, seconds=30.0, slots=()):
        with self.changed:
            self.calls.append((len(ends), limit))
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.open, BOUND)
        if self.failures:
            raise self.failures.pop(0)
        for lease, transition in ends:
            self.check_completion(lease, transition)
        states = [self.complete(lease, transition) for lease, transition in ends]
        return states, super().reserve(consumer, limit, 0, seconds, slots) if limit else []

    def check_completion(self, lease, transition):
        """Raise if the storage cannot hold that."""

    def complete(self, lease, transition):
        self.check_completion(lease, transition)
        return super().complete(lease, transition)

    def release(self, leases):
        self.released.append([lease.task.id for lease in leases])
        return super().release(leases)

    def let(self, go):
        with self.changed:
            self.open = go
            self.changed.notify_all()

    def wait_for(self, number):
        """Wait until as many batch calls have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= number, BOUND)


class Stored(list):
    """The completions that the storage has accepted; a test waits for them."""

    def __init__(self):
        self.changed = threading.Condition()

    def __call__(self, completion, state):
        with self.changed:
            self.append((completion.lease.task.id, state))
            self.changed.notify_all()

    def wait_for(self, number):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self) >= number, BOUND)


def fill(storage, number):
    return ids(add(storage, *(new_task() for _ in range(number))))


def end(batcher, lease, state=SUCCEEDED, release=lambda: None, seconds=0.001):
    transition = completed(lease, state)
    attempt = replace(transition.attempt, seconds=seconds)
    batcher.complete(Completion(lease, replace(transition, attempt=attempt), release))


def take(batcher):
    (lease,) = aside(batcher.take).result(BOUND)
    return lease


def run(batcher, number, seconds=0.001):
    """Take as many tasks and complete them; return their ids."""
    order = []
    for _ in range(number):
        lease = take(batcher)
        order.append(lease.task.id)
        end(batcher, lease, seconds=seconds)
    return order


def in_stream(make, storage, stored, **settings):
    """Return a batcher that has prefetched some of a hundred tasks, and the ids of all."""
    tasks = fill(storage, 100)
    batcher = make(**settings)
    run(batcher, 40)
    stored.wait_for(40)
    return batcher, tasks


def eventually(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
