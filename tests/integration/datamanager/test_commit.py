"""Committed ⇔ queued, with real transactions and a real database beside them."""

from collective.taskqueue.errors import StorageUnavailable
from integration.datamanager.conftest import batch
from integration.datamanager.conftest import committed
from integration.datamanager.conftest import make_queue
from integration.datamanager.conftest import TIMEOUT
from integration.datamanager.conftest import urls
from transaction.interfaces import DoomedTransaction
from ZODB.POSException import ConflictError
import gc
import pytest
import threading
import transaction
import weakref


def test_nothing_is_visible_before_the_commit(queue):
    """C30, U02, U03, U28."""
    queue.add("/a")
    assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])
    transaction.commit()
    assert (len(queue), urls(queue)) == (1, ["/a"])
    queue.add("/b")
    assert len(queue) == 1
    transaction.commit()
    assert (len(queue), urls(queue)) == (2, ["/a", "/b"])


def test_abort_queues_nothing(queue):
    """C31."""
    queue.add("/a")
    transaction.abort()
    transaction.commit()
    assert len(queue) == 0
    assert queue.storage.calls == []


def test_doomed_transaction_queues_nothing(queue):
    """C40."""
    queue.add("/a")
    transaction.doom()
    queue.add("/b")
    with pytest.raises(DoomedTransaction):
        transaction.commit()
    transaction.abort()
    assert len(queue) == 0
    assert queue.storage.calls == []


def test_conflict_retry_queues_once(queue):
    """C32."""
    tries = 0

    @transaction.manager.run
    def work():
        nonlocal tries
        tries += 1
        queue.add("/a")
        if tries < 3:
            raise ConflictError

    assert tries == 3
    assert urls(queue) == ["/a"]


def test_conflict_in_the_commit_queues_once(queue, root):
    """C32: the conflict shows only when the database votes."""
    root["n"] = 0
    transaction.commit()

    def work():
        root["n"] += 1
        queue.add("/a")

    work()
    other = transaction.TransactionManager()
    connection = root._p_jar.db().open(transaction_manager=other)
    connection.root()["n"] = 10
    other.commit()
    connection.close()
    with pytest.raises(ConflictError):
        transaction.commit()
    assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])
    transaction.begin()
    work()
    transaction.commit()
    assert urls(queue) == ["/a"]
    assert committed(root) == {"n": 11}


def test_transactions_do_not_mix(queue):
    queue.add("/a")
    transaction.abort()
    queue.add("/b")
    transaction.commit()
    queue.add("/c")
    transaction.commit()
    assert urls(queue) == ["/b", "/c"]


def test_one_batch_per_transaction_and_queue(queue):
    """D03: one round trip before the commit and one after, for any number of tasks."""
    for number in range(100):
        queue.add(f"/{number}")
    assert len(transaction.get()._resources) == 2
    transaction.commit()
    assert queue.storage.calls == ["stage", "promote"]


# order


def test_add_order_of_many(queue):
    """C37, D02."""
    expected = [f"/{number}" for number in range(250)]
    for url in expected:
        queue.add(url)
    transaction.commit()
    assert urls(queue) == expected


def test_add_and_commit_of_a_whole_site(queue):
    """C35: the local queue takes any number of tasks, and never makes the caller wait."""
    for number in range(10_000):
        queue.add(f"/{number}")
    transaction.commit()
    assert len(queue) == 10_000
    assert [status.task.url for status in queue.tasks(start=9_999)] == ["/9999"]


def test_add_order_across_threads(queue):
    """C37: each transaction's tasks are in add order and stand together."""
    number_of_threads, number_of_tasks = 8, 50
    barrier = threading.Barrier(number_of_threads, timeout=TIMEOUT)

    def work(name):
        for number in range(number_of_tasks):
            queue.add(f"/{name}/{number}")
        barrier.wait()
        transaction.commit()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(number_of_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    found = urls(queue)
    batches = [found[i : i + number_of_tasks] for i in range(0, len(found), number_of_tasks)]
    expected = [
        [f"/{name}/{number}" for number in range(number_of_tasks)]
        for name in range(number_of_threads)
    ]
    assert sorted(batches) == sorted(expected)


def test_several_queues_in_one_transaction(queue):
    other = make_queue("other")
    queue.add("/a")
    other.add("/b")
    queue.add("/c")
    transaction.commit()
    assert (urls(queue), urls(other)) == (["/a", "/c"], ["/b"])


def test_sorts_around_every_storage(queue, root):
    """C33: staged before the database takes its lock, promoted when its data is visible."""
    root["x"] = 1
    queue.add("/a")
    key = root._p_jar.sortKey()
    first, last = sorted(
        item.sortKey() for item in transaction.get()._resources if item.sortKey() != key
    )
    assert first < "!" < key < "~sqlalchemy:1" < last
    seen = []
    queue.storage.promote = lambda *args: seen.append(committed(root))
    transaction.commit()
    assert seen == [{"x": 1}]


# memory


@pytest.mark.parametrize("end", ["commit", "abort", "failure"])
def test_nothing_is_kept_alive(queue, end):
    """No cycle, no cache: what the transaction held is freed at its end."""
    gc.collect()
    gc.disable()
    try:
        queue.add("/a")
        held = [weakref.ref(item) for item in (batch(queue), transaction.get())]
        held += [weakref.ref(resource) for resource in transaction.get()._resources]
        if end == "commit":
            transaction.commit()
        elif end == "failure":
            queue.storage.faults["stage"] = 1
            with pytest.raises(StorageUnavailable):
                transaction.commit()
            transaction.abort()
        else:
            transaction.abort()
        transaction.begin()
        assert [reference() for reference in held] == [None] * len(held)
    finally:
        gc.enable()
