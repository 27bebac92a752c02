"""What is rolled back is not queued."""

from integration.datamanager.conftest import batch
from integration.datamanager.conftest import make_queue
from integration.datamanager.conftest import urls
import transaction


def test_rollback_drops_what_came_after(queue):
    """C36: A, savepoint, B, rollback, C."""
    queue.add("/a")
    savepoint = transaction.savepoint()
    queue.add("/b")
    savepoint.rollback()
    queue.add("/c")
    transaction.commit()
    assert urls(queue) == ["/a", "/c"]


def test_pessimistic_savepoint(queue):
    """C36: the data managers really support savepoints."""
    queue.add("/a")
    savepoint = transaction.savepoint(optimistic=False)
    queue.add("/b")
    savepoint.rollback()
    transaction.commit()
    assert urls(queue) == ["/a"]


def test_savepoint_rolled_back_again_and_again(queue):
    queue.add("/a")
    savepoint = transaction.savepoint()
    for _ in range(3):
        queue.add("/b")
        savepoint.rollback()
    queue.add("/c")
    transaction.commit()
    assert urls(queue) == ["/a", "/c"]


def test_nested_savepoints(queue):
    """C36."""
    queue.add("/a")
    outer = transaction.savepoint()
    queue.add("/b")
    inner = transaction.savepoint()
    queue.add("/c")
    inner.rollback()
    queue.add("/d")
    transaction.savepoint()
    queue.add("/e")
    assert [task.url for task in batch(queue).tasks] == ["/a", "/b", "/d", "/e"]
    outer.rollback()
    queue.add("/f")
    transaction.commit()
    assert urls(queue) == ["/a", "/f"]


def test_savepoint_from_before_the_first_add(queue):
    """C36: rolling back unjoins the data managers; the next task must join again."""
    savepoint = transaction.savepoint()
    queue.add("/a")
    savepoint.rollback()
    assert transaction.get()._resources == []
    queue.add("/b")
    savepoint.rollback()
    queue.add("/c")
    transaction.commit()
    assert urls(queue) == ["/c"]
    assert queue.storage.calls == ["stage", "promote"]


def test_rollback_to_before_the_first_add_and_no_more(queue):
    savepoint = transaction.savepoint()
    queue.add("/a")
    savepoint.rollback()
    transaction.commit()
    assert len(queue) == 0
    assert queue.storage.calls == []


def test_savepoint_between_two_queues(queue):
    other = make_queue("other")
    queue.add("/a")
    savepoint = transaction.savepoint()
    queue.add("/b")
    other.add("/c")
    savepoint.rollback()
    other.add("/d")
    transaction.commit()
    assert (urls(queue), urls(other)) == (["/a"], ["/d"])
