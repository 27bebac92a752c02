"""Repair of tasks of a SQL queue that would wait or run for ever, since their rows are damaged."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.damage import sound_id
from collective.taskqueue.storages.sql.schema import FIRST
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import any_row
from collective.taskqueue.storages.sql.states import FAR
from collective.taskqueue.storages.sql.states import name_of
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.states import unbounded
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from sqlalchemy import and_
from sqlalchemy import bindparam
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import literal_column
from sqlalchemy import or_
from sqlalchemy import select
from sqlalchemy import Text
from typing import Any
import logging


logger = logging.getLogger("collective.taskqueue")

#: Most rows that each query finds to be repaired in one transaction.
PORTION = 100

#: The new lease in seconds of a running task whose lease has a damaged end.
LEASE = 30.0

#: All places are smaller, unless they are damaged.
LAST = FIRST.lstrip("-")


def any_damage() -> ColumnElement[bool]:
    """Return the condition that `repair` has work to do: a few look-ups in indexes."""
    return or_(
        *(
            any_row(_order(part, table), *conditions)
            for part in _PARTS
            for table, conditions in _ways(part)
        )
    )


def repair(session: Session, connection: Connection, notices: Notices) -> None:
    """Fail the damaged tasks, or correct their rows; each adds a notice or a log line."""
    now = session.now(connection)
    for part in _PARTS:
        for table, conditions in _ways(part):
            query = select(table.c.id).where(*conditions).order_by(_order(part, table))
            query = query.limit(PORTION)
            found = session.execute(connection, query.with_for_update(skip_locked=True)).scalars()
            for stored in list(found):
                session.dialect.resume()
                task_id = sound_id(session, connection, stored)
                _mend(session, connection, part, task_id, now, notices)


def _mend(
    session: Session, connection: Connection, part: str, task_id: str, now: float, notices: Notices
) -> None:
    reason = f"its record is damaged, unreadable: {part}"
    values: dict[str, Any]
    if part == "place":
        what, values = "put after all others", {"place": session.number(connection)}
    elif part == "expires":
        what, values = f"lost unless seen of in {LEASE:g} s", {"expires": now + LEASE}
    elif part == "forget_at":
        keep = session.settings.keep_failed
        what, values = "kept as long as what has failed", {"forget_at": now + keep}
    else:
        what, values = "", transitions.concluded(session, connection, FAILED, now, reason)
        notices.append((FAILED, task_id, reason))
    if what:
        logger.error("task %s: %s, %s", task_id, reason, what)
    connection.execute(transitions.of_task(session, task_id).values(values))


#: The columns that decide when a task is found again, and the state of the tasks found by each.
_PARTS: dict[str, State | None] = {
    "place": QUEUED,
    "due": SCHEDULED,
    "expires": RUNNING,
    "forget_at": None,
    "state": None,
}


def _order(part: str, table: Any) -> ColumnElement[Any]:
    order: ColumnElement[Any] = table.c["place" if part == "state" else part]
    return order


def _ways(part: str) -> list[tuple[Any, list[ColumnElement[bool]]]]:
    """Return the conditions that the column `part` is damaged, each with its alias of the table.

    Each one is a range of an index: a value that is no number is larger than all numbers.
    """
    far = LAST if part == "place" else FAR
    damaged: list[Callable[[Any], ColumnElement[bool]]] = [
        lambda table: table.c[part] > literal_column(far),
        lambda table: table.c[part] < literal_column(f"-{far}"),
        lambda table: table.c[part].is_(None),
    ]
    if part == "place":
        damaged[1:] = [lambda table: table.c.place <= literal_column(FIRST)]
    elif part == "forget_at":
        # A finished task without `forget_at` is deleted when there are too many.
        del damaged[1:]
    elif part == "state":
        damaged = [
            lambda table: and_(
                table.c.place > literal_column(FIRST),
                table.c.state.not_in([name_of(state) for state in STATES]),
            )
        ]
    ways = []
    for number, way in enumerate(damaged):
        table = TASK.alias(f"{part}_{number}")
        # The narrower bound comes first: of two, SQLite uses the first. The other one is word for
        # word the condition of the index, which excludes all rows below it.
        conditions = [table.c.queue == bindparam("queue_", type_=Text), way(table)]
        state = _PARTS[part]
        if state is not None and number == 0:
            conditions.append(one_of(state, table=table))
        elif state is not None and part != "place":
            conditions.append(unbounded(state, table))
        ways.append((table, conditions))
    return ways
