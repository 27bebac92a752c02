"""Subscribers are told in order, of each task as it was."""

from collective.taskqueue import startup
from collective.taskqueue import taskqueue
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import events
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.consumer.events import TaskFailed
from collective.taskqueue.consumer.events import TaskQueued
from collective.taskqueue.consumer.events import TaskRetried
from collective.taskqueue.consumer.events import TaskStarted
from collective.taskqueue.consumer.events import TaskSucceeded
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.enqueue.capture import make_task
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.storages.local.admin import LocalAdmin
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.testing import run_tasks
from integration.events.conftest import add
from integration.events.conftest import PATIENCE
from integration.events.conftest import raising
import pytest
import threading
import transaction


def test_order_of_a_transaction(told, url):
    ids = [taskqueue.add(url) for _ in range(5)]
    transaction.commit()
    run_tasks()
    told.flushed()
    assert [event.status.id for event in told[:5]] == ids
    assert {type(event) for event in told[:5]} == {TaskQueued}
    assert [event.status.id for event in told[5:]] == [i for i in ids for _ in range(2)]


class FastAdmin(LocalAdmin):
    """An admin whose consumer finishes the task before `tick` returns."""

    def tick(self, *args, **kwargs):
        won = super().tick(*args, **kwargs)
        thread = threading.Thread(target=self.run)
        thread.start()
        thread.join(PATIENCE)
        return won


def test_the_task_of_a_tick_is_queued_before_it_starts(told, url, queue):
    """Of a tick that another process has had, no event is published."""
    storage = queue.storage = Fast(queue, queue.publish_event)
    storage.admin = FastAdmin(storage._memory, storage._publish)
    storage.admin.run = storage.run
    at = storage.admin.schedule("nightly").now - 1
    won, lost = (make_task(queue.settings, url) for _ in range(2))
    assert queue.tick("nightly", at, won)
    assert not queue.tick("nightly", at, lost)
    storage.consumer.stop()
    assert told.of(won.id) == [TaskQueued, TaskStarted, TaskSucceeded]
    assert told.of(lost.id) == []
    assert not queue._arrivals._expected


class Fast(LocalStorage):
    """A storage whose consumer finishes the task before `promote` returns."""

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
    queue.storage = Fast(queue, queue.publish_event)
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
    consumer = Hasty(queue.storage, publish, ServerSettings(name="hasty"), queue.publish_event)
    consumer.step()
    consumer.stop()
    told.of(task_id)
    (retried,) = (event.status for event in told if isinstance(event, TaskRetried))
    assert (retried.state, retried.reason) == (SCHEDULED, "ValueError: bad")
    assert [attempt.number for attempt in retried.attempts] == [1]
    assert retried.consumer == "hasty"


def test_nothing_overtakes_the_event_of_the_arrival(told, url, queue, monkeypatch):
    """The promoting thread and the consumer publish at the same time: the consumer waits."""
    telling, go = threading.Event(), threading.Event()
    publish_event = events.publish_event

    def held(storage, state, task_id, *after):
        if state == QUEUED:
            telling.set()
            assert go.wait(PATIENCE)
        publish_event(storage, state, task_id, *after)

    class Door:
        """A lock whose holder goes on as soon as another thread waits for the lock."""

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

    monkeypatch.setattr(events, "publish_event", held)
    monkeypatch.setattr(queue._arrivals, "_lock", Door())
    consumer = Consumer(queue.storage, publish, ServerSettings(), queue.publish_event)
    thread = threading.Thread(target=run)
    thread.start()
    task_id = add(url)
    thread.join(PATIENCE)
    consumer.stop()
    assert told.of(task_id) == [TaskQueued, TaskStarted, TaskSucceeded]


def test_a_task_of_a_failed_batch_that_was_retried_meanwhile(told, url, queue):
    """The event says that it failed without an attempt, although it waits again by now."""
    task = make_task(queue.settings, url)

    def retried_first(state, task_id):
        queue.storage.admin.retry(task_id)
        queue.publish_event(state, task_id)

    queue.storage.notify = retried_first
    queue.storage.stage("batch", [task])
    queue.storage.fail_batch("batch", "nobody knows")
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
    queue.publish_event(SCHEDULED, task_id)
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
        # Slow, so that a caller that does not wait for it is too early.
        threading.Event().wait(0.3)
        told.append(event.status.id)

    subscribe(slow)
    monkeypatch.setattr(outbox, "close", lambda timeout: None)
    monkeypatch.setattr(queue.storage, "close", lambda: closed.extend(told), raising=False)
    task_id = add(url)
    startup._close_storages()
    assert closed == [task_id]
