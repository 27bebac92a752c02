"""Conditions and expressions of many statements, written so that partial indexes match."""

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
from sqlalchemy import literal_column
from sqlalchemy import or_
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from typing import Any


#: Seconds that a consumer is listed after it was last seen of; no clock is wrong by more.
HOUR = 3600.0

#: Bytes that a record takes besides its large columns.
WEIGHT = 500

#: No task has more attempts; a larger number is damaged.
MANY = 10**9

#: Seconds since the epoch: no time is later, and none is before minus that. In a comparison, a
#: value that is no number is larger.
FAR = "1e14"

#: States in which a task holds its key.
ACTIVE: tuple[State, ...] = (QUEUED, SCHEDULED, RUNNING)

#: The condition that a task belongs to this queue.
HERE = TASK.c.queue == bindparam("queue_", type_=Text)


#: A bound that all tasks in a state exceed. SQLite does not know how few rows a partial index has:
#: it is certain to prefer one to the index of all rows only if two of its columns have conditions.
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
        # Word for word the condition of the index. No bound like `place >`: with a second bound a
        # planner would expect few rows in between.
        return and_(several, table.c.place != literal_column(FIRST))
    [state] = states
    if state not in _BOUNDS:
        return table.c.state == name_of(state)
    column, bound = _BOUNDS[state]
    return and_(unbounded(state, table), table.c[column] > literal_column(bound))


def unbounded(state: State, table: Any = TASK) -> ColumnElement[bool]:
    """Return the condition that a task is in this state, of those that wait or run, without bound.

    It finds rows with damaged values, too.
    """
    condition: ColumnElement[bool] = table.c.state == name_of(state)
    if state != SCHEDULED:
        return condition
    return and_(condition, table.c.place != literal_column(FIRST))


def name_of(state: State) -> ColumnElement[str]:
    """Return the name of a state as a literal in the text of a statement."""
    return quoted(state)


def quoted(text: str) -> ColumnElement[str]:
    """Return a constant text as a literal, so that a log of the database shows it."""
    return literal_column(f"'{text}'", Text)


def any_row(order: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that there is a row; `order` is the column that orders its index.

    For EXISTS, a planner might expect many such rows in the table, and scan all of it to find none.
    """
    rows: Select[Any] = select(literal_column("1")).where(*conditions).order_by(order)
    return rows.limit(literal_column("1")).scalar_subquery().is_not(None)


def is_finished() -> ColumnElement[bool]:
    """Return the condition that a task is in a final state, written so that no index matches."""
    return func.coalesce(TASK.c.state, "").in_([name_of(state) for state in FINISHED])


def fresh(now: ColumnElement[float]) -> ColumnElement[bool]:
    """Return the condition that the retention of a record is not over."""
    return or_(TASK.c.forget_at.is_(None), TASK.c.forget_at > now, ~is_finished())


def entering(state: str | ColumnElement[str], now: Any) -> ColumnElement[str]:
    """Return the text that is added to the changes of a task that enters a state at `now`."""
    name = quoted(f"{state} ") if isinstance(state, str) else state + quoted(" ")
    return name + cast(now, Text) + quoted(";")


def sane(column: ColumnElement[Any]) -> ColumnElement[int]:
    """Return a number of attempts to compute with: 0 if the value in the row is damaged."""
    return case(
        (column.between(literal_column("0"), literal_column(str(MANY))), column),
        else_=literal_column("0"),
    )


def weight(history: Any, last: Any, payload: Any) -> ColumnElement[int]:
    """Return the number of bytes that the record of a finished task takes."""
    parts = [
        func.coalesce(func.length(part), literal_column("0"))
        for part in (TASK.c.body, history, last, payload)
    ]
    return sum(parts, start=literal_column(str(WEIGHT)))


def seconds(name: str) -> ColumnElement[float]:
    """Return a parameter that is a number of seconds."""
    # Without a cast PostgreSQL takes a parameter for a text.
    return cast(bindparam(name, type_=Double), Double)
