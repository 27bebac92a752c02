"""Transitions of a task of a SQL queue out of waiting or running, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql import statements
from collective.taskqueue.storages.sql.damage import in_order
from collective.taskqueue.storages.sql.damage import shown
from collective.taskqueue.storages.sql.damage import sound_id
from collective.taskqueue.storages.sql.damage import storable
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import ACTIVE
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.states import sane
from collective.taskqueue.storages.sql.states import weight
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import LINGER
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from sqlalchemy import bindparam
from sqlalchemy import case
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import func
from sqlalchemy import or_
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import Update
from sqlalchemy import update
from typing import Any
import logging


logger = logging.getLogger("collective.taskqueue")

#: Most tasks that are deleted, queued or recovered at a time.
PORTION = statements.PORTION

#: Most attempts, and most changes, that are kept of one task.
HISTORY = 100


def of_task(session: Session, task_id: str) -> Update:
    """Return the update of one task, without values."""
    return update(TASK).where(TASK.c.queue == session.settings.queue, TASK.c.id == task_id)


def entered(state: State, now: float, reason: str = "") -> dict[str, Any]:
    """Return the values of a task that enters a state at the time `now`."""
    return {
        "state": state,
        "reason": storable(reason),
        "changes": TASK.c.changes + f"{state} {now:.6f};",
        "token": None,
        "due": None,
        "expires": None,
        "forget_at": None,
    }


def concluded(
    session: Session, connection: Connection, state: State, now: float, reason: str
) -> dict[str, Any]:
    """Return the values of a task that enters a final state other than succeeded."""
    return {
        **entered(state, now, reason),
        "place": session.number(connection),
        "forget_at": now + func.coalesce(TASK.c.keep, max(session.settings.keep_failed, LINGER)),
        "ended": now,
        "size": weight(TASK.c.history, TASK.c.last, TASK.c.payload),
    }


def supersede(
    session: Session, connection: Connection, task_id: str, newer: str, now: float
) -> bytes | None:
    """Cancel a waiting task for a newer one of its key.

    Returns the id of its transaction, empty if it has none; None if it does not wait any more.
    """
    values = concluded(session, connection, CANCELLED, now, f"replaced by {newer}")
    waiting = of_task(session, task_id).where(one_of(QUEUED, SCHEDULED))
    row = connection.execute(waiting.values(values).returning(TASK.c.tid)).first()
    if row is None:
        return None
    return row.tid if isinstance(row.tid, bytes) else b""


def see(session: Session, connection: Connection, task_id: str, tid: bytes | None) -> None:
    """Let a task run only where this transaction, too, is visible: raise its `tid` if smaller."""
    if tid:
        older = or_(TASK.c.tid.is_(None), TASK.c.tid < tid)
        connection.execute(of_task(session, task_id).where(older).values(tid=tid))


def newer(session: Session, connection: Connection, key: str | None, mode: str) -> str | None:
    """Return the id of the waiting task that replaces a task of this key, or None.

    None also without a key, or if `mode` is "skip".
    """
    if key is None or mode == "skip":
        return None
    same = waiting_of(session, connection, [key]).get(key)
    return same[-1] if same else None


def waiting_of(
    session: Session, connection: Connection, keys: Iterable[str]
) -> dict[str, list[str]]:
    """Return the ids of the waiting tasks by key, oldest first; the caller has locked the keys."""
    rows: list[Any] = []
    for portion in session.portions(list(keys)):
        query = select(TASK.c.number, TASK.c.key, TASK.c.id).where(
            TASK.c.queue == session.settings.queue,
            TASK.c.key.in_(portion),
            # The first condition is that of the partial index, word for word.
            one_of(*ACTIVE),
            one_of(QUEUED, SCHEDULED),
        )
        rows += connection.execute(query)
    found: dict[str, list[str]] = {}
    # Not sorted by the database: it has an index for that order, and would scan all of it.
    for row in sorted(rows, key=lambda row: in_order(row.number)):
        found.setdefault(row.key, []).append(row.id)
    return found


def queue_again(
    session: Session,
    connection: Connection,
    task_id: str,
    now: float,
    front: bool = False,
    **values: Any,
) -> None:
    """Queue a task again, behind all queued tasks, or before them if `front`.

    `values` are set in its row, too.
    """
    number = session.number(connection)
    values |= {**entered(QUEUED, now), "place": -number if front else number}
    connection.execute(of_task(session, task_id).values(values))


def ripen(session: Session, connection: Connection) -> int:
    """Queue a portion of the due scheduled tasks, in the order they fell due; return how many."""
    now = session.now(connection)
    due = (
        select(TASK.c.id)
        .where(TASK.c.queue == session.settings.queue, one_of(SCHEDULED), TASK.c.due <= now)
        .order_by(TASK.c.due, TASK.c.place)
        .limit(PORTION)
        .with_for_update(skip_locked=True)
    )
    ids = [sound_id(session, connection, task_id) for task_id in connection.scalars(due)]
    if ids:
        numbers = session.dialect.numbers(connection, len(ids))
        for task_id, number in zip(ids, numbers, strict=True):
            session.dialect.resume()
            values = {**entered(QUEUED, now), "place": number}
            connection.execute(of_task(session, task_id).values(values))
    return len(ids)


def release(
    session: Session, connection: Connection, row: Any, done: str, now: float, notices: Notices
) -> bool:
    """Release a running task that has not begun to the front; return whether it waits again.

    `done` is the id of the call. The caller has locked the key of the task.
    """
    fewer = case((sane(TASK.c.attempts) > 0, TASK.c.attempts - 1), else_=0)
    values: dict[str, Any] = {"done": done, "attempts": fewer}
    replaced = newer(session, connection, row.key, row.mode)
    if not row.cancel and replaced is None:
        queue_again(session, connection, row.id, now, front=True, **values)
        return True
    reason = "cancelled while running"
    if not row.cancel and replaced is not None:
        reason = f"replaced by {replaced}"
        see(session, connection, replaced, row.tid)
    values |= concluded(session, connection, CANCELLED, now, reason)
    connection.execute(of_task(session, row.id).values(values))
    notices.append((CANCELLED, row.id, reason))
    return False


def shorten(session: Session, connection: Connection, task_id: str) -> None:
    """Drop the oldest attempts and changes of a task; keep `HISTORY` of each."""
    mine = TASK.c.queue == session.settings.queue, TASK.c.id == task_id
    row = connection.execute(select(TASK.c.changes, TASK.c.history).where(*mine)).first()
    if row is None:
        return
    changes = shown(row.changes).split(";")[-HISTORY - 1 :]
    history = shown(row.history).split("\n")[-HISTORY - 1 :]
    values = {"changes": ";".join(changes), "history": "\n".join(history)}
    connection.execute(of_task(session, task_id).values(values))


def forgetting(order: Any, *conditions: ColumnElement[bool]) -> Any:
    """Return the statement that deletes a portion of the tasks for which all conditions are true.

    The statement returns their ids. `order` is the column that orders their index.
    """
    here = TASK.c.queue == bindparam("queue_", type_=Text)
    ids = select(TASK.c.id).where(here, *conditions).order_by(order).limit(PORTION)
    # Choose once: if a planner executed the subquery for each row, the limit would not hold.
    chosen = ids.with_for_update(skip_locked=True).cte("chosen")
    chosen = chosen.prefix_with("MATERIALIZED", dialect="postgresql")
    return delete(TASK).where(here, TASK.c.id.in_(select(chosen.c.id))).returning(TASK.c.id)
