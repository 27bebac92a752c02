"""The conditions that a task is in a state, in the words that the planners of databases heed."""

from __future__ import annotations

from collective.taskqueue.storages._tables import TASK
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from sqlalchemy import and_
from sqlalchemy import bindparam
from sqlalchemy import ColumnElement
from sqlalchemy import literal_column
from sqlalchemy import Text
from typing import Any


#: States in which a task has its key.
ACTIVE: tuple[State, ...] = (QUEUED, SCHEDULED, RUNNING)

#: The condition that a task is of this queue.
HERE = TASK.c.queue == bindparam("queue_", type_=Text)


#: What is true of all tasks in a state. SQLite knows nothing of how few rows a partial index has:
#: it prefers it to the index of all rows for certain only if two of its columns are asked for.
_BOUNDS = {
    QUEUED: ("place", "-9000000000000000000"),
    SCHEDULED: ("due", "-1e99"),
    RUNNING: ("expires", "-1e99"),
}


def one_of(*states: State, table: Any = TASK) -> ColumnElement[bool]:
    """Return the condition that a task is in one of the states."""
    if len(states) > 1:
        return table.c.state.in_([name_of(state) for state in states])
    [state] = states
    if state not in _BOUNDS:
        return table.c.state == name_of(state)
    column, bound = _BOUNDS[state]
    return and_(table.c.state == name_of(state), table.c[column] > literal_column(bound))


def name_of(state: State) -> ColumnElement[str]:
    """Return the name of a state as it stands in the text of a statement."""
    return literal_column(f"'{state}'")
