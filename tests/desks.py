"""A storage that is far away, and what is done at a desk that has it."""

from collections import deque
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.clerk import Held
from collective.taskqueue.consumer.desk import Completion
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import new_task
import threading
import time


class FarStorage(LocalStorage):
    """Holds each batch call until it is let go, and fails as it is told."""

    in_process = False
    most = 128
    delay = 0.02

    def __init__(self, **settings):
        super().__init__(QueueSettings(**settings))
        self.failures = []
        #: The number of ends, and the limit, of each batch call.
        self.exchanges = []
        self.changed = threading.Condition()
        self.open = True
        self.reserves = 0

    def reserve(self, *args, **more):
        self.reserves += 1
        return super().reserve(*args, **more)

    def complete_and_reserve(self, ends, consumer, limit=1, seconds=30.0):
        with self.changed:
            self.exchanges.append((len(ends), limit))
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.open, BOUND)
        if self.failures:
            raise self.failures.pop(0)
        for lease, transition in ends:
            self.check_end(lease, transition)
        states = [self.complete(lease, transition) for lease, transition in ends]
        return states, super().reserve(consumer, limit, 0, seconds) if limit else []

    def check_end(self, lease, transition):
        """Raise if the storage cannot hold that."""

    def complete(self, lease, transition):
        self.check_end(lease, transition)
        return super().complete(lease, transition)

    def let(self, go):
        with self.changed:
            self.open = go
            self.changed.notify_all()

    def wait_for(self, number):
        """Wait until as many exchanges have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.exchanges) >= number, BOUND)


class Stored(list):
    """What the desk has told, and who waits for it."""

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


def end(desk, lease, state=SUCCEEDED, release=lambda: None):
    desk.end(Completion(lease, completed(lease, state), release))


def take(desk):
    (lease,) = aside(desk.take).result(BOUND)
    return lease


def run(desk, number):
    """Take as many tasks and end them; return their ids."""
    order = []
    for _ in range(number):
        lease = take(desk)
        order.append(lease.task.id)
        end(desk, lease)
    return order


def hand_in(desk):
    """What has ended is on its way: with the clerk, or with a thread that goes by itself."""
    with desk._work:
        desk._first -= 2 * desk._delay
        desk._work.notify()
    if desk._nearby:
        aside(desk._go)


def hold_up(desk, storage):
    """One that has ended is on its way, and does not arrive until the storage is let go."""
    storage.let(go=False)
    number = len(storage.exchanges)
    end(desk, take(desk))
    hand_in(desk)
    storage.wait_for(number + 1)


def older(held, seconds):
    return Held(held.lease, held.since - seconds, held.arrived - seconds)


def make_late(desk):
    """What waits in hand has waited for too long."""
    with desk._work:
        desk._hand = deque(held._replace(arrived=held.arrived - 2 * BOUND) for held in desk._hand)
        desk._work.notify()


def in_stream(make, storage, stored, **settings):
    """Return a desk that has tasks in hand, of a hundred that were there, and their ids."""
    tasks = fill(storage, 100)
    desk = make(**settings)
    run(desk, 40)
    stored.wait_for(40)
    return desk, tasks


def eventually(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
