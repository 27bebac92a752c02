"""The part of a queue that scripts use: tasks put, taken and done by hand."""

from collective.taskqueue import config
from collective.taskqueue import queue as module
from collective.taskqueue import startup
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import interrupt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import Outcome
from collective.taskqueue.testing.contract.base import new_task
from io import StringIO
from zope.component import getUtilitiesFor
import logging
import os
import pytest
import sys
import threading
import time
import transaction


#: Nothing here takes longer than a moment; only a failure takes this long.
BOUND = 30.0


class Storage(LocalStorage):
    """Fails in `finish` when told to, and says when a lease was renewed."""

    def __init__(self, settings):
        super().__init__(settings)
        self.away = False
        self.renewed = threading.Event()

    def renew(self, lease, seconds):
        self.renewed.set()
        return super().renew(lease, seconds)

    def complete(self, lease, transition):
        if self.away:
            raise StorageUnavailable("away")
        return super().complete(lease, transition)


@pytest.fixture
def queue():
    queue = TaskQueue(QueueSettings(), Storage(QueueSettings()))
    yield queue
    queue._heartbeat.stop()


@pytest.fixture
def taken(queue):
    """A task that was put into the queue and taken out of it."""
    queue.put(new_task(id="a"))
    return queue.get("script")


def test_put_get_and_done(queue, taken):
    assert taken.id == "a"
    assert queue.get("script") is None
    queue.task_done(taken, "HTTP/1.1 200 OK", "script", 0)
    status = queue.status("a")
    assert (status.state, status.consumer) == ("succeeded", "script")
    (attempt,) = status.attempts
    assert attempt.status == 200
    assert 0 <= attempt.seconds < BOUND


def test_without_a_name(queue):
    """C45: scripts that were written for 1.x name no consumer, and no status."""
    queue.put(new_task(id="a"))
    task = queue.get()
    assert task.id == "a"
    assert queue.get() is None
    queue.task_done(task)
    status = queue.status("a")
    assert (status.state, status.consumer) == ("succeeded", "script")
    assert status.attempts[0].status == 200


@pytest.mark.parametrize(
    ("line", "state"),
    [("204 No Content", "succeeded"), ("HTTP/1.1 404 Not Found", "failed"), ("", "failed")],
)
def test_status_lines(queue, taken, line, state):
    queue.task_done(taken, line, "script")
    assert queue.status("a").state == state


@pytest.mark.parametrize(("line", "state"), [("404 no", "scheduled"), ("429 wait", "failed")])
def test_status_lines_of_a_queue_of_its_own_mind(queue, line, state):
    """U31: a script that runs tasks has the same rules as a consumer."""
    queue.settings = QueueSettings(transient_statuses=(404,))
    queue.put(new_task(id="b", max_attempts=2))
    queue.task_done(queue.get("script"), line, "script")
    assert queue.status("b").state == state


@pytest.mark.parametrize("line", ["HTTP/1.1", "HTTP/1.1 OK", "²00", "99", "600", "-1 no"])
def test_a_line_that_is_none_leaves_the_task_reserved(queue, taken, line):
    if line == "HTTP/1.1":
        queue.task_done(taken, line, "script")
        assert queue.status("a").state == "failed"
        return
    with pytest.raises(ValueError, match="no status line"):
        queue.task_done(taken, line, "script")
    assert queue.status("a").state == "running"
    queue.task_done(taken, "HTTP/1.1 200 OK", "script")
    assert queue.status("a").state == "succeeded"


def test_an_outage_leaves_the_task_reserved(queue, taken):
    queue.storage.away = True
    with pytest.raises(StorageUnavailable):
        queue.task_done(taken, "HTTP/1.1 200 OK", "script")
    queue.storage.away = False
    queue.task_done(taken, "HTTP/1.1 200 OK", "script")
    assert queue.status("a").state == "succeeded"


def test_done_twice(queue, taken, caplog):
    queue.task_done(taken, "HTTP/1.1 200 OK", "script")
    queue.task_done(taken, "HTTP/1.1 500 Oops", "script")
    assert caplog.messages == ["task a: done, but not reserved by script, ignored"]
    assert queue.status("a").state == "succeeded"


def test_the_lease_is_renewed_while_the_script_works(monkeypatch):
    """No other process gets the task as long as this process lives, however long it works."""
    monkeypatch.setattr(module, "LEASE", 1.5)
    queue = TaskQueue(QueueSettings(), Storage(QueueSettings()))
    queue.put(new_task(id="a"))
    task = queue.get("script")
    try:
        assert queue.storage.renewed.wait(BOUND)
        assert queue.storage.admin.recover() == []
        queue.task_done(task, "HTTP/1.1 200 OK", "script")
        assert queue.status("a").state == "succeeded"
    finally:
        queue._heartbeat.stop()


def in_a_child(report):
    """Return what `report` returns in a forked child, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, repr(report()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


def test_nothing_of_the_parent_goes_on_in_a_child(queue, taken):
    """Threads do not survive a fork; neither may what waits for them, nor their locks."""
    held = threading.Event()
    door = threading.Event()

    def hold():
        with interrupt.short_switch_interval():
            held.set()
            door.wait(BOUND)

    interval = sys.getswitchinterval()
    outbox._relay._jobs.append(outbox._Job(queue.storage, "batch", lambda: False))
    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(BOUND)

    def report():
        startup._after_fork()
        queue.after_fork()
        free = interrupt._switching.acquire(timeout=1)
        return outbox.flush(0), free, sys.getswitchinterval(), len(queue._reserved)

    try:
        assert in_a_child(report) == repr((True, True, interval, 0))
        assert not outbox.flush(0)
        assert queue._reserved
    finally:
        door.set()
        thread.join()


def test_a_child_leaves_the_connections_of_the_parent_alone(portal):
    """A view may fork, and its site is in the database; the child must not load from there,
    since connection and file are those of the parent."""
    connection = portal._p_jar
    transaction.commit()
    getUtilitiesFor(ITaskQueue)
    connection.cacheMinimize()
    connection.getTransferCounts(clear=True)

    def report():
        startup._after_fork()
        return connection.getTransferCounts()

    assert in_a_child(report) == repr((0, 0))


def test_a_stop_is_bounded(monkeypatch):
    """A signal may come while the main thread holds a lock that tasks need, to log."""
    handler = logging.StreamHandler(StringIO())
    monkeypatch.setattr(logging.getLogger("collective.taskqueue"), "handlers", [handler])
    running = threading.Event()

    def perform(attempt):
        running.set()
        logging.getLogger("collective.taskqueue").error("task %s: waits", attempt.task.id)
        return Outcome(200)

    storage = LocalStorage(QueueSettings())
    storage.stage("batch", [new_task()])
    consumer = Consumer(storage, perform, ServerSettings(grace=0.2))
    monkeypatch.setattr(startup._process, "consumers", [consumer])
    with handler.lock:
        consumer.start()
        storage.promote("batch")
        assert running.wait(BOUND)
        started = time.monotonic()
        startup.stop_consumers()
        assert time.monotonic() - started < BOUND
    for thread in consumer._threads:
        thread.join(BOUND)


def test_a_stop_needs_no_thread(monkeypatch):
    """At the exit of an interpreter none can be started; tasks are waited for all the same."""
    storage = LocalStorage(QueueSettings())
    storage.stage("batch", [new_task(id="a")])
    storage.promote("batch")
    running, door = threading.Event(), threading.Event()

    def perform(attempt):
        running.set()
        return Outcome(200 if door.wait(BOUND) else 500)

    consumer = Consumer(storage, perform, ServerSettings(grace=BOUND))
    monkeypatch.setattr(startup._process, "consumers", [consumer])
    consumer.start()
    assert running.wait(BOUND)
    join = threading.Thread.join

    def join_and_open(self, timeout=None):
        door.set()
        join(self, timeout)

    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "join", join_and_open)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    startup.stop_consumers()
    assert storage.admin.get("a").state == "succeeded"


def test_a_queue_without_a_consumer(monkeypatch, caplog):
    """Its tasks would wait without a word; a queue that is shared has its consumer elsewhere."""
    sections = {
        "lonely": QueueSettings(queue="lonely", section="lonely"),
        "shared": QueueSettings(queue="shared", type="redis", section="shared"),
    }
    monkeypatch.setattr(startup._process, "settings", config.resolve(sections, {}))
    startup.start_consumers(None)
    assert [record.getMessage() for record in caplog.records] == [
        (
            "queue lonely: in the memory of this process, which has no consumer for it: its tasks"
            " do not run"
        )
    ]
