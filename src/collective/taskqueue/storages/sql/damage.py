"""What a row of a SQL queue may hold that nobody here has written, and what is made of it.

SQLite stores anything in any column; in PostgreSQL a number may be none, or too large for what is
computed with it. A row that is damaged keeps no other task from running and no list from
answering: what is read is checked before it is used, and what would wait or run for ever is found
by `Repairs`.
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

#: No task has as many attempts, and no attempt was lost as often.
MANY = 10**9


def moment(stored: object) -> float | None:
    """Return a number of seconds; None for anything else."""
    # True is no number.
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
    """Return what can be read of a text."""
    if isinstance(stored, bytes):
        return stored.decode("utf-8", "replace")
    return "" if stored is None else str(stored)


def in_order(stored: object) -> float:
    """Return what rows are sorted by: those come last whose number is none."""
    found = moment(stored)
    return math.inf if found is None else found


def storable(text: str) -> str:
    """Return a text that each database can store."""
    return text.replace("\0", "\\0").encode("utf-8", "replace").decode()


def sound_id(session: Session, connection: Connection, stored: object) -> str:
    """Return the id of a task; one that no task can have is replaced by a new one."""
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
