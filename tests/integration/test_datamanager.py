"""Committed ⇔ queued, with real transactions and a real database beside them."""

from collective.taskqueue import indoubt
from collective.taskqueue import unfinished
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.local import LocalStorage
from transaction.interfaces import DoomedTransaction
from transaction.interfaces import TransactionFailedError
from ZODB import DB
from ZODB.DemoStorage import DemoStorage
from ZODB.POSException import ConflictError
import gc
import pytest
import threading
import time
import transaction
import weakref


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
    assert unfinished.flush(TIMEOUT)


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


# commit and abort


def test_nothing_is_visible_before_the_commit(queue):
    """C30, U02, U03, U28."""
    queue.add("/a")
    assert (len(queue), queue.storage.in_doubt()) == (0, [])
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
    assert (len(queue), queue.storage.in_doubt()) == (0, [])
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
    """D03: one round trip before the commit and one after, whatever the number of tasks."""
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
    """C35: the local queue takes whatever comes, and never makes anybody wait."""
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


# savepoints


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


# too late


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
    assert (len(queue), queue.storage.in_doubt()) == (0, [])


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
    assert queue.storage.in_doubt() == []


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


# faults of others, phase by phase

BEFORE_ALL, BEFORE_DATABASE, AFTER_DATABASE, AFTER_ALL = "\0\0", "!", "~", "~~~"
PLACES = [BEFORE_ALL, BEFORE_DATABASE, AFTER_DATABASE, AFTER_ALL]


def commit_with(saboteur, queue, root):
    root["x"] = 1
    queue.add("/a")
    transaction.get().join(saboteur)
    with pytest.raises(ValueError, match="sabotage"):
        transaction.commit()
    transaction.abort()


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("phase", ["tpc_begin", "commit"])
def test_fault_before_the_vote(queue, root, key, phase):
    commit_with(Saboteur(key, phase), queue, root)
    assert committed(root) == {}
    assert (len(queue), queue.storage.in_doubt()) == (0, [])


@pytest.mark.parametrize("key", [BEFORE_ALL, BEFORE_DATABASE, AFTER_DATABASE])
def test_fault_in_the_vote(queue, root, key):
    """C33: whoever votes no before we do."""
    commit_with(Saboteur(key, "tpc_vote"), queue, root)
    assert committed(root) == {}
    assert (len(queue), queue.storage.in_doubt()) == (0, [])


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
    (staged,) = queue.storage.in_doubt()
    assert len(staged.tasks) == 1
    assert len(queue) == 0
    assert "in doubt until its witness is found" in caplog.text
    queue.storage.may_discard.set()
    settle()
    assert committed(root) == {"y": 1}
    assert (len(queue), queue.storage.in_doubt()) == (0, [])
    assert "was not committed, discarded" in caplog.text


def test_nobody_can_tell_whether_it_was_committed(queue, root, monkeypatch):
    """A pack may have removed the witness, and there is no older one: failed, and visible."""
    monkeypatch.setattr(indoubt, "LONGEST_COMMIT", 0.0)
    monkeypatch.setattr(indoubt, "_last_seen", {})
    commit_with(Saboteur(AFTER_ALL, "tpc_vote"), queue, root)
    settle()
    (status,) = queue.tasks(state="failed")
    assert (status.task.url, status.reason) == ("/a", indoubt.NOBODY_KNOWS)


def test_witnesses_in_another_database_give_no_transaction_to_wait_for(queue, root):
    """Consumers know only of the main database how far they have come."""
    commit_with(Saboteur(AFTER_DATABASE, "tpc_finish"), queue, root)
    settle()
    (lease,) = queue.storage.reserve("consumer", timeout=0)
    assert (lease.task.url, lease.tid) == ("/a", None)


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
        if any(task.url == "/bad" for task in self._staged[batch_id][0]):
            raise ValueError("cannot take this")
        super().promote(batch_id, tid, tasks)


def test_one_bad_batch_does_not_stop_the_queue(caplog):
    """Only an outage is everybody's; what is wrong with one batch is said, and tried again."""
    settings = QueueSettings()
    queue = TaskQueue(settings, Choosy(settings))
    queue.add("/bad")
    transaction.commit()
    assert not unfinished.flush(0)
    deadline = time.monotonic() + TIMEOUT
    while unfinished.is_behind(queue) and time.monotonic() < deadline:
        time.sleep(0.001)
    queue.add("/good")
    transaction.commit()
    assert urls(queue) == ["/good"]
    assert "still not done (ValueError: cannot take this), trying again" in caplog.text


def test_a_database_that_cannot_be_asked_does_not_stop_the_queue(queue, root, monkeypatch):
    def away(*args):
        raise ConnectionError("away")

    monkeypatch.setattr(indoubt, "judge", away)
    commit_with(Saboteur(AFTER_ALL, "tpc_vote"), queue, root)
    queue.storage.faults["promote"] = 1
    queue.add("/b")
    transaction.commit()
    deadline = time.monotonic() + TIMEOUT
    while urls(queue) != ["/b"] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert urls(queue) == ["/b"]
    unfinished._backlog._jobs.clear()


def test_a_batch_without_a_witness_is_for_a_person_to_decide(queue, root):
    """Its transaction wrote nothing else, but whoever made it may have been told so."""
    queue.storage.faults["promote"] = 10**9
    queue.add("/a")
    transaction.commit()
    # The process dies, and with it what it had left to do.
    unfinished._backlog._jobs.clear()
    queue.storage.faults["promote"] = 0
    assert len(indoubt.resolve(queue.storage, root._p_jar.db().databases, grace=0.0)) == 1
    (status,) = queue.tasks(state="failed")
    assert (status.task.url, status.reason) == ("/a", indoubt.NOBODY_KNOWS)
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
    assert "nothing can be done in the background (can't start new thread)" in caplog.text
    queue.add("/b")
    transaction.commit()
    settle()
    assert urls(queue) == ["/a", "/b"]


def test_more_batches_than_can_be_remembered(queue, monkeypatch, caplog):
    monkeypatch.setattr(unfinished, "MAX_WAITING", 0)
    queue.storage.faults["promote"] = 1
    task_id = queue.add("/a")
    transaction.commit()
    assert f"task {task_id}: too many batches wait, this one is left to consumers" in caplog.text
    assert [len(item.tasks) for item in queue.storage.in_doubt()] == [1]


def test_what_is_left_when_the_process_ends(queue, caplog):
    queue.storage.faults["promote"] = 10**9
    task_id = queue.add("/a")
    transaction.commit()
    unfinished.close(0.0)
    assert f"task {task_id}: its batch" in caplog.text
    assert "is left to consumers, this process ends" in caplog.text
    queue.storage.faults["promote"] = 0


def test_fault_after_the_database_has_committed(queue, root, caplog):
    """In doubt, and the witness tells that the data is there: queued after all."""
    commit_with(Saboteur(AFTER_DATABASE, "tpc_finish"), queue, root)
    assert committed(root) == {"x": 1}
    settle()
    assert urls(queue) == ["/a"]
    assert queue.storage.in_doubt() == []
    assert "was committed after all, queued" in caplog.text


def test_fault_after_everything(queue, root):
    commit_with(Saboteur(AFTER_ALL, "tpc_finish"), queue, root)
    assert committed(root) == {"x": 1}
    assert urls(queue) == ["/a"]
    assert queue.storage.in_doubt() == []


@pytest.mark.parametrize(("key", "phase"), [(AFTER_ALL, "tpc_vote"), (BEFORE_ALL, "tpc_finish")])
def test_fault_after_our_vote_without_a_database(queue, key, phase):
    """Nothing was written but tasks, and the caller saw an error: nothing is queued."""
    queue.add("/a")
    transaction.get().join(Saboteur(key, phase))
    with pytest.raises(ValueError, match="sabotage"):
        transaction.commit()
    assert (len(queue), queue.storage.in_doubt()) == (0, [])


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
    assert (len(queue), queue.storage.in_doubt()) == (0, [])
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
        assert (len(queue), queue.storage.in_doubt()) == (0, [])
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
    assert queue.storage.in_doubt() == []
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
    assert queue.storage.in_doubt() == []
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
    assert [len(item.tasks) for item in queue.storage.in_doubt()] == [1]
    queue.storage.may_discard.set()
    settle()
    assert queue.storage.in_doubt() == []


def test_data_managers_can_be_aborted_in_any_order_and_twice(queue):
    queue.add("/a")
    current = transaction.get()
    resources = list(current._resources)
    for resource in [*resources, *reversed(resources)]:
        resource.tpc_abort(current)
        resource.abort(current)
    assert queue.storage.calls == []


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
    assert queue.storage.in_doubt() == []
