"""What people ask of a SQL queue: pages of tasks, who takes them, and how many came to an end."""

from __future__ import annotations

from collections.abc import Iterable
from collective.taskqueue.storages._statements import HOUR
from collective.taskqueue.storages._statements import SHOWN
from collective.taskqueue.storages._states import HERE
from collective.taskqueue.storages._states import name_of
from collective.taskqueue.storages._states import one_of
from collective.taskqueue.storages._tables import CONSUMER
from collective.taskqueue.storages._tables import ENDED
from collective.taskqueue.storages._tables import TASK
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from functools import cache
from sqlalchemy import bindparam
from sqlalchemy import func
from sqlalchemy import literal_column
from sqlalchemy import Select
from sqlalchemy import select
from typing import Any


def page(state: State | None, user: str | None, start: int, size: int) -> Select[Any]:
    """Return the statement that lists one page of tasks."""
    query = select(*SHOWN).where(HERE).offset(start).limit(size)
    order = _ORDER.get(state, (TASK.c.place,))
    if user is not None:
        query = query.where(TASK.c.user == user)
    if user is None and state is not None:
        query = query.where(one_of(state))
        if state in FINISHED:
            query = query.where(one_of(*FINISHED))
    elif state is not None:
        query = query.where(TASK.c.state == name_of(state))
        # An order that no index has: a database might go through all that are in it.
        order = [column + literal_column("0") for column in order]
    return query.order_by(*order)


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


def consumers(queue: str, now: float) -> tuple[Select[Any], Select[Any]]:
    """Return the statements that list consumers, and what each of them runs, oldest first."""
    heard = select(CONSUMER).where(CONSUMER.c.queue == queue, CONSUMER.c.heard > now - HOUR)
    running = select(TASK.c.consumer, TASK.c.process, TASK.c.id).where(
        TASK.c.queue == queue, one_of(RUNNING)
    )
    return heard.order_by(CONSUMER.c.name, CONSUMER.c.process), running.order_by(
        TASK.c.claim, TASK.c.place
    )


def throughput(queue: str, now: float) -> Select[Any]:
    """Return the statement that counts the ends of the last 60 minutes, by state."""
    recent = ENDED.c.queue == queue, ENDED.c.minute > now // 60 - 60
    return select(ENDED.c.state, func.sum(ENDED.c.number)).where(*recent).group_by(ENDED.c.state)


_ORDER: dict[Any, Iterable[Any]] = {
    None: (TASK.c.number,),
    SCHEDULED: (TASK.c.due, TASK.c.place),
    RUNNING: (TASK.c.claim, TASK.c.place),
}
