"""A queue whose storage fails on demand, and a real database beside it."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.local import LocalStorage
from ZODB import DB
from ZODB.DemoStorage import DemoStorage
import pytest
import threading
import transaction


#: Nothing here takes longer than a moment; only a failure takes this long.
TIMEOUT = 30.0


class FaultyStorage(LocalStorage):
    """A storage that fails in the methods it is told to, as often as it is told to."""

    def __init__(self, settings):
        super().__init__(settings)
        self.faults = {}
        self.calls = []
        self.may_discard = threading.Event()
        self.may_discard.set()

    def _call(self, method):
        self.calls.append(method)
        if self.faults.get(method, 0) > 0:
            self.faults[method] -= 1
            raise StorageUnavailable(f"{method} failed")

    def stage(self, *args):
        # The worst case: the batch is stored, and the answer is lost.
        super().stage(*args)
        self._call("stage")

    def promote(self, *args):
        self._call("promote")
        super().promote(*args)

    def discard(self, *args):
        assert self.may_discard.wait(TIMEOUT)
        self._call("discard")
        super().discard(*args)


class Saboteur:
    """A data manager that raises in one phase; `key` says where it stands in line."""

    transaction_manager = transaction.manager

    def __init__(self, key, phase):
        self._key = key
        self._phase = phase

    def sortKey(self):
        return self._key

    def _pass(self, phase):
        if phase == self._phase:
            raise ValueError(f"sabotage in {phase}")

    def tpc_begin(self, current):
        self._pass("tpc_begin")

    def commit(self, current):
        self._pass("commit")

    def tpc_vote(self, current):
        self._pass("tpc_vote")

    def tpc_finish(self, current):
        self._pass("tpc_finish")

    def abort(self, current):
        pass

    def tpc_abort(self, current):
        pass


def make_queue(name="default"):
    settings = QueueSettings(queue=name)
    return TaskQueue(settings, FaultyStorage(settings))


def urls(queue):
    return [status.task.url for status in queue.tasks(state="queued", size=1000)]


def batch(queue):
    return transaction.get().data(queue)


def settle():
    """Wait for what goes on in the background with batches."""
    assert outbox.flush(TIMEOUT)


@pytest.fixture
def queue():
    return make_queue()


@pytest.fixture
def root():
    """The root object of a database that takes part in the transaction once it is changed."""
    database = DB(DemoStorage())
    connection = database.open()
    yield connection.root()
    transaction.abort()
    settle()
    connection.close()
    database.close()


@pytest.fixture(autouse=True)
def fresh_transaction():
    transaction.begin()
    yield
    transaction.abort()


def committed(root):
    """What another connection sees in the database."""
    connection = root._p_jar.db().open(transaction_manager=transaction.TransactionManager())
    try:
        return dict(connection.root())
    finally:
        connection.close()


#: Where a saboteur stands in line when data managers are asked one after the other.
BEFORE_ALL, BEFORE_DATABASE, AFTER_DATABASE, AFTER_ALL = "\0\0", "!", "~", "~~~"
PLACES = [BEFORE_ALL, BEFORE_DATABASE, AFTER_DATABASE, AFTER_ALL]


def commit_with(saboteur, queue, root):
    root["x"] = 1
    queue.add("/a")
    transaction.get().join(saboteur)
    with pytest.raises(ValueError, match="sabotage"):
        transaction.commit()
    transaction.abort()
