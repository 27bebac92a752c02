"""What a process finds out about its own batches after a failover, without servers."""

from collective.taskqueue.storages.redis import failover
from collective.taskqueue.storages.redis.failover import Promoted
from collective.taskqueue.testing.contract.base import new_task
import logging
import pytest


@pytest.fixture
def promoted(caplog):
    caplog.set_level(logging.WARNING, "collective.taskqueue")
    return Promoted()


def verified(promoted, lost=()):
    """Verify with a new master that does not have these batches; return those that it is asked."""
    asked = []

    def promote(batch):
        asked.append(batch.id)
        return -1 if batch.id in lost else 0

    assert promoted.verify("default", "h:1", promote)
    return asked


def test_a_batch_is_told_once(promoted, caplog):
    """The tasks by their ids; a batch whose tasks are not known by its own."""
    promoted.remember("a", None, [new_task(id="a1"), new_task(id="a2")])
    promoted.remember("b", b"tid", [])
    promoted.remember("c", None, [new_task(id="c1")])
    assert verified(promoted, ["a", "b"]) == ["a", "b", "c"]
    assert caplog.messages == [
        "task a1: the new master of its queue does not have it, lost",
        "task a2: the new master of its queue does not have it, lost",
        "batch b: the new master does not have it, its tasks lost",
        (
            "queue default: failover, the master is now h:1; of 3 batches that this process has"
            " queued in the last minutes, 2 are lost, with 2 tasks"
        ),
    ]
    # Another thread comes from the former master: nothing new, and no line.
    caplog.clear()
    assert verified(promoted, ["a", "b"]) == ["c"]
    assert caplog.messages == []


def test_no_more_than_needed_is_remembered(promoted, monkeypatch):
    """Neither for longer nor more than a check after a failover can bear."""
    monkeypatch.setattr(failover, "MOST", 3)
    now = [0.0]
    monkeypatch.setattr(failover.time, "monotonic", lambda: now[0])
    promoted = Promoted()
    for name in "abcd":
        promoted.remember(name, None, [])
    assert verified(promoted) == ["b", "c", "d"]
    now[0] = failover.REMEMBERED + 1
    promoted.remember("e", None, [])
    assert verified(promoted) == ["e"]


def test_two_threads_at_once(promoted):
    """The second one does not wait; it asks again later."""
    promoted.remember("a", None, [])
    seen = []

    def promote(batch):
        seen.append(promoted.verify("default", "h:1", promote))
        return 0

    assert promoted.verify("default", "h:1", promote)
    assert seen == [False]
    assert promoted.verified == 1


def test_a_fault_leaves_all_as_it_was(promoted, caplog):
    promoted.remember("a", None, [])

    def promote(batch):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        promoted.verify("default", "h:1", promote)
    assert caplog.messages == []
    assert verified(promoted) == ["a"]
