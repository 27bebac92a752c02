"""What is left to be done when a transaction is over is done in the background."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.local import LocalStorage
from integration.datamanager.conftest import AFTER_ALL
from integration.datamanager.conftest import commit_with
from integration.datamanager.conftest import Saboteur
from integration.datamanager.conftest import settle
from integration.datamanager.conftest import TIMEOUT
from integration.datamanager.conftest import urls
import pytest
import threading
import time
import transaction


def test_batches_are_promoted_in_the_order_of_their_commits(queue, root):
    """Guarantee 3, also when the storage was away: the second is not tried before the first."""
    queue.storage.faults["promote"] = 4
    for number in range(4):
        queue.add(f"/{number}")
        transaction.commit()
    settle()
    assert urls(queue) == ["/0", "/1", "/2", "/3"]


class Choosy(LocalStorage):
    """Cannot take one batch, for a reason of its own."""

    def promote(self, batch_id, tid=None, tasks=()):
        if any(task.url == "/bad" for task in self._memory.staged[batch_id][0]):
            raise ValueError("cannot take this")
        super().promote(batch_id, tid, tasks)


def test_one_bad_batch_does_not_stop_the_queue(caplog):
    """Only an outage is everybody's; what is wrong with one batch is said, and tried again."""
    settings = QueueSettings()
    queue = TaskQueue(settings, Choosy(settings))
    queue.add("/bad")
    transaction.commit()
    assert not outbox.flush(0)
    deadline = time.monotonic() + TIMEOUT
    while outbox.is_behind(queue) and time.monotonic() < deadline:
        time.sleep(0.001)
    queue.add("/good")
    transaction.commit()
    assert urls(queue) == ["/good"]
    assert "still not done (ValueError: cannot take this), trying again" in caplog.text


def test_a_database_that_cannot_be_asked_does_not_stop_the_queue(queue, root, monkeypatch):
    def away(*args):
        raise ConnectionError("away")

    monkeypatch.setattr(indoubt, "verdict_of", away)
    commit_with(Saboteur(AFTER_ALL, "tpc_vote"), queue, root)
    queue.storage.faults["promote"] = 1
    queue.add("/b")
    transaction.commit()
    deadline = time.monotonic() + TIMEOUT
    while urls(queue) != ["/b"] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert urls(queue) == ["/b"]
    outbox._relay._jobs.clear()


def test_a_batch_without_a_witness_is_for_a_person_to_decide(queue, root):
    """Its transaction wrote nothing else, but the client may have been told that it committed."""
    queue.storage.faults["promote"] = 10**9
    queue.add("/a")
    transaction.commit()
    # The process dies, and with it what it had left to do.
    outbox._relay._jobs.clear()
    queue.storage.faults["promote"] = 0
    assert len(indoubt.resolve(queue.storage, root._p_jar.db().databases, grace=0.0)) == 1
    (status,) = queue.tasks(state="failed")
    assert (status.task.url, status.reason) == ("/a", indoubt.UNDECIDABLE)
    queue.retry(status.id)
    assert urls(queue) == ["/a"]


def test_no_thread_to_be_had(queue, root, monkeypatch, caplog):
    """Nothing is raised in the last phase of a commit; the next job takes this one along."""

    def refuse(*args, **kwargs):
        raise RuntimeError("can't start new thread")

    queue.storage.faults["promote"] = 2
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", refuse)
        queue.add("/a")
        transaction.commit()
    assert "no thread for background work (can't start new thread)" in caplog.text
    queue.add("/b")
    transaction.commit()
    settle()
    assert urls(queue) == ["/a", "/b"]


def test_more_batches_than_can_be_remembered(queue, monkeypatch, caplog):
    monkeypatch.setattr(outbox, "MAX_WAITING", 0)
    queue.storage.faults["promote"] = 1
    task_id = queue.add("/a")
    transaction.commit()
    assert f"task {task_id}: its batch" in caplog.text
    assert "is left to consumers, too much waits to be done" in caplog.text
    assert [len(item.tasks) for item in queue.storage.admin.in_doubt()] == [1]


def test_what_is_left_when_the_process_ends(queue, caplog):
    queue.storage.faults["promote"] = 10**9
    task_id = queue.add("/a")
    transaction.commit()
    outbox.close(0.0)
    assert f"task {task_id}: its batch" in caplog.text
    assert "is left to consumers, this process ends" in caplog.text
    queue.storage.faults["promote"] = 0


def test_many_refused_transactions_need_one_thread(queue, root):
    """A storage that is away for long is asked by one thread, however many it refused."""
    queue.storage.may_discard.clear()
    earlier = set(threading.enumerate())
    for number in range(20):
        queue.storage.faults["stage"] = 1
        queue.add(f"/{number}")
        with pytest.raises(StorageUnavailable):
            transaction.commit()
        transaction.abort()
    threads = [thread.name for thread in set(threading.enumerate()) - earlier]
    assert threads == ["taskqueue-batch"]
    queue.storage.may_discard.set()
    settle()
    assert queue.storage.admin.in_doubt() == []
