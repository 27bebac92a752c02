"""When a worker ends by itself."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.limits import Emptiness
from collective.taskqueue.worker.limits import Memory
from types import SimpleNamespace
from zope.component import getGlobalSiteManager
import logging
import pytest
import sys
import time


@pytest.fixture
def storage():
    """The storage of a queue that is registered."""
    settings = QueueSettings()
    storage = LocalStorage(settings, time.time)
    queue = TaskQueue(settings, storage)
    getGlobalSiteManager().registerUtility(queue, ITaskQueue, name=queue.name)
    yield storage
    getGlobalSiteManager().unregisterUtility(queue, ITaskQueue, name=queue.name)


@pytest.fixture
def emptiness(storage):
    return Emptiness({"default"})


def seen(emptiness):
    """Look more often than needed."""
    return [emptiness.seen() for _ in range(3)]


def test_an_empty_queue_is_seen_twice(emptiness):
    assert seen(emptiness) == [False, True, True]


def test_a_waiting_task_and_a_running_one(storage, emptiness):
    """Until both are over; the looks before do not count."""
    assert not emptiness.seen()
    add_one(storage)
    assert seen(emptiness) == [False] * 3
    lease = take(storage)
    assert seen(emptiness) == [False] * 3
    storage.complete(lease, completed(lease))
    assert seen(emptiness) == [False, True, True]


def test_a_scheduled_task(storage, emptiness):
    """One that is due counts, though no consumer has seen yet that it is."""
    add_one(storage, due=time.time() + 3600)
    assert seen(emptiness) == [False, True, True]
    due = add_one(storage, due=time.time() + 0.01)
    assert storage.admin.get(due.id).state == "scheduled"
    deadline = time.monotonic() + 30
    while emptiness.seen():
        assert time.monotonic() < deadline
    assert seen(emptiness) == [False] * 3


def test_a_paused_queue(storage, emptiness, caplog):
    """What waits in it is left, which is logged once; what runs is not."""
    caplog.set_level(logging.WARNING)
    add_one(storage)
    lease = take(storage)
    add_one(storage)
    storage.admin.pause()
    assert seen(emptiness) == [False] * 3
    storage.complete(lease, completed(lease))
    assert seen(emptiness) == [False, True, True]
    assert caplog.messages.count("queue default: paused, its 1 tasks are left") == 1


def test_an_outage(storage, emptiness, monkeypatch):
    """It is not known to be empty."""

    def fail(user=None):
        raise StorageUnavailable("gone")

    monkeypatch.setattr(storage.admin, "counts", fail)
    assert seen(emptiness) == [False] * 3


def test_memory(monkeypatch):
    memory = Memory(1000)
    found = SimpleNamespace(rss=1000)
    monkeypatch.setattr(memory, "_process", SimpleNamespace(memory_info=lambda: found))
    assert memory.over() == 0
    found.rss = 1001
    assert memory.over() == 1001


def test_memory_without_psutil(monkeypatch):
    """One sentence says which extra installs it."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(WorkerError, match=r"the extra collective.taskqueue\[worker\]") as caught:
        Memory(1)
    assert caught.value.code is Exit.CONFIGURATION
