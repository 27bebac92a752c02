"""Transitions of a SQL queue that are made from outside, one transaction each."""

from __future__ import annotations

from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages import _endings
from collective.taskqueue.storages._news import News
from collective.taskqueue.storages._session import Session
from collective.taskqueue.storages._states import one_of
from collective.taskqueue.storages._tables import TASK
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from sqlalchemy import Connection
from sqlalchemy import delete
from typing import Any
import logging


logger = logging.getLogger("collective.taskqueue")


class Steering:
    """The half of the storage that people use; `_changed` is told of what they did."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._here = TASK.c.queue == session.settings.queue

    def cancel(self, task_id: str) -> State:
        def work(connection: Connection, again: bool) -> State:
            row = self._locked(connection, task_id)
            if row.state in FINISHED:
                raise ForbiddenTransition(f"task {task_id} has {row.state}, not cancelled")
            values: dict[str, Any] = {"cancel": True}
            if row.state != RUNNING:
                now = self._session.now(connection)
                values = _endings.concluded(self._session, connection, CANCELLED, now, "cancelled")
            self._update(connection, row.id, values)
            return RUNNING if row.state == RUNNING else CANCELLED

        state = self._session.write(work)
        if state == CANCELLED:
            self._changed([], CANCELLED)
        return state

    def retry(self, task_id: str) -> None:
        def work(connection: Connection, again: bool) -> None:
            key = self._found(connection, task_id, self._session.statements.known).key
            if key is not None:
                self._session.dialect.lock_keys(connection, [key])
            row = self._locked(connection, task_id)
            if row.state not in (FAILED, CANCELLED):
                raise ForbiddenTransition(f"task {task_id} is {row.state}, not queued again")
            newer = _endings.newer(self._session, connection, row.key, row.mode)
            if newer is not None:
                raise ForbiddenTransition(f"task {task_id}: {newer} of its key already waits")
            now = self._session.now(connection)
            fresh: dict[str, Any] = {"counted": 0, "lost": 0, "cancel": False}
            _endings.queue_again(self._session, connection, row.id, now, **fresh)

        self._session.write(work)
        self._changed([])

    def hasten(self, task_id: str) -> None:
        def work(connection: Connection, again: bool) -> None:
            row = self._locked(connection, task_id)
            if row.state not in (QUEUED, SCHEDULED):
                raise ForbiddenTransition(f"task {task_id} is {row.state}, it does not wait")
            if row.state == SCHEDULED:
                now = self._session.now(connection)
                _endings.queue_again(self._session, connection, row.id, now)

        self._session.write(work)
        self._changed([])

    def remove(self, task_id: str) -> None:
        def work(connection: Connection, again: bool) -> None:
            row = self._locked(connection, task_id)
            if row.state not in FINISHED:
                raise ForbiddenTransition(f"task {task_id} is {row.state}, not removed")
            connection.execute(delete(TASK).where(self._here, TASK.c.id == row.id))

        self._session.write(work)

    def forget_response(self, task_id: str) -> bool:
        def work(connection: Connection, again: bool) -> bool:
            row = self._locked(connection, task_id)
            if row.state not in FINISHED:
                raise ForbiddenTransition(f"task {task_id} is {row.state}, not finished")
            if not row.responded:
                return False
            self._update(connection, row.id, {"last": None, "forgotten": True})
            return True

        return self._session.write(work)

    def clear(self) -> int:
        # Not more than there were, so that it ends even if tasks are added faster.
        most = self._number(QUEUED), self._number(SCHEDULED)
        queued = self._forget(most[0], TASK.c.place, one_of(QUEUED))
        ids = queued + self._forget(most[1], TASK.c.due, one_of(SCHEDULED))
        for task_id in ids:
            logger.warning("task %s: its queue was reset, dropped", task_id)
        return len(ids)

    def purge(self, state: State) -> int:
        if state not in FINISHED:
            raise ForbiddenTransition(f"{state} is no final state; its tasks cannot be purged")
        finished = one_of(*FINISHED), one_of(state)
        ids = self._forget(self._number(state), TASK.c.place, *finished)
        for task_id in ids:
            logger.info("task %s: %s tasks were purged, forgotten", task_id, state)
        return len(ids)

    def _number(self, state: State) -> int:
        raise NotImplementedError

    def _changed(self, news: News | None, *finished: State) -> None:
        raise NotImplementedError

    def _forget(self, limit: int, order: Any, *conditions: Any) -> list[str]:
        """Delete in portions, so that others come in between."""
        session = self._session
        statement = _endings.forgetting(order, *conditions)
        ids: list[str] = []
        while len(ids) < limit:
            found = session.write(
                lambda connection, again: list(session.execute(connection, statement).scalars())
            )
            if not found:
                break
            ids += found
        return ids

    def _update(self, connection: Connection, task_id: str, values: dict[str, Any]) -> None:
        connection.execute(_endings.of_task(self._session, task_id).values(values))

    def _locked(self, connection: Connection, task_id: str) -> Any:
        return self._found(connection, task_id, self._session.statements.lock)

    def _found(self, connection: Connection, task_id: str, statement: Any) -> Any:
        row = self._session.execute(connection, statement, id=task_id).first()
        if row is None:
            raise self._unknown(task_id)
        return row

    def _unknown(self, task_id: str) -> UnknownTask:
        return UnknownTask(f"no task {task_id} in queue {self._session.settings.queue}")
