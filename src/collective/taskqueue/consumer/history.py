"""The status of a task as it was: an event shows the change that it is about, and none after."""

from __future__ import annotations

from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import TaskStatus


def as_of(status: TaskStatus, state: State, after: tuple[State, float] | None = None) -> TaskStatus:
    """Return the status as it was when the task had just entered a state.

    For the state queued that is the first change to a waiting state: of the task, or after the
    change `after`, if the task was queued again. For other states it is the last change to the
    state. A status whose history has lost the change is returned as it is.
    """
    moment = _arrival(status, after) if state == QUEUED else _last(status, state)
    if moment in (-1, len(status.changes) - 1):
        return status
    changes = status.changes[: moment + 1]
    was = changes[-1][0]
    # Counted from the end: a long history has lost its beginning.
    later = sum(name == RUNNING for name, _ in status.changes[moment:])
    later -= status.changes[-1][0] == RUNNING
    attempts = status.attempts[: max(0, len(status.attempts) - later)]
    last = attempts[-1] if attempts else None
    return TaskStatus(
        task=status.task,
        state=was,
        reason=last.reason if last and was in (SCHEDULED, FAILED) else "",
        changes=changes,
        consumer=last.consumer if last else None,
        attempts=attempts,
    )


def _arrival(status: TaskStatus, after: tuple[State, float] | None) -> int:
    start = status.changes.index(after) + 1 if after in status.changes else 0
    moments = enumerate(status.changes[start:], start)
    # A task with a delay is scheduled when it is added.
    return next((n for n, (name, _) in moments if name in (QUEUED, SCHEDULED)), -1)


def _last(status: TaskStatus, state: State) -> int:
    moments = [n for n, (name, _) in enumerate(status.changes) if name == state]
    return moments[-1] if moments else -1
