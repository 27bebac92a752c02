"""Others fail, phase by phase, or the storage does: committed ⇔ queued all the same."""

from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.errors import StorageUnavailable
from integration.datamanager.conftest import AFTER_ALL
from integration.datamanager.conftest import AFTER_DATABASE
from integration.datamanager.conftest import BEFORE_ALL
from integration.datamanager.conftest import BEFORE_DATABASE
from integration.datamanager.conftest import commit_with
from integration.datamanager.conftest import committed
from integration.datamanager.conftest import make_queue
from integration.datamanager.conftest import PLACES
from integration.datamanager.conftest import Saboteur
from integration.datamanager.conftest import settle
from integration.datamanager.conftest import urls
import pytest
import transaction


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("phase", ["tpc_begin", "commit"])
def test_fault_before_the_vote(queue, root, key, phase):
    commit_with(Saboteur(key, phase), queue, root)
    assert committed(root) == {}
    assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])


@pytest.mark.parametrize("key", [BEFORE_ALL, BEFORE_DATABASE, AFTER_DATABASE])
def test_fault_in_the_vote(queue, root, key):
    """C33: another data manager refuses the commit before the queue has voted."""
    commit_with(Saboteur(key, "tpc_vote"), queue, root)
    assert committed(root) == {}
    assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])


@pytest.mark.parametrize(
    ("key", "phase"),
    [(AFTER_ALL, "tpc_vote"), (BEFORE_ALL, "tpc_finish"), (BEFORE_DATABASE, "tpc_finish")],
)
def test_fault_after_our_vote_and_nothing_committed(queue, root, key, phase, monkeypatch, caplog):
    """In doubt: invisible, logged, and discarded when the database can have it no more."""
    monkeypatch.setattr(indoubt, "LONGEST_COMMIT", 0.0)
    # The witness of this one vouches for the next: no pack has removed that.
    root["y"] = 1
    queue.add("/before")
    transaction.commit()
    queue.reset()
    queue.storage.may_discard.clear()
    commit_with(Saboteur(key, phase), queue, root)
    assert committed(root) == {"y": 1}
    (staged,) = queue.storage.admin.in_doubt()
    assert len(staged.tasks) == 1
    assert len(queue) == 0
    assert "in doubt until its witness is found" in caplog.text
    queue.storage.may_discard.set()
    settle()
    assert committed(root) == {"y": 1}
    assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])
    assert "was not committed, discarded" in caplog.text


def test_a_lost_witness_leaves_the_outcome_unknown(queue, root, monkeypatch):
    """A pack may have removed the witness, and there is no older one: failed, and visible."""
    monkeypatch.setattr(indoubt, "LONGEST_COMMIT", 0.0)
    monkeypatch.setattr(indoubt, "_last_seen", {})
    commit_with(Saboteur(AFTER_ALL, "tpc_vote"), queue, root)
    settle()
    (status,) = queue.tasks(state="failed")
    assert (status.task.url, status.reason) == ("/a", indoubt.UNDECIDABLE)


def test_witnesses_in_another_database_give_no_transaction_to_wait_for(queue, root):
    """Consumers know only of the main database how far they have come."""
    commit_with(Saboteur(AFTER_DATABASE, "tpc_finish"), queue, root)
    settle()
    (lease,) = queue.storage.reserve("consumer", timeout=0)
    assert (lease.task.url, lease.tid) == ("/a", None)


def test_fault_after_the_database_has_committed(queue, root, caplog):
    """In doubt, and the witness tells that the data is there: queued after all."""
    commit_with(Saboteur(AFTER_DATABASE, "tpc_finish"), queue, root)
    assert committed(root) == {"x": 1}
    settle()
    assert urls(queue) == ["/a"]
    assert queue.storage.admin.in_doubt() == []
    assert "was committed after all, queued" in caplog.text


def test_fault_after_everything(queue, root):
    commit_with(Saboteur(AFTER_ALL, "tpc_finish"), queue, root)
    assert committed(root) == {"x": 1}
    assert urls(queue) == ["/a"]
    assert queue.storage.admin.in_doubt() == []


@pytest.mark.parametrize(("key", "phase"), [(AFTER_ALL, "tpc_vote"), (BEFORE_ALL, "tpc_finish")])
def test_fault_after_our_vote_without_a_database(queue, key, phase):
    """Nothing was written but tasks, and the caller saw an error: nothing is queued."""
    queue.add("/a")
    transaction.get().join(Saboteur(key, phase))
    with pytest.raises(ValueError, match="sabotage"):
        transaction.commit()
    assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])


# faults of ours


def test_stage_vetoes_the_commit(queue, root):
    """C34, D04: nothing at all is committed."""
    queue.storage.faults["stage"] = 1
    root["x"] = 1
    queue.add("/a")
    with pytest.raises(StorageUnavailable):
        transaction.commit()
    transaction.abort()
    assert committed(root) == {}
    settle()
    # The storage had stored the batch before it failed.
    assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])
    queue.add("/b")
    transaction.commit()
    assert urls(queue) == ["/b"]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_stage_fails_for_the_second_of_two_queues(root, names):
    first, second = sorted((make_queue(name) for name in names), key=lambda queue: queue.name)
    second.storage.faults["stage"] = 1
    root["x"] = 1
    for queue in (first, second):
        queue.add("/a")
    with pytest.raises(StorageUnavailable):
        transaction.commit()
    transaction.abort()
    assert committed(root) == {}
    settle()
    for queue in (first, second):
        assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])
    assert first.storage.calls == ["stage", "discard"]


def test_promote_fails_and_the_user_sees_success(queue, root, caplog):
    """D03: promoted in the background, exactly once."""
    queue.storage.faults["promote"] = 3
    root["x"] = 1
    queue.add("/a")
    queue.add("/b")
    transaction.commit()
    assert committed(root) == {"x": 1}
    assert "committed, but its storage failed (promote failed)" in caplog.text
    settle()
    assert urls(queue) == ["/a", "/b"]
    assert queue.storage.admin.in_doubt() == []
    assert queue.storage.calls == ["stage"] + ["promote"] * 4


def test_promote_fails_for_one_queue_and_not_for_the_next(root):
    """D03: the tasks of other queues do not suffer."""
    first, second = make_queue("a"), make_queue("b")
    first.storage.faults["promote"] = 1
    first.add("/a")
    second.add("/b")
    transaction.commit()
    assert urls(second) == ["/b"]
    settle()
    assert urls(first) == ["/a"]


def test_abort_never_raises(queue, root, caplog):
    """Not even if the storage fails to discard; the batch stays invisible until it does."""
    queue.storage.faults["discard"] = 3
    commit_with(Saboteur(BEFORE_DATABASE, "tpc_vote"), queue, root)
    # The transaction package logs what a data manager raises while it cleans up.
    assert "Error in" not in caplog.text
    assert "stays staged because its storage failed (discard failed)" in caplog.text
    assert len(queue) == 0
    settle()
    assert queue.storage.admin.in_doubt() == []
    assert queue.storage.calls == ["stage"] + ["discard"] * 4


def test_abort_does_not_wait_for_a_storage_that_refused(queue, root):
    """C34: the storage is away; it was waited for once, when it was to stage."""
    queue.storage.faults["stage"] = 1
    queue.storage.may_discard.clear()
    root["x"] = 1
    queue.add("/a")
    with pytest.raises(StorageUnavailable):
        transaction.commit()
    transaction.abort()
    assert [len(item.tasks) for item in queue.storage.admin.in_doubt()] == [1]
    queue.storage.may_discard.set()
    settle()
    assert queue.storage.admin.in_doubt() == []


def test_data_managers_can_be_aborted_in_any_order_and_twice(queue):
    queue.add("/a")
    current = transaction.get()
    resources = list(current._resources)
    for resource in [*resources, *reversed(resources)]:
        resource.tpc_abort(current)
        resource.abort(current)
    assert queue.storage.calls == []
