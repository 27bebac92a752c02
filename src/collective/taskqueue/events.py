"""Task events: told after the fact, in a thread of their own, harming nothing."""

from __future__ import annotations

from AccessControl.SecurityManagement import noSecurityManager
from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.interfaces import ITaskCancelled
from collective.taskqueue.interfaces import ITaskEvent
from collective.taskqueue.interfaces import ITaskFailed
from collective.taskqueue.interfaces import ITaskQueued
from collective.taskqueue.interfaces import ITaskRetried
from collective.taskqueue.interfaces import ITaskStarted
from collective.taskqueue.interfaces import ITaskSucceeded
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import TaskStatus
from dataclasses import dataclass
from typing import Any
from zope.component import getGlobalSiteManager
from zope.component.hooks import setSite
from zope.interface import implementedBy
from zope.interface import implementer
import logging
import queue
import threading
import transaction


logger = logging.getLogger("collective.taskqueue")

#: Events that wait for slow subscribers; what comes on top is dropped.
MAX_WAITING = 10_000

#: Seconds that subscribers have to finish when the process stops.
FLUSH_TIMEOUT = 5.0


@implementer(ITaskEvent)
@dataclass(frozen=True)
class TaskEvent:
    """Something has happened to a task; see `ITaskEvent`."""

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


#: The event that tells of a task that has entered a state.
EVENTS: dict[str, type[TaskEvent]] = {
    "queued": TaskQueued,
    "running": TaskStarted,
    "scheduled": TaskRetried,
    "succeeded": TaskSucceeded,
    "failed": TaskFailed,
    "cancelled": TaskCancelled,
}


def announce(storage: Any, state: str, task_id: str) -> None:
    """Tell the subscribers that a task has entered a state; see `ITaskQueue.announce`.

    Without a subscriber for that event this costs a dictionary lookup.
    """
    kind = EVENTS[state]
    if not _subscribers(kind):
        return
    try:
        status = storage.get(task_id)
    except Exception as exc:
        # The transaction that queued the task may be in its very last phase.
        logger.warning("task %s: %s, but nobody was told (%s)", task_id, state, exc)
        return
    # A task skipped for its key goes by the id of the one that waits: nothing happened to it.
    if status.id == task_id:
        _herald.tell(kind(_as_of(status, state)))


def _as_of(status: TaskStatus, state: str) -> TaskStatus:
    """Return the status as it was when the task entered the state; it may have gone on."""
    moment = _arrival(status) if state == QUEUED else _last(status, state)
    if moment in (-1, len(status.changes) - 1):
        return status
    changes = status.changes[: moment + 1]
    ended = sum(name == RUNNING for name, _ in changes[:-1])
    attempts = status.attempts[:ended]
    return TaskStatus(
        task=status.task,
        state=changes[-1][0],
        reason=attempts[-1].reason if state in (SCHEDULED, FAILED) else "",
        changes=changes,
        consumer=attempts[-1].consumer if attempts else None,
        attempts=attempts,
    )


def _arrival(status: TaskStatus) -> int:
    """Where in its history the task came to wait: when it was added, or last retried."""
    names = [name for name, _ in status.changes]
    ends = [n for n, name in enumerate(names[:-1]) if name in FINISHED and names[n + 1] == QUEUED]
    start = ends[-1] + 1 if ends else 0
    found = (n for n in range(start, len(names)) if names[n] in (QUEUED, SCHEDULED))
    return next(found, -1)


def _last(status: TaskStatus, state: str) -> int:
    moments = [n for n, (name, _) in enumerate(status.changes) if name == state]
    return moments[-1] if moments else -1


def flush(timeout: float = FLUSH_TIMEOUT) -> bool:
    """Wait up to `timeout` seconds until all events are told; return whether they are."""
    return _herald.flush(timeout)


def after_fork() -> None:
    """Called in a forked child: the thread and its events are the parent's."""
    global _herald
    _herald = _Herald()


class _Herald:
    """A thread that tells one event after the other, started with the first."""

    def __init__(self) -> None:
        self._events: queue.Queue[TaskEvent] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def tell(self, event: TaskEvent) -> None:
        try:
            self._events.put_nowait(event)
        except queue.Full:
            logger.error("task %s: too many events wait, one is dropped", event.status.id)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="taskqueue-events", daemon=True
                )
                self._thread.start()

    def flush(self, timeout: float) -> bool:
        done = self._events.all_tasks_done
        with done:
            return done.wait_for(lambda: not self._events.unfinished_tasks, timeout)

    def _run(self) -> None:
        while True:
            event = self._events.get()
            try:
                for subscriber in _subscribers(type(event)):
                    _tell(subscriber, event)
            finally:
                self._events.task_done()


def _subscribers(kind: type[TaskEvent]) -> Sequence[Callable[[TaskEvent], object]]:
    adapters = getGlobalSiteManager().adapters
    found: Sequence[Any] = adapters.subscriptions([implementedBy(kind)], None)
    return found


def _tell(subscriber: Callable[[TaskEvent], object], event: TaskEvent) -> None:
    # Each in a transaction of its own: none undoes what another one has done.
    try:
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
        logger.exception("task %s: its event left a mess behind, ignored", event.status.id)
    noSecurityManager()
    setSite(None)


_herald = _Herald()
