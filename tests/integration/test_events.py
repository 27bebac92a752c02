"""Subscribers are told what has happened to a task: after the fact, in order, harmlessly."""

from AccessControl import getSecurityManager
from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.users import system
from collective.taskqueue import events
from collective.taskqueue import indoubt
from collective.taskqueue import queue as module
from collective.taskqueue import startup
from collective.taskqueue import taskqueue
from collective.taskqueue import unfinished
from collective.taskqueue.capture import make_task
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import Consumer
from collective.taskqueue.errors import Discard
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.events import TaskCancelled
from collective.taskqueue.events import TaskEvent
from collective.taskqueue.events import TaskFailed
from collective.taskqueue.events import TaskQueued
from collective.taskqueue.events import TaskRetried
from collective.taskqueue.events import TaskStarted
from collective.taskqueue.events import TaskSucceeded
from collective.taskqueue.interfaces import ITaskEvent
from collective.taskqueue.interfaces import ITaskFailed
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.interfaces import ITaskQueued
from collective.taskqueue.publisher import publish
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from plone.testing.zca import popGlobalRegistry
from plone.testing.zca import pushGlobalRegistry
from transaction.interfaces import IDataManager
from zope.component import getGlobalSiteManager
from zope.component import queryUtility
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import getRequest
from zope.interface import implementer
import pytest
import subprocess
import sys
import threading
import transaction
import zope.event


#: Seconds after which a test fails; only a failure takes this long.
PATIENCE = 60.0


@pytest.fixture
def subscribe(functional):
    """Register a subscriber for the duration of a test."""
    registry = getGlobalSiteManager()
    handlers = []

    def register(handler, kind=ITaskEvent):
        registry.registerHandler(handler, (kind,))
        handlers.append((handler, (kind,)))

    yield register
    assert events.flush(PATIENCE)
    for handler, required in handlers:
        registry.unregisterHandler(handler, required)


class Told(list):
    """All events, once they are told."""

    def flushed(self):
        assert events.flush(PATIENCE)
        return self

    def of(self, task_id):
        return [type(event) for event in self.flushed() if event.status.id == task_id]


@pytest.fixture
def told(subscribe):
    told = Told()
    subscribe(told.append)
    return told


@pytest.fixture
def url(view):
    return view("work", lambda context, request: "done")


def add(url, **options):
    task_id = taskqueue.add(url, queue="default", **options)
    transaction.commit()
    return task_id


def raising(error):
    def function(*args):
        raise error

    return function


# what is told


def test_components_are_those_of_the_layer(url, subscribe):
    """Each layer has a registry of its own; the thread of events outlives it."""
    found = []
    subscribe(lambda event: found.append(queryUtility(ITaskQueue, name="later")), ITaskQueued)
    for _ in range(2):
        pushGlobalRegistry()
        try:
            with task_queue("later") as later:
                add(url)
                assert events.flush(PATIENCE)
        finally:
            popGlobalRegistry()
        assert found.pop() is later


def test_a_task_that_succeeds(told, url):
    task_id = add(url)
    run_tasks()
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskSucceeded]
    assert [event.status.state for event in told] == [QUEUED, RUNNING, SUCCEEDED]
    queued, started, succeeded = (event.status for event in told)
    assert (queued.consumer, queued.attempts) == (None, ())
    assert (started.consumer, started.attempts) == ("testing", ())
    assert (succeeded.status, succeeded.body) == (200, b"done")


def test_a_task_that_is_retried_and_fails(told, view):
    task_id = add(view("work", raising(ValueError("bad"))), max_attempts=2, min_backoff=0)
    while run_tasks():
        pass
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskRetried, TaskStarted, TaskFailed]
    retried, failed = (told[n].status for n in (2, 4))
    assert (retried.state, retried.reason) == (SCHEDULED, "ValueError: bad")
    assert retried.due is not None
    assert (failed.state, failed.reason) == (FAILED, "ValueError: bad (attempt 2 of 2)")
    assert [attempt.number for attempt in failed.attempts] == [1, 2]


def test_a_task_that_is_cancelled_while_it_waits(told, url):
    task_id = add(url)
    taskqueue.cancel(task_id)
    assert told.of(task_id) == [TaskQueued, TaskCancelled]
    assert (told[1].status.state, told[1].status.reason) == (CANCELLED, "cancelled")


def test_a_task_that_is_cancelled_while_it_runs(told, view):
    """That it was asked for is no event; that it has ended is one."""

    def work(context, request):
        taskqueue.cancel(request.getHeader("X-Task-Id"))
        taskqueue.checkpoint()

    task_id = add(view("work", work))
    run_tasks()
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskCancelled]
    assert told[2].status.reason == "cancelled while running"
    assert len(told[2].status.attempts) == 1


def test_a_task_that_is_due_later(told, url):
    """It is queued, too: what the transaction has done is done."""
    task_id = add(url, delay=60)
    assert told.of(task_id) == [TaskQueued]
    assert told[0].status.state == SCHEDULED
    assert told[0].status.due == pytest.approx(told[0].status.task.created + 60)


def test_nothing_is_told_before_the_commit(told, url):
    task_id = taskqueue.add(url)
    assert told.flushed() == []
    transaction.commit()
    assert told.of(task_id) == [TaskQueued]


def test_nothing_is_told_of_an_aborted_transaction(told, url):
    taskqueue.add(url)
    transaction.abort()
    transaction.commit()
    assert told.flushed() == []


def test_nothing_is_told_of_what_is_rolled_back(told, url):
    task_id = taskqueue.add(url)
    savepoint = transaction.savepoint()
    taskqueue.add(url)
    savepoint.rollback()
    transaction.commit()
    assert [event.status.id for event in told.flushed()] == [task_id]


def test_nothing_is_told_of_a_task_that_is_skipped_for_its_key(told, url):
    first = add(url, key="k")
    second = add(url, key="k")
    run_tasks()
    assert told.of(first) == [TaskQueued, TaskStarted, TaskSucceeded]
    assert len(told) == 3
    assert taskqueue.status(second).id == first


def test_a_task_that_is_replaced_is_cancelled(told, url):
    first = add(url, key="k")
    second = add(url, key="k", on_conflict="replace")
    assert told.of(first) == [TaskQueued, TaskCancelled]
    assert told.of(second) == [TaskQueued]


def test_poison_is_told(told, url, queue):
    """A task that loses its process again and again fails, and nobody else says so."""
    task_id = add(url)
    for _ in range(queue.settings.max_deliveries):
        assert queue.storage.reserve("lost", timeout=0, lease=0)
    assert queue.storage.reserve("other", timeout=0) == []
    assert told.of(task_id) == [TaskQueued, TaskFailed]
    assert "lost" in told[1].status.reason


def test_a_task_that_is_not_kept(told, url, view):
    """Its end is told all the same, with what came of it."""
    done = add(url, keep=0)
    failed = add(view("bad", raising(ValueError("bad"))), keep=0)
    cancelled = add(url, keep=0)
    taskqueue.cancel(cancelled)
    run_tasks()
    assert told.of(done) == [TaskQueued, TaskStarted, TaskSucceeded]
    assert told.of(failed) == [TaskQueued, TaskStarted, TaskFailed]
    assert told.of(cancelled) == [TaskQueued, TaskCancelled]
    (succeeded,) = (event.status for event in told if isinstance(event, TaskSucceeded))
    assert (succeeded.status, succeeded.body) == (200, b"done")


def test_a_task_that_is_put(told, url, queue):
    """Once, also if somebody puts it again."""
    task = make_task(queue.settings, url)
    queue.put(task)
    queue.put(task)
    assert told.of(task.id) == [TaskQueued]
    run_tasks()
    queue.put(task)
    assert told.of(task.id) == [TaskQueued, TaskStarted, TaskSucceeded]


def test_a_task_that_is_retried_by_a_person(told, view):
    """It is queued again, and told as it was then."""
    task_id = add(view("work", raising(ValueError("bad"))))
    run_tasks()
    for _ in range(2):
        taskqueue.retry(task_id)
        run_tasks()
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskFailed] * 3
    queued = [event.status for event in told if isinstance(event, TaskQueued)]
    assert [(status.state, len(status.attempts)) for status in queued] == [
        (QUEUED, 0),
        (QUEUED, 1),
        (QUEUED, 2),
    ]


def test_a_retry_that_is_refused_is_not_told(told, url):
    task_id = add(url)
    with pytest.raises(ForbiddenTransition):
        taskqueue.retry(task_id)
    assert told.of(task_id) == [TaskQueued]


@pytest.mark.parametrize("witness", [True, False])
def test_a_task_whose_process_was_lost(told, url, queue, witness, caplog):
    """If its batch is found to be committed; each way it is logged what became of it."""
    database = getSite().getPhysicalRoot()._p_jar.db()
    task = make_task(queue.settings, url)
    reference = f"{indoubt.MAIN}:{getSite()._p_oid.hex()}:" if witness else None
    queue.storage.stage("batch", [task], reference)
    databases = {indoubt.MAIN: database}
    assert indoubt.resolve(queue.storage, databases, 0.0, queue.arrival) == ["batch"]
    assert told.of(task.id) == [TaskQueued if witness else TaskFailed]
    word = "queued late" if witness else "nobody can tell"
    assert [line for line in caplog.messages if task.id in line and word in line]


# order


def test_order_of_a_transaction(told, url):
    ids = [taskqueue.add(url) for _ in range(5)]
    transaction.commit()
    run_tasks()
    told.flushed()
    assert [event.status.id for event in told[:5]] == ids
    assert {type(event) for event in told[:5]} == {TaskQueued}
    assert [event.status.id for event in told[5:]] == [i for i in ids for _ in range(2)]


class Fast(LocalStorage):
    """A storage whose consumer is done before whoever promotes comes to speak."""

    def __init__(self, queue, *notify):
        super().__init__(queue.settings)
        self.consumer = Consumer(self, publish, ServerSettings(name="fast"), *notify)

    def promote(self, *args, **kwargs):
        super().promote(*args, **kwargs)
        thread = threading.Thread(target=self.run)
        thread.start()
        thread.join(PATIENCE)

    def run(self):
        while self.consumer.step():
            pass


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_task_is_queued_before_it_starts(told, url, queue, tasks):
    """Also if the consumer is faster than the transaction, and as it was then."""
    queue.storage = Fast(queue, queue.announce)
    ids = [taskqueue.add(url) for _ in range(tasks)]
    transaction.commit()
    queue.storage.consumer.stop()
    for task_id in ids:
        assert told.of(task_id) == [TaskQueued, TaskStarted, TaskSucceeded]
    queued = [event.status for event in told if isinstance(event, TaskQueued)]
    assert {(s.state, s.consumer, s.attempts, len(s.changes)) for s in queued} == {
        (QUEUED, None, (), 1)
    }


def test_a_task_is_queued_although_another_process_was_faster(told, view, queue):
    """What that process tells is told there; this one tells of the task as it was."""
    queue.storage = Fast(queue)
    task_id = add(view("work", raising(ValueError("bad"))), max_attempts=2, min_backoff=60)
    queue.storage.consumer.stop()
    assert taskqueue.status(task_id).state == SCHEDULED
    assert told.of(task_id) == [TaskQueued]
    status = told[0].status
    assert (status.state, status.reason, status.attempts, status.consumer) == (QUEUED, "", (), None)


def test_a_retry_is_told_as_it_was(told, queue, view):
    """The next attempt may have been made before the event of the first one is made."""

    class Hasty(Consumer):
        def _stored(self, ending, state):
            if ending.lease.attempt == 1:
                self.step()
            super()._stored(ending, state)

    numbers = []

    def work(context, request):
        numbers.append(request.getHeader("X-Task-Attempt"))
        if numbers == ["1"]:
            raise ValueError("bad")

    task_id = add(view("work", work), max_attempts=2, min_backoff=0)
    consumer = Hasty(queue.storage, publish, ServerSettings(name="hasty"), queue.announce)
    consumer.step()
    consumer.stop()
    told.of(task_id)
    (retried,) = (event.status for event in told if isinstance(event, TaskRetried))
    assert (retried.state, retried.reason) == (SCHEDULED, "ValueError: bad")
    assert [attempt.number for attempt in retried.attempts] == [1]
    assert retried.consumer == "hasty"


def test_nothing_overtakes_the_event_of_the_arrival(told, url, queue, monkeypatch):
    """Whoever promotes and the consumer come to tell at the same time: one waits."""
    telling, go = threading.Event(), threading.Event()
    announce = module.announce

    def held(storage, state, task_id, *after):
        if state == QUEUED:
            telling.set()
            assert go.wait(PATIENCE)
        announce(storage, state, task_id, *after)

    class Door:
        """A lock that lets whoever holds it go on as soon as another one waits for it."""

        def __init__(self):
            self.lock = threading.Lock()

        def __enter__(self):
            if not self.lock.acquire(blocking=False):
                go.set()
                self.lock.acquire()

        def __exit__(self, *args):
            self.lock.release()

    def run():
        assert telling.wait(PATIENCE)
        consumer.step()
        # Only in vain: it has overtaken the one who promotes.
        go.set()

    monkeypatch.setattr(module, "announce", held)
    monkeypatch.setattr(queue, "_telling", Door())
    consumer = Consumer(queue.storage, publish, ServerSettings(), queue.announce)
    thread = threading.Thread(target=run)
    thread.start()
    task_id = add(url)
    thread.join(PATIENCE)
    consumer.stop()
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskSucceeded]


def test_a_condemned_task_that_was_retried_meanwhile(told, url, queue):
    """It has failed without an attempt; whoever condemned it learns nothing of the haste."""
    task = make_task(queue.settings, url)

    def retried_first(state, task_id):
        queue.storage.retry(task_id)
        queue.announce(state, task_id)

    queue.storage.notify = retried_first
    queue.storage.stage("batch", [task])
    queue.storage.condemn("batch", "nobody knows")
    assert told.of(task.id) == [TaskFailed]
    assert (told[0].status.state, told[0].status.attempts) == (FAILED, ())


def test_a_long_history_is_told_as_it_was(told, url, queue):
    """Of changes fewer are kept than of attempts, and the first ones are gone."""
    task_id = add(url, max_attempts=1000, min_backoff=0, max_backoff=0)
    consumer = Consumer(queue.storage, lambda attempt: Outcome(503), ServerSettings())
    for _ in range(60):
        assert consumer.step()
    consumer.stop()
    queue.storage.reserve("next", timeout=0)
    queue.announce(SCHEDULED, task_id)
    assert told.flushed()[-1].status.attempts[-1].number == 60


def test_a_storage_that_fails_to_promote_at_first(told, url, queue, monkeypatch):
    """The event comes once, when the task is there."""
    failures = [StorageUnavailable("gone")]
    promote = queue.storage.promote
    done = threading.Event()

    def promote_late(*args):
        if failures:
            raise failures.pop()
        promote(*args)
        done.set()

    monkeypatch.setattr(queue.storage, "promote", promote_late)
    task_id = add(url)
    assert done.wait(PATIENCE)
    run_tasks()
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskSucceeded]


def test_a_process_that_ends_tells_first(subscribe, url, queue, monkeypatch):
    """Also one without consumers; afterwards the storage cannot be asked any more."""
    told, closed = [], []

    def slow(event):
        # Slow, so that whoever does not wait for it is too early.
        threading.Event().wait(0.3)
        told.append(event.status.id)

    subscribe(slow)
    monkeypatch.setattr(unfinished, "close", lambda timeout: None)
    monkeypatch.setattr(queue.storage, "close", lambda: closed.extend(told), raising=False)
    task_id = add(url)
    startup._close_storages()
    assert closed == [task_id]


# subscribers


def test_subscribers_run_in_a_thread_of_their_own(subscribe, url):
    """Nothing of whoever queued the task or runs it is there."""
    seen = []

    def look(event):
        thread = threading.current_thread()
        user = getSecurityManager().getUser().getId()
        seen.append((thread.name, thread.daemon, getSite(), getRequest(), user))

    subscribe(look)
    add(url)
    run_tasks()
    assert events.flush(PATIENCE)
    assert seen == [("taskqueue-events", True, None, None, None)] * 3


def test_the_transaction_of_a_subscriber_is_committed(told, subscribe, view, url, queue):
    """What it adds is queued, and runs."""
    subscribe(lambda event: taskqueue.add(url, description="after"), ITaskFailed)
    add(view("bad", raising(Discard("pointless"))))
    _, run = run_tasks()
    assert (run.task.description, run.status.state) == ("after", SUCCEEDED)


@pytest.mark.parametrize("error", [RuntimeError("alarm"), SystemExit("alarm")])
def test_what_a_subscriber_raises_is_logged_and_harms_nobody(
    told, subscribe, view, url, queue, caplog, error
):
    """Neither the task, nor the other subscribers before and after it; what it did itself
    is undone."""

    def add_and_raise(event):
        taskqueue.add(url, description="undone")
        raise error

    subscribe(lambda event: taskqueue.add(url, description="before"), ITaskFailed)
    subscribe(raising(error), ITaskFailed)
    subscribe(add_and_raise, ITaskFailed)
    subscribe(lambda event: taskqueue.add(url, description="after"), ITaskFailed)
    task_id = add(view("bad", raising(Discard("pointless"))))
    bad, *others = run_tasks()
    assert bad.status.reason == "Discard: pointless"
    assert [run.task.description for run in others] == ["before", "after"]
    message = f"task {task_id}: a subscriber of TaskFailed failed, ignored"
    records = [record for record in caplog.records if record.message == message]
    assert [record.exc_info[1] for record in records] == [error, error]
    # The thread lives on.
    assert [type(event) for event in told.flushed()].count(TaskSucceeded) == 2


@implementer(IDataManager)
class Broken:
    """A data manager that fails in one phase."""

    transaction_manager = transaction.manager

    def __init__(self, phase):
        self._phase = phase

    def __getattr__(self, name):
        def method(current):
            if name == self._phase:
                raise RuntimeError(f"broken in {name}")

        return method

    def sortKey(self):
        return "broken"


@pytest.mark.parametrize("phase", ["tpc_vote", "tpc_finish", "abort"])
def test_a_subscriber_whose_commit_fails(told, subscribe, url, caplog, phase):
    def join(event):
        transaction.get().join(Broken(phase))
        if phase == "abort":
            raise ValueError

    subscribe(join, ITaskQueued)
    first, second = add(url), add(url)
    assert told.of(first) == told.of(second) == [TaskQueued]
    for task_id in (first, second):
        assert f"task {task_id}: a subscriber of TaskQueued failed, ignored" in caplog.messages


def test_a_subscriber_that_leaves_litter_behind(subscribe, portal, url):
    """The next one finds nothing of it."""
    seen = []

    def litter(event):
        seen.append((getSite(), getSecurityManager().getUser().getId(), transaction.isDoomed()))
        setSite(portal)
        newSecurityManager(None, system.__of__(portal.acl_users))
        transaction.doom()

    subscribe(litter)
    subscribe(litter)
    add(url)
    run_tasks()
    assert events.flush(PATIENCE)
    assert seen == [(None, None, False)] * 6


def test_subscribers_are_those_of_one_kind(subscribe, url):
    found = []
    subscribe(found.append, ITaskFailed)
    add(url)
    run_tasks()
    assert events.flush(PATIENCE)
    assert found == []


class Counting(LocalStorage):
    """A storage that counts questions for a status, and may fail to answer them."""

    failure = None

    def __init__(self, settings):
        super().__init__(settings)
        self.askers = []

    @property
    def questions(self):
        return len(self.askers)

    def get(self, task_id):
        self.askers.append(threading.current_thread().name)
        if self.failure is not None:
            raise self.failure
        return super().get(task_id)


@pytest.fixture
def counting(queue):
    queue.storage = Counting(queue.settings)
    queue.storage.notify = queue.announce
    return queue.storage


def test_without_a_subscriber_nothing_is_asked(counting, url, queue):
    """Events cost nothing where nobody listens."""
    consumer = Consumer(counting, publish, ServerSettings(), queue.announce)
    add(url)
    consumer.step()
    consumer.stop()
    assert counting.counts()[SUCCEEDED] == 1
    assert counting.questions == 0


def test_only_what_is_listened_to_is_asked_for(counting, subscribe, url, queue):
    subscribe(lambda event: None, ITaskQueued)
    consumer = Consumer(counting, publish, ServerSettings(), queue.announce)
    add(url)
    consumer.step()
    consumer.stop()
    assert events.flush(PATIENCE)
    assert counting.questions == 1


def test_whoever_commits_asks_nothing(counting, told, url):
    """A transaction may queue thousands of tasks; the thread of the events looks at them."""
    ids = [taskqueue.add(url) for _ in range(20)]
    transaction.commit()
    assert [event.status.id for event in told.flushed()] == ids
    assert set(counting.askers) == {"taskqueue-events"}


def test_a_storage_that_does_not_answer(counting, told, url, caplog):
    """The transaction has committed and must not fail; nobody is told, and that is logged."""
    counting.failure = StorageUnavailable("gone")
    task_id = add(url)
    assert told.flushed() == []
    assert f"task {task_id}: queued, but nobody was told (gone)" in caplog.messages


# the thread


@pytest.fixture
def herald(monkeypatch):
    """Another thread for events, with room for two; the old one comes back."""
    monkeypatch.setattr(events, "MAX_WAITING", 2)
    monkeypatch.setattr(events, "MAX_ARRIVALS", 2)
    monkeypatch.setattr(events, "_herald", events._Herald())


@pytest.fixture
def gate(subscribe, herald):
    """A subscriber that waits; it has told `started` once it does."""

    class Gate:
        started = threading.Semaphore(0)
        opened = threading.Event()
        told = Told()

    def wait(event):
        Gate.started.release()
        assert Gate.opened.wait(PATIENCE)
        Gate.told.append(event)

    subscribe(wait, ITaskQueued)
    yield Gate
    Gate.opened.set()


def test_too_many_events(gate, url, caplog):
    """What a slow subscriber has no room for is dropped and logged; no task waits for it."""
    first = add(url)
    assert gate.started.acquire(timeout=PATIENCE)
    ids = [first, *(add(url) for _ in range(4))]
    assert {run.status.state for run in run_tasks()} == {SUCCEEDED}
    gate.opened.set()
    assert [event.status.id for event in gate.told.flushed()] == ids[:3]
    assert caplog.messages.count(f"task {ids[3]}: too many events wait, one is dropped") == 1
    assert caplog.messages.count(f"task {ids[4]}: too many events wait, one is dropped") == 1
    last = add(url)
    assert gate.told.flushed()[-1].status.id == last


def test_flush_waits_no_longer_than_it_is_told(gate, url):
    add(url)
    assert gate.started.acquire(timeout=PATIENCE)
    assert not events.flush(0.01)
    gate.opened.set()
    assert events.flush(PATIENCE)
    assert len(gate.told) == 1


def test_a_thread_that_cannot_be_started(told, herald, url, caplog, monkeypatch):
    """Nobody who changes a task suffers; what is not told yet is told with the next event."""
    start = threading.Thread.start
    failures = [RuntimeError("can't start new thread")] * 2

    def start_later(thread):
        if failures and thread.name == "taskqueue-events":
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    task_id = add(url)
    assert "no thread for task events (can't start new thread)" in caplog.text
    # At the end of a process there are no threads any more, and nothing to wait for.
    with monkeypatch.context() as patched:
        patched.setattr(events._herald._events.all_tasks_done, "wait_for", pytest.fail)
        assert not events.flush(PATIENCE)
    taskqueue.cancel(task_id)
    assert told.of(task_id) == [TaskQueued, TaskCancelled]


def test_flush_without_events(herald):
    assert events.flush(0)


FORK = """
from collective.taskqueue import events
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.interfaces import ITaskEvent
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import Task
from zope.component import getGlobalSiteManager
import os
import threading

gate, told = threading.Event(), []


def subscriber(event):
    told.append(event.status.id)
    gate.wait(60)


getGlobalSiteManager().registerHandler(subscriber, (ITaskEvent,))
storage = LocalStorage(QueueSettings())


def announce(name):
    storage.stage(name, [Task(id=name, queue="default", url="/")])
    storage.promote(name)
    events.announce(storage, "queued", name)


announce("told by the parent")
while not told:
    pass
announce("waits in the parent")
child = os.fork()
gate.set()
told.clear()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert events.flush(60)
    assert told == ["waits in the parent"]
else:
    events.after_fork()
    announce("told by the child")
    assert events.flush(60)
    assert told == ["told by the child"]
    os._exit(0)
"""


def test_events_of_a_forked_child(tmp_path):
    """The child has a thread of its own, and what waited is told by the parent alone."""
    script = tmp_path / "fork.py"
    script.write_text(FORK)
    subprocess.run([sys.executable, "-W", "ignore", script], timeout=PATIENCE, check=True)


def test_subscribers_of_zope_event(url, monkeypatch):
    """Whoever subscribes to all events is told of these, too, once each."""
    told = Told()

    def remember(event):
        if isinstance(event, TaskEvent):
            told.append(event)

    monkeypatch.setattr(zope.event, "subscribers", [*zope.event.subscribers, remember])
    task_id = add(url)
    run_tasks()
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskSucceeded]
