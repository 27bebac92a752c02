"""Recovery of running tasks of a SQL queue whose leases have expired, or whose processes died."""

from __future__ import annotations

from collective.taskqueue.storages import codec
from collective.taskqueue.storages import processes
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.aftermath import Aftermath
from collective.taskqueue.storages.sql.damage import moment
from collective.taskqueue.storages.sql.damage import shown
from collective.taskqueue.storages.sql.damage import sound_id
from collective.taskqueue.storages.sql.damage import whole
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.states import quoted
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import is_lost_for_good
from collective.taskqueue.task import NO_SLOT
from collective.taskqueue.task import RUNNING
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import func
from sqlalchemy import select
from typing import Any


_LOST = ("id", "key", "mode", "cancel", "attempts", "consumer", "started", "lost", "tid", "slot")

#: The columns that are needed to recover a task whose process was lost.
LOST = tuple(TASK.c[name] for name in _LOST)


class Recovery:
    """See the module."""

    def __init__(self, session: Session, aftermath: Aftermath) -> None:
        self._session = session
        self._aftermath = aftermath

    def recover(self, condition: ColumnElement[bool] | None = None) -> list[str]:
        """Recover a portion of the running tasks whose leases have expired, or of `condition`.

        Returns the ids of the tasks that are queued again.
        """
        notices: Notices = []

        def work(connection: Connection) -> list[str]:
            notices.clear()
            return _recover(self._session, connection, condition, notices)

        recovered = self._session.write(work)
        if recovered or notices:
            self._aftermath.changed(notices)
        return recovered

    def adopt(self, consumer: str) -> None:
        """Recover the tasks that this consumer ran in dead processes of this machine."""
        mine = TASK.c.consumer == consumer
        query = (
            select(TASK.c.process)
            .where(TASK.c.queue == self._session.settings.queue, one_of(RUNNING), mine)
            .distinct()
        )
        found = self._session.read(lambda connection: list(connection.scalars(query)))
        dead = [name for name in found if isinstance(name, str) and processes.is_dead(name)]
        if dead:
            self.recover(mine & TASK.c.process.in_(dead))


def _recover(
    session: Session,
    connection: Connection,
    condition: ColumnElement[bool] | None,
    notices: Notices,
) -> list[str]:
    """Put tasks back to the front of the queue, unless cancelled, replaced, or lost too often.

    Appends what was done to `notices`.
    """
    now = session.now(connection)
    lost = TASK.c.expires <= now if condition is None else condition
    query = (
        select(*LOST)
        .where(TASK.c.queue == session.settings.queue, one_of(RUNNING), lost)
        .order_by(TASK.c.claim.desc(), TASK.c.place.desc())
        .limit(transitions.PORTION)
    )
    keys = {row.key for row in connection.execute(query) if row.key is not None}
    session.dialect.lock_keys(connection, keys)
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    recovered: list[str] = []
    # Begin with the task that was reserved last, so that the oldest ends up at the very front.
    for row in rows:
        session.dialect.resume()
        # A task whose key was not yet locked above is left for the next call: keys must be
        # locked before rows.
        if row.key is None or row.key in keys:
            task_id = sound_id(session, connection, row.id)
            if _lose(session, connection, task_id, row, now, notices):
                recovered.insert(0, task_id)
    return recovered


def _lose(
    session: Session, connection: Connection, task_id: str, row: Any, now: float, notices: Notices
) -> bool:
    consumer, lost = shown(row.consumer), whole(row.lost) + 1
    started = moment(row.started) or now
    reason = "its process was lost"
    attempt = AttemptRecord(
        whole(row.attempts), consumer, started, max(0.0, now - started), None, reason
    )
    line = codec.pack_attempt(attempt) + "\n"
    connection.execute(
        transitions.of_task(session, task_id).values(
            history=TASK.c.history + line,
            lost=lost,
            slot=func.coalesce(TASK.c.slot, quoted(NO_SLOT)),
        )
    )
    replaced = transitions.newer(session, connection, row.key, row.mode)
    if row.cancel:
        end, reason = CANCELLED, "cancelled while running"
    elif replaced is not None:
        end, reason = CANCELLED, f"replaced by {replaced}"
    elif is_lost_for_good(lost, row.slot, session.settings.max_deliveries):
        end, reason = FAILED, f"its process was lost {lost} times"
    else:
        transitions.queue_again(session, connection, task_id, now, front=True)
        notices.append(("recovered", task_id, consumer))
        return True
    if replaced is not None and not row.cancel:
        transitions.see(session, connection, replaced, row.tid)
    values = transitions.concluded(session, connection, end, now, reason)
    connection.execute(transitions.of_task(session, task_id).values(values))
    notices.append((end, task_id, reason))
    return False
