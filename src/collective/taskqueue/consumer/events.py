"""Task events: published after the change, in a thread of their own, without harm to tasks."""

from __future__ import annotations

from AccessControl.SecurityManagement import noSecurityManager
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.consumer.history import as_of
from collective.taskqueue.interfaces import ITaskCancelled
from collective.taskqueue.interfaces import ITaskEvent
from collective.taskqueue.interfaces import ITaskFailed
from collective.taskqueue.interfaces import ITaskQueued
from collective.taskqueue.interfaces import ITaskRetried
from collective.taskqueue.interfaces import ITaskStarted
from collective.taskqueue.interfaces import ITaskSucceeded
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import State
from collective.taskqueue.task import TaskStatus
from dataclasses import dataclass
from functools import partial
from typing import Any
from zope.component import getGlobalSiteManager
from zope.component.event import dispatch
from zope.component.hooks import setSite
from zope.interface import implementedBy
from zope.interface import implementer
import logging
import queue
import threading
import transaction
import zope.event


logger = logging.getLogger("collective.taskqueue")

#: Most events that wait for slow subscribers; further events are dropped. More may wait for
#: queued tasks, because such an event needs hardly more memory than the id.
MAX_WAITING = 10_000
MAX_ARRIVALS = 100_000

#: Seconds that subscribers have to finish when the process stops.
FLUSH_TIMEOUT = 5.0


@implementer(ITaskEvent)
@dataclass(frozen=True)
class TaskEvent:
    """A change in the life of a task; see `ITaskEvent`."""

    status: TaskStatus


@implementer(ITaskQueued)
class TaskQueued(TaskEvent):
    """See `ITaskQueued`."""


@implementer(ITaskStarted)
class TaskStarted(TaskEvent):
    """See `ITaskStarted`."""


@implementer(ITaskRetried)
class TaskRetried(TaskEvent):
    """See `ITaskRetried`."""


@implementer(ITaskSucceeded)
class TaskSucceeded(TaskEvent):
    """See `ITaskSucceeded`."""


@implementer(ITaskFailed)
class TaskFailed(TaskEvent):
    """See `ITaskFailed`."""


@implementer(ITaskCancelled)
class TaskCancelled(TaskEvent):
    """See `ITaskCancelled`."""


#: The event to publish for a task that has entered a state.
EVENTS: dict[State, type[TaskEvent]] = {
    "queued": TaskQueued,
    "running": TaskStarted,
    "scheduled": TaskRetried,
    "succeeded": TaskSucceeded,
    "failed": TaskFailed,
    "cancelled": TaskCancelled,
}


class Arrivals:
    """Publishes `ITaskQueued` once for each task, and before all other events of the task.

    The thread that promotes a task, and the consumer that is faster, both want to publish the
    event; docs/explanation/events.rst has a drawing.
    """

    def __init__(self) -> None:
        #: Tasks whose event is still to be published, with the last change of a task before it
        #: was queued again.
        self._expected: dict[str, tuple[State, float] | None] = {}
        self._lock = threading.Lock()

    def expect(self, task_ids: Collection[str]) -> None:
        """Let `publish` publish the event of these tasks; called before they are promoted."""
        self._expected.update(dict.fromkeys(task_ids))

    def expect_again(self, changes: Mapping[str, tuple[State, float]]) -> set[str]:
        """Let `publish` publish the event of tasks that are about to be queued again.

        `changes` has the last change of each before. Returns the tasks that were not expected
        before: the caller has to `forget` those that were not queued.
        """
        new = {task_id for task_id in changes if task_id not in self._expected}
        self._expected.update({task_id: changes[task_id] for task_id in new})
        return new

    def forget(self, task_ids: Collection[str]) -> None:
        """Do not expect the event of these tasks any more."""
        for task_id in task_ids:
            self._expected.pop(task_id, None)

    def publish(self, storage: Storage, task_id: str) -> None:
        """Publish the event of a task, unless it is not expected, or published already.

        Returns when the event is published, so that the caller can publish a later one.
        """
        if task_id not in self._expected:
            return
        with self._lock:
            if task_id in self._expected:
                publish_event(storage, QUEUED, task_id, self._expected[task_id])
                # Not before: the other thread would find no entry, and publish a later event.
                del self._expected[task_id]


def publish_event(
    storage: Storage, state: State, task_id: str, after: tuple[State, float] | None = None
) -> None:
    """Publish the event that a task has entered a state; see `ITaskQueue.publish_event`.

    `after` is the last change of a task before it was queued again. Without a subscriber for
    that event this costs a dictionary lookup.
    """
    if not _subscribers(EVENTS[state]):
        return
    look = partial(_event, storage, state, task_id, after)
    if state == QUEUED:
        # A transaction may add thousands, and the commit should not wait for their statuses.
        _dispatcher.publish(task_id, look, MAX_ARRIVALS)
        return
    event = look()
    if event is not None:
        _dispatcher.publish(task_id, lambda: event, MAX_WAITING)


def _event(
    storage: Storage, state: State, task_id: str, after: tuple[State, float] | None
) -> TaskEvent | None:
    try:
        status = storage.admin.get(task_id)
    except Exception as exc:
        # Must not raise: the transaction that queued the task may be in its very last phase.
        logger.warning(
            "task %s: %s, but its event could not be published (%s)", task_id, state, exc
        )
        return None
    # The id of a skipped task is an alias of the waiting one: nothing happened to that one.
    if status.id != task_id:
        return None
    return EVENTS[state](as_of(status, state, after))


def flush(timeout: float = FLUSH_TIMEOUT) -> bool:
    """Wait up to `timeout` seconds until all events are published; return whether they are."""
    return _dispatcher.flush(timeout)


def after_fork() -> None:
    """Called in a forked child: drop the thread and its events, which are the parent's."""
    global _dispatcher
    _dispatcher = _Dispatcher()


class _Dispatcher:
    """A thread that publishes one event after the other, started with the first event."""

    def __init__(self) -> None:
        self._events: queue.Queue[tuple[str, Callable[[], TaskEvent | None]]] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def publish(self, task_id: str, look: Callable[[], TaskEvent | None], limit: int) -> None:
        """Publish what `look` returns, unless `limit` events wait already. Never raises."""
        if self._events.qsize() < limit:
            self._events.put((task_id, look))
        else:
            logger.error(
                "task %s: too many events wait for subscribers, this one is dropped", task_id
            )
        self._start()

    def flush(self, timeout: float) -> bool:
        done = self._events.all_tasks_done
        if self._events.unfinished_tasks and not self._start():
            return False
        with done:
            return done.wait_for(lambda: not self._events.unfinished_tasks, timeout)

    def _start(self) -> bool:
        with self._lock:
            if self._thread is not None:
                return True
            thread = threading.Thread(target=self._run, name="taskqueue-events", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                logger.error("no thread for task events (%s), they wait for the next one", exc)
                return False
            self._thread = thread
            return True

    def _run(self) -> None:
        while True:
            task_id, look = self._events.get()
            try:
                event = look()
                if event is not None:
                    for subscriber in _subscribers(type(event)):
                        _publish(subscriber, event)
            except Exception:
                logger.exception("task %s: one of its events could not be published", task_id)
            finally:
                self._events.task_done()


def _subscribers(kind: type[TaskEvent]) -> Sequence[Callable[[TaskEvent], object]]:
    adapters = getGlobalSiteManager().adapters
    found: Sequence[Any] = adapters.subscriptions([implementedBy(kind)], None)
    # Subscribers of `zope.event` get all events; the dispatcher among them was asked above.
    return [*found, *(each for each in zope.event.subscribers if each is not dispatch)]


def _publish(subscriber: Callable[[TaskEvent], object], event: TaskEvent) -> None:
    # Each subscriber has its own transaction: none undoes the work of another one.
    try:
        # Resets the registry of this thread: it is the one of the last `setSite`, and test
        # layers replace registries.
        setSite(None)
        transaction.begin()
        subscriber(event)
        transaction.commit()
    except BaseException:
        logger.exception(
            "task %s: a subscriber of %s failed, ignored", event.status.id, type(event).__name__
        )
    finally:
        _clean_up(event)


def _clean_up(event: TaskEvent) -> None:
    try:
        transaction.abort()
    except Exception:
        logger.exception(
            "task %s: the transaction after its event could not be aborted, ignored",
            event.status.id,
        )
    noSecurityManager()
    setSite(None)


_dispatcher = _Dispatcher()
