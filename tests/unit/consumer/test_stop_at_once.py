"""A consumer that is told to stop does so at once if there is nothing to wait for."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
import pytest
import threading
import time


#: Seconds nothing here comes near, unless it fails.
LONG = 30.0


class LateStorage(LocalStorage):
    """Holds a thread that is on its way into `reserve` until the consumer was told to stop."""

    def __init__(self, settings):
        super().__init__(settings)
        self.arrived = threading.Event()
        self.woken = threading.Event()

    def wake(self):
        super().wake()
        self.woken.set()

    def reserve(self, *args, **more):
        self.arrived.set()
        assert self.woken.wait(LONG)
        return super().reserve(*args, **more)


@pytest.fixture
def consumer():
    """A started consumer whose task runs until `consumer.door` is open."""
    door = threading.Event()
    running = threading.Event()

    def perform(attempt):
        running.set()
        assert door.wait(LONG)
        return Outcome(200)

    consumer = Consumer(LocalStorage(QueueSettings()), perform, ServerSettings(grace=LONG))
    consumer.door = door
    consumer.running = running
    consumer.start()
    yield consumer
    door.set()
    consumer.stop(LONG)


def test_a_thread_on_its_way_into_reserve_is_woken():
    """It begins to wait only after the first wake-up; the grace period must not pass by."""
    storage = LateStorage(QueueSettings())
    consumer = Consumer(storage, lambda attempt: Outcome(200), ServerSettings(grace=LONG))
    consumer.start()
    assert storage.arrived.wait(LONG)
    before = time.monotonic()
    consumer.stop()
    assert time.monotonic() - before < LONG
    assert not any(thread.is_alive() for thread in consumer._threads)


def test_no_grace_still_ends_idle_threads(consumer):
    """`stop(0)` waits for nothing, but nothing is left asleep in the storage either."""
    consumer.stop(0)
    for thread in consumer._threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_hurry_ends_the_wait(consumer, caplog):
    """What still runs is logged as left unfinished, before the grace period is over."""
    task = Task(id="1", queue="default", url="/")
    consumer._storage.stage("batch", [task])
    consumer._storage.promote("batch")
    assert consumer.running.wait(LONG)
    before = time.monotonic()
    thread = threading.Thread(target=consumer.stop)
    thread.start()
    consumer.stop_waiting()
    thread.join(LONG)
    assert time.monotonic() - before < LONG
    assert "task 1: still running after the grace period, left unfinished" in caplog.text
