"""The thread that tells: what it has room for, how it is waited for, and forks."""

from collective.taskqueue import taskqueue
from collective.taskqueue.consumer import events
from collective.taskqueue.consumer.events import TaskCancelled
from collective.taskqueue.consumer.events import TaskQueued
from collective.taskqueue.interfaces import ITaskQueued
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing import run_tasks
from integration.events.conftest import add
from integration.events.conftest import PATIENCE
from integration.events.conftest import Told
import pytest
import subprocess
import sys
import threading


@pytest.fixture
def dispatcher(monkeypatch):
    """Another thread for events, with room for two; the old one comes back."""
    monkeypatch.setattr(events, "MAX_WAITING", 2)
    monkeypatch.setattr(events, "MAX_ARRIVALS", 2)
    monkeypatch.setattr(events, "_dispatcher", events._Dispatcher())


@pytest.fixture
def gate(subscribe, dispatcher):
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
    assert (
        caplog.messages.count(
            f"task {ids[3]}: too many events wait for subscribers, this one is dropped"
        )
        == 1
    )
    assert (
        caplog.messages.count(
            f"task {ids[4]}: too many events wait for subscribers, this one is dropped"
        )
        == 1
    )
    last = add(url)
    assert gate.told.flushed()[-1].status.id == last


def test_flush_waits_no_longer_than_it_is_told(gate, url):
    add(url)
    assert gate.started.acquire(timeout=PATIENCE)
    assert not events.flush(0.01)
    gate.opened.set()
    assert events.flush(PATIENCE)
    assert len(gate.told) == 1


def test_a_thread_that_cannot_be_started(told, dispatcher, url, caplog, monkeypatch):
    """The task is changed all the same; its event is published with the next one."""
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
        patched.setattr(events._dispatcher._events.all_tasks_done, "wait_for", pytest.fail)
        assert not events.flush(PATIENCE)
    taskqueue.cancel(task_id)
    assert told.of(task_id) == [TaskQueued, TaskCancelled]


def test_flush_without_events(dispatcher):
    assert events.flush(0)


FORK = """
from collective.taskqueue.consumer import events
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


def publish_event(name):
    storage.stage(name, [Task(id=name, queue="default", url="/")])
    storage.promote(name)
    events.publish_event(storage, "queued", name)


publish_event("told by the parent")
while not told:
    pass
publish_event("waits in the parent")
child = os.fork()
gate.set()
told.clear()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert events.flush(60)
    assert told == ["waits in the parent"]
else:
    events.after_fork()
    publish_event("told by the child")
    assert events.flush(60)
    assert told == ["told by the child"]
    os._exit(0)
"""


def test_events_of_a_forked_child(tmp_path):
    """The child has a thread of its own, and what waited is told by the parent alone."""
    script = tmp_path / "fork.py"
    script.write_text(FORK)
    subprocess.run([sys.executable, "-W", "ignore", script], timeout=PATIENCE, check=True)
