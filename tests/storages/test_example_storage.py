"""An example: a storage of one's own, proven by the contract. The documentation quotes it."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract import StorageContract
from taskqueue_demo.storage import BoundedStorage
import pytest
import transaction


class TestBoundedStorage(StorageContract):
    """It is a storage like any other, up to its limit."""

    @pytest.fixture
    def clock(self):
        return ManualClock()

    @pytest.fixture
    def make_storage(self, clock):
        return lambda **settings: BoundedStorage(QueueSettings(**settings), clock)


def test_a_full_queue_vetoes_the_commit(monkeypatch):
    """C50: what `stage` raises aborts the transaction, and nothing of it is queued."""
    monkeypatch.setattr(BoundedStorage, "limit", 2)
    settings = QueueSettings()
    queue = TaskQueue(settings, BoundedStorage(settings))
    queue.add("/first")
    transaction.commit()
    queue.add("/second")
    queue.add("/third")
    with pytest.raises(StorageUnavailable, match="is full"):
        transaction.commit()
    transaction.abort()
    assert [status.task.url for status in queue.tasks()] == ["/first"]
