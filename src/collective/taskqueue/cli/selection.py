"""Which tasks a command is about: finds them, and changes them in pages.

The only module of the command line that will change when storages can search: `tasks_of` then
is `ITaskAdmin.search`, and `changes` is `ITaskQueue.bulk`, called until there is no cursor.
"""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskStatus
from dataclasses import dataclass
from dataclasses import replace
from typing import Literal
import logging


logger = logging.getLogger("collective.taskqueue")

Action = Literal["retry", "cancel", "remove"]

#: What can be done to many tasks at once, and to tasks in which states.
ACTIONS: dict[Action, tuple[State, ...]] = {
    "retry": (FAILED, CANCELLED),
    "cancel": (QUEUED, SCHEDULED, RUNNING),
    "remove": FINISHED,
}

#: Tasks that are read, and tasks that are changed, before a person may interrupt.
READ, CHANGED = 1000, 100


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks to search for: those that fulfil all conditions that are given."""

    states: tuple[State, ...] = ()
    #: The url begins with this text.
    url: str | None = None
    #: A user id in any user folder.
    user: str | None = None
    #: Added at this moment or later, and before `until`; in seconds since the epoch.
    since: float | None = None
    until: float | None = None
    #: The reason has this text in it, in upper or lower case.
    reason: str | None = None

    def matches(self, status: TaskStatus) -> bool:
        """Return whether a task fulfils the conditions that a list does not know."""
        task = status.task
        return (
            (self.url is None or task.url.startswith(self.url))
            and (self.since is None or task.created >= self.since)
            and (self.until is None or task.created < self.until)
            and (self.reason is None or self.reason.lower() in status.reason.lower())
        )


def tasks_of(storage: Storage, filter: TaskFilter) -> Iterator[TaskStatus]:
    """Yield the tasks of a queue that a filter matches, each one brief."""
    for state in filter.states or STATES:
        start = 0
        while page := storage.admin.tasks(state, filter.user, start, READ):
            yield from (status for status in page if filter.matches(status))
            start += len(page)


def matching(storage: Storage, action: Action, filter: TaskFilter) -> list[str]:
    """Return the ids of the tasks that the action can change, oldest first in each state."""
    states = [state for state in ACTIONS[action] if state in (filter.states or STATES)]
    narrowed = replace(filter, states=tuple(states))
    found = tasks_of(storage, narrowed) if states else iter(())
    # A task that changes its state meanwhile may be met twice.
    return list(dict.fromkeys(status.id for status in found))


def changes(storage: Storage, action: Action, ids: list[str]) -> Iterator[tuple[int, int]]:
    """Change these tasks; yield, for each page, how many were tried and how many were changed.

    Each task is tried once: one that is retried and fails again is not retried again.
    """
    for start in range(0, len(ids), CHANGED):
        page = ids[start : start + CHANGED]
        yield len(page), sum(_change(storage, action, task_id) for task_id in page)


def change(storage: Storage, action: Action, task_id: str) -> State | None:
    """Change one task; return its state now, None if it is removed.

    Raises `UnknownTask`, and `ForbiddenTransition` if its state does not allow it.
    """
    if action == "cancel":
        state = storage.admin.cancel(task_id)
        logger.info("task %s: cancellation asked for, now %s", task_id, state)
        return state
    if action == "retry":
        storage.admin.retry(task_id)
        logger.info("task %s: queued again", task_id)
        return QUEUED
    storage.admin.remove(task_id)
    logger.info("task %s: record removed", task_id)
    return None


def _change(storage: Storage, action: Action, task_id: str) -> bool:
    try:
        change(storage, action, task_id)
    except (ForbiddenTransition, UnknownTask) as exc:
        # It has changed since it was found, or a newer task of its key waits.
        logger.info("task %s: skipped, %s", task_id, exc)
        return False
    return True
