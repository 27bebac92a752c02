"""Which tasks a command is about: finds them, and changes them in pages."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.storages.search import CHANGES
from collective.taskqueue.storages.search import SCAN
from collective.taskqueue.task import Action
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskStatus
from dataclasses import replace
import logging


logger = logging.getLogger("collective.taskqueue")


def tasks_of(storage: Storage, filter: TaskFilter) -> Iterator[TaskStatus]:
    """Yield the tasks of a queue that a filter matches, each one brief."""
    cursor = None
    while True:
        page = storage.admin.search(filter, cursor, SCAN)
        yield from page.tasks
        cursor = page.cursor
        if cursor is None:
            return


def matching(storage: Storage, action: Action, filter: TaskFilter) -> list[str]:
    """Return the ids of the tasks that the action can change, in the order they were added."""
    states = [state for state in ACTIONS[action] if state in (filter.states or STATES)]
    narrowed = replace(filter, states=tuple(states))
    return [status.id for status in tasks_of(storage, narrowed)] if states else []


def changes(storage: Storage, action: Action, ids: list[str]) -> Iterator[tuple[int, int]]:
    """Change these tasks; yield, for each page, how many were tried and how many were changed.

    Each task is tried once: one that is retried and fails again is not retried again.
    """
    for start in range(0, len(ids), CHANGES):
        page = ids[start : start + CHANGES]
        changed = storage.admin.change(action, page, ACTIONS[action])
        for task_id, state in changed.items():
            _log(action, task_id, state)
        for task_id in page:
            if task_id not in changed:
                # It has changed since it was found, or a newer task of its key waits.
                logger.info("task %s: skipped", task_id)
        yield len(page), len(changed)


def change(storage: Storage, action: Action, task_id: str) -> State | None:
    """Change one task; return its state now, None if it is removed.

    Raises `UnknownTask`, and `ForbiddenTransition` if its state does not allow it.
    """
    state: State | None = None
    if action == "cancel":
        state = storage.admin.cancel(task_id)
    elif action == "retry":
        storage.admin.retry(task_id)
        state = QUEUED
    else:
        storage.admin.remove(task_id)
    _log(action, task_id, state)
    return state


def _log(action: Action, task_id: str, state: State | None) -> None:
    if action == "cancel":
        logger.info("task %s: cancellation asked for, now %s", task_id, state)
    elif action == "retry":
        logger.info("task %s: queued again", task_id)
    else:
        logger.info("task %s: record removed", task_id)
