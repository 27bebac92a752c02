"""Subscribers are told what has happened to a task, after the fact."""

from collective.taskqueue import taskqueue
from collective.taskqueue.consumer import events
from collective.taskqueue.consumer.events import TaskCancelled
from collective.taskqueue.consumer.events import TaskEvent
from collective.taskqueue.consumer.events import TaskFailed
from collective.taskqueue.consumer.events import TaskQueued
from collective.taskqueue.consumer.events import TaskRetried
from collective.taskqueue.consumer.events import TaskStarted
from collective.taskqueue.consumer.events import TaskSucceeded
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.enqueue.capture import make_task
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.interfaces import ITaskQueued
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from integration.events.conftest import add
from integration.events.conftest import PATIENCE
from integration.events.conftest import raising
from integration.events.conftest import Told
from plone.testing.zca import popGlobalRegistry
from plone.testing.zca import pushGlobalRegistry
from zope.component import queryUtility
from zope.component.hooks import getSite
import pytest
import transaction
import zope.event


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
    """A task whose process dies again and again fails; the storage says so, no consumer can."""
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
    """Once, also if the same task is put again."""
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
    task = make_task(queue.settings, url)
    reference, databases = None, {}
    if witness:
        # What the data manager does before the commit.
        getSite().title = "Changed"
        testimony = indoubt.add_witness(transaction.get())
        reference, databases = testimony.reference, testimony.databases
        transaction.commit()
    queue.storage.stage("batch", [task], reference)
    assert indoubt.resolve(queue.storage, databases, 0.0, queue.promoting) == ["batch"]
    assert told.of(task.id) == [TaskQueued if witness else TaskFailed]
    word = "queued late" if witness else "it is unknown whether"
    assert [line for line in caplog.messages if task.id in line and word in line]


def test_subscribers_of_zope_event(url, monkeypatch):
    """A subscriber to all events of zope.event is told of these, too, once each."""
    told = Told()

    def remember(event):
        if isinstance(event, TaskEvent):
            told.append(event)

    monkeypatch.setattr(zope.event, "subscribers", [*zope.event.subscribers, remember])
    task_id = add(url)
    run_tasks()
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskSucceeded]
