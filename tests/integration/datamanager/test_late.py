"""`add` raises an error while a transaction ends, and after that: no task is lost silently."""

from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.errors import TaskQueueError
from integration.datamanager.conftest import committed
from integration.datamanager.conftest import Saboteur
from integration.datamanager.conftest import urls
from transaction.interfaces import TransactionFailedError
import pytest
import transaction


class Latecomer(Saboteur):
    """A data manager that adds a task while the transaction is being committed."""

    def __init__(self, key, phase, queue):
        super().__init__(key, phase)
        self._queue = queue

    def _pass(self, phase):
        if phase == self._phase:
            self._queue.add("/late")


PHASES = ["tpc_begin", "commit", "tpc_vote", "tpc_finish"]


@pytest.mark.parametrize("phase", PHASES[:3])
@pytest.mark.parametrize("key", ["m", "~~~"])
def test_add_during_the_commit_is_refused(queue, key, phase):
    """Nothing silent: it could not be queued any more."""
    queue.add("/a")
    transaction.get().join(Latecomer(key, phase, queue))
    with pytest.raises(TaskQueueError, match="too late"):
        transaction.commit()
    transaction.abort()
    assert (len(queue), queue.storage.admin.in_doubt()) == (0, [])


@pytest.mark.parametrize("phase", PHASES)
def test_first_add_during_the_commit_is_refused(queue, phase):
    transaction.get().join(Latecomer("m", phase, queue))
    with pytest.raises(ValueError, match="expected txn status"):
        transaction.commit()
    transaction.abort()
    assert len(queue) == 0


def test_add_in_a_before_commit_hook_is_in_time(queue):
    transaction.get().addBeforeCommitHook(queue.add, ("/hook",))
    queue.add("/a")
    transaction.commit()
    assert urls(queue) == ["/a", "/hook"]


@pytest.mark.parametrize("earlier", [True, False])
def test_add_in_an_after_commit_hook_is_refused(queue, earlier):
    """Nothing silent: the transaction is over."""
    errors = []

    def hook(status):
        try:
            queue.add("/late")
        except Exception as exc:
            errors.append(exc)

    if earlier:
        queue.add("/a")
    transaction.get().addAfterCommitHook(hook)
    transaction.commit()
    assert len(errors) == 1
    transaction.commit()
    assert urls(queue) == ["/a"] * earlier


def test_after_commit_hooks_do_no_harm(queue, root):
    """Hooks make the transaction abort its resources, although it has committed."""
    root["x"] = 1
    queue.add("/a")
    transaction.get().addAfterCommitHook(lambda status: None)
    transaction.commit()
    queue.add("/b")
    transaction.commit()
    assert urls(queue) == ["/a", "/b"]
    assert committed(root) == {"x": 1}
    assert queue.storage.admin.in_doubt() == []


def test_add_after_a_failed_commit_is_refused(queue):
    queue.add("/a")
    transaction.get().join(Saboteur("m", "tpc_vote"))
    with pytest.raises(ValueError, match="sabotage"):
        transaction.commit()
    with pytest.raises((TaskQueueError, TransactionFailedError)):
        queue.add("/b")
    transaction.abort()
    queue.add("/c")
    transaction.commit()
    assert urls(queue) == ["/c"]


def test_what_is_pending(queue, root):
    """Also for a transaction that has failed, and where there is none."""
    root["x"] = 1
    queue.add("/a")
    assert [task.url for task in pending(queue)] == ["/a"]
    transaction.get().join(Saboteur("m", "tpc_vote"))
    with pytest.raises(ValueError, match="sabotage"):
        transaction.commit()
    assert [task.url for task in pending(queue)] == ["/a"]
    transaction.abort()
    transaction.manager.explicit = True
    try:
        assert pending(queue) == ()
    finally:
        transaction.manager.explicit = False
