"""Checks of values read from rows of a SQL queue that may be damaged.

SQLite stores anything in any column; in PostgreSQL a number may be NaN, or too large to compute
with. A damaged row must not keep other tasks from running or a list from being shown: each value
is checked before it is used. repairs.py finds tasks that would wait or run for ever.
"""

from __future__ import annotations

from collective.taskqueue.storages.sql.schema import ALIAS
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import HERE
from sqlalchemy import cast
from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import LargeBinary
from sqlalchemy import update
from uuid import uuid4
import logging
import math


logger = logging.getLogger("collective.taskqueue")

#: No task has more attempts or lost attempts; a larger number is damaged.
MANY = 10**9


def moment(stored: object) -> float | None:
    """Return a number of seconds; None for anything else."""
    # bool is a subclass of int, but True is no number of seconds.
    if type(stored) not in (int, float) or not math.isfinite(stored):  # type: ignore[arg-type]
        return None
    return float(stored)  # type: ignore[arg-type]


def whole(stored: object) -> int:
    """Return a number of attempts; 0 for anything else."""
    return stored if type(stored) is int and 0 <= stored <= MANY else 0


def counted(stored: object) -> int:
    """Return a number of attempts; raises `ValueError` for anything else."""
    if type(stored) is not int or not 0 <= stored <= MANY:
        raise ValueError("the number of its attempts is damaged")
    return stored


def shown(stored: object) -> str:
    """Return what is readable of a text; bytes are decoded, None is empty."""
    if isinstance(stored, bytes):
        return stored.decode("utf-8", "replace")
    return "" if stored is None else str(stored)


def in_order(stored: object) -> float:
    """Return a sort key for a number; anything else comes last."""
    found = moment(stored)
    return math.inf if found is None else found


def storable(text: str) -> str:
    """Return a text in a form that each database can store."""
    return text.replace("\0", "\\0").encode("utf-8", "replace").decode()


def sound_id(session: Session, connection: Connection, stored: object) -> str:
    """Return the id of a task; replace a damaged id in its row by a new one, and return that."""
    if isinstance(stored, str):
        return stored
    task_id = str(uuid4())
    values = {"queue_": session.settings.queue}
    raw = stored if isinstance(stored, bytes) else str(stored).encode()
    mine = cast(ALIAS.c.task, LargeBinary) == raw
    connection.execute(delete(ALIAS).where(ALIAS.c.queue == session.settings.queue, mine))
    mine = cast(TASK.c.id, LargeBinary) == raw
    connection.execute(update(TASK).where(HERE, mine).values(id=task_id), values)
    logger.error("task %s: its id was damaged, replaced by this one", task_id)
    return task_id
