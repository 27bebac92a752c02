"""How many tasks of a SQL queue are in each state, asked in one statement."""

from __future__ import annotations

from collective.taskqueue.storages._statements import one_of
from collective.taskqueue.storages._tables import TASK
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from functools import cache
from sqlalchemy import bindparam
from sqlalchemy import func
from sqlalchemy import Select
from sqlalchemy import select
from typing import Any


@cache
def counts() -> Select[Any]:
    """Return the statement; its columns are in the order of `STATES`."""
    return select(*(_number(state) for state in STATES))


def _number(state: State) -> Any:
    table = TASK.alias(state)
    conditions = [one_of(state, table=table)]
    if state in FINISHED:
        # In the very words of the index, which is all that SQLite understands.
        conditions.append(one_of(*FINISHED, table=table))
    return (
        select(func.count())
        .select_from(table)
        .where(table.c.queue == bindparam("queue_"), *conditions)
        .scalar_subquery()
    )
