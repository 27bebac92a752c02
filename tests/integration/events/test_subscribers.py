"""Subscribers harm no task and no caller, and cost nothing where there are none."""

from AccessControl import getSecurityManager
from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.users import system
from collective.taskqueue import taskqueue
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import events
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.consumer.events import TaskQueued
from collective.taskqueue.consumer.events import TaskSucceeded
from collective.taskqueue.errors import Discard
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.interfaces import ITaskFailed
from collective.taskqueue.interfaces import ITaskQueued
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.storages.local.admin import LocalAdmin
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing import run_tasks
from integration.events.conftest import add
from integration.events.conftest import PATIENCE
from integration.events.conftest import raising
from transaction.interfaces import IDataManager
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import getRequest
from zope.interface import implementer
import pytest
import threading
import transaction


def test_subscribers_run_in_a_thread_of_their_own(subscribe, url):
    """That thread has no user, site or request: neither of the client nor of the task."""
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


@pytest.mark.parametrize("error", [RuntimeError("notifier"), SystemExit("notifier")])
def test_what_a_subscriber_raises_is_logged_and_does_no_harm(
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


class Counting(LocalAdmin):
    """An admin that counts questions for a status, and may fail to answer them."""

    failure = None

    def __init__(self, *args):
        super().__init__(*args)
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
    storage = queue.storage = LocalStorage(queue.settings)
    storage.notify = queue.publish_event
    storage.admin = Counting(storage._memory, storage._publish)
    return storage.admin


def test_without_a_subscriber_nothing_is_asked(counting, url, queue):
    """Without a subscriber the process asks the storage nothing."""
    consumer = Consumer(queue.storage, publish, ServerSettings(), queue.publish_event)
    add(url)
    consumer.step()
    consumer.stop()
    assert counting.counts()[SUCCEEDED] == 1
    assert counting.questions == 0


def test_only_what_is_listened_to_is_asked_for(counting, subscribe, url, queue):
    subscribe(lambda event: None, ITaskQueued)
    consumer = Consumer(queue.storage, publish, ServerSettings(), queue.publish_event)
    add(url)
    consumer.step()
    consumer.stop()
    assert events.flush(PATIENCE)
    assert counting.questions == 1


def test_a_commit_asks_nothing(counting, told, url):
    """A transaction may queue thousands of tasks; the thread of the events looks at them."""
    ids = [taskqueue.add(url) for _ in range(20)]
    transaction.commit()
    assert [event.status.id for event in told.flushed()] == ids
    assert set(counting.askers) == {"taskqueue-events"}


def test_a_storage_that_does_not_answer(counting, told, url, caplog):
    """The transaction has committed and must not fail; no event is published; a line says so."""
    counting.failure = StorageUnavailable("gone")
    task_id = add(url)
    assert told.flushed() == []
    assert f"task {task_id}: queued, but its event could not be published (gone)" in caplog.messages
