"""What is said of a task in many statements, in the words that the planners of databases heed."""

from __future__ import annotations

from collective.taskqueue.storages.sql.schema import FIRST
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from sqlalchemy import and_
from sqlalchemy import bindparam
from sqlalchemy import case
from sqlalchemy import cast
from sqlalchemy import ColumnElement
from sqlalchemy import Double
from sqlalchemy import func
from sqlalchemy import literal
from sqlalchemy import literal_column
from sqlalchemy import or_
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from typing import Any


#: Seconds that a consumer is remembered that is not heard of; no clock is wrong by more.
HOUR = 3600.0

#: Bytes that a record takes beside what is large in it.
WEIGHT = 500

#: No task begins so many attempts.
MANY = 10**9

#: Seconds since the epoch: nothing is due later, and nothing was before minus that. A column that
#: holds something else than a number compares as greater.
FAR = "1e14"

#: States in which a task has its key.
ACTIVE: tuple[State, ...] = (QUEUED, SCHEDULED, RUNNING)

#: The condition that a task is of this queue.
HERE = TASK.c.queue == bindparam("queue_", type_=Text)


#: What is true of all tasks in a state. SQLite knows nothing of how few rows a partial index has:
#: it prefers it to the index of all rows for certain only if two of its columns are asked for.
_BOUNDS = {
    QUEUED: ("place", FIRST),
    SCHEDULED: ("due", "-1e99"),
    RUNNING: ("expires", "-1e99"),
}


def one_of(*states: State, table: Any = TASK) -> ColumnElement[bool]:
    """Return the condition that a task is in one of the states."""
    if len(states) > 1:
        several = table.c.state.in_([name_of(state) for state in states])
        if states != FINISHED:
            return several
        # In the very words of the index. No bound: of two, a planner expects few rows in between.
        return and_(several, table.c.place != literal_column(FIRST))
    [state] = states
    if state not in _BOUNDS:
        return table.c.state == name_of(state)
    column, bound = _BOUNDS[state]
    return and_(unbounded(state, table), table.c[column] > literal_column(bound))


def unbounded(state: State, table: Any = TASK) -> ColumnElement[bool]:
    """Return the same for one that waits or runs, whatever else is in its row."""
    condition: ColumnElement[bool] = table.c.state == name_of(state)
    if state != SCHEDULED:
        return condition
    return and_(condition, table.c.place != literal_column(FIRST))


def name_of(state: State) -> ColumnElement[str]:
    """Return the name of a state as it stands in the text of a statement."""
    return literal_column(f"'{state}'")


def any_row(order: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that there is a row; an index has them in this order.

    Asked whether one exists, a database might expect many of them in the table, and go through
    all of it to find none.
    """
    rows: Select[Any] = select(literal_column("1")).where(*conditions).order_by(order)
    return rows.limit(literal_column("1")).scalar_subquery().is_not(None)


def is_finished() -> ColumnElement[bool]:
    """Return the condition that a task is in a final state, as no index has it."""
    return func.coalesce(TASK.c.state, "").in_([name_of(state) for state in FINISHED])


def fresh(now: ColumnElement[float]) -> ColumnElement[bool]:
    """Return the condition that the time of a record is not over."""
    return or_(TASK.c.forget_at.is_(None), TASK.c.forget_at > now, ~is_finished())


def entering(state: str | ColumnElement[str], now: Any) -> ColumnElement[str]:
    """Return the text that the changes of a task are longer by."""
    name = literal(state, Text) if isinstance(state, str) else state
    return name + literal(" ", Text) + cast(now, Text) + literal(";", Text)


def sane(column: ColumnElement[Any]) -> ColumnElement[int]:
    """Return a number of attempts that one can be added to, whatever a row holds."""
    return case((column.between(0, literal_column(str(MANY))), column), else_=literal_column("0"))


def weight(history: Any, last: Any, payload: Any) -> ColumnElement[int]:
    """Return the bytes that the record of a finished task takes."""
    parts = [func.coalesce(func.length(part), 0) for part in (TASK.c.body, history, last, payload)]
    return sum(parts, start=literal_column(str(WEIGHT)))


def seconds(name: str) -> ColumnElement[float]:
    """Return a parameter that is a number of seconds."""
    # PostgreSQL takes a parameter for a text unless it is told otherwise.
    return cast(bindparam(name, type_=Double), Double)
