"""How the tasks of a batch come into a SQL queue: the key of each one decides."""

from __future__ import annotations

from collections.abc import Sequence
from collective.taskqueue.storages._endings import supersede
from collective.taskqueue.storages._endings import waiting_of
from collective.taskqueue.storages._news import News
from collective.taskqueue.storages._session import Session
from collective.taskqueue.storages._tables import ALIAS
from collective.taskqueue.storages._tables import TASK
from collective.taskqueue.storages._wire import Staged
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from sqlalchemy import Connection
from sqlalchemy import or_
from sqlalchemy import select
from typing import Any


Row = dict[str, Any]


class Admission:
    """One batch on its way in, within a transaction of the caller."""

    def __init__(
        self, session: Session, connection: Connection, tid: bytes | None, now: float
    ) -> None:
        self._session = session
        self._connection = connection
        self._queue = session.settings.queue
        self._tid = tid
        self._now = now
        self._rows: dict[str, Row] = {}
        self._aliases: dict[str, str] = {}
        self.news: News = []

    def admit(self, tasks: Sequence[Staged]) -> None:
        """Queue or schedule the tasks in this order, or skip them, or let them replace."""
        keys = {task.key for task in tasks if task.key}
        same: dict[str, list[str]] = {}
        known: set[str] = set()
        if keys:
            self._session.dialect.lock_keys(self._connection, keys)
            same = waiting_of(self._session, self._connection, keys)
            known = self._known([task.id for task in tasks if task.key])
        numbers = self._session.dialect.numbers(self._connection, len(tasks))
        for task, number in zip(tasks, numbers, strict=True):
            if task.id in known:
                continue
            waiting = same.setdefault(task.key, []) if task.key else []
            if waiting and task.mode == "skip":
                self._skip(task, waiting[-1])
                continue
            for earlier in waiting:
                self._supersede(earlier, task.id)
            self._rows[task.id] = self._row(task, number)
            waiting[:] = [task.id]
        self._store()

    def condemn(self, tasks: Sequence[Staged], reason: str) -> None:
        """Let the tasks be failed from the beginning; they have no key and are not due."""
        numbers = self._session.dialect.numbers(self._connection, len(tasks))
        for task, number in zip(tasks, numbers, strict=True):
            row = self._row(task._replace(due="", key=""), number)
            self._conclude(row, FAILED, reason)
            self._rows[task.id] = row
            self.news.append((FAILED, task.id, reason))
        self._store()

    def _known(self, ids: list[str]) -> set[str]:
        found: set[str] = set()
        for table in (TASK, ALIAS):
            query = select(table.c.id).where(table.c.queue == self._queue, table.c.id.in_(ids))
            found |= set(self._connection.scalars(query))
        return found

    def _skip(self, task: Staged, earlier: str) -> None:
        self._aliases[task.id] = earlier
        self.news.append(("skipped", task.id, earlier))
        if self._tid is None or earlier in self._rows:
            return
        # It has to see what the later transaction has written, too.
        older = or_(TASK.c.tid.is_(None), TASK.c.tid < self._tid)
        mine = TASK.c.queue == self._queue, TASK.c.id == earlier
        self._connection.execute(TASK.update().where(*mine, older).values(tid=self._tid))

    def _supersede(self, earlier: str, newer: str) -> None:
        if earlier in self._rows:
            self._conclude(self._rows[earlier], CANCELLED, f"replaced by {newer}")
        elif not supersede(self._session, self._connection, earlier, newer, self._now):
            return
        self.news.append((CANCELLED, earlier, f"replaced by {newer}"))

    def _row(self, task: Staged, number: int) -> Row:
        later = isinstance(task.due, (int, float)) and task.due > self._now
        state = SCHEDULED if later else QUEUED
        return {
            "queue": self._queue,
            "id": task.id,
            "number": number,
            "state": state,
            "place": number,
            "due": task.due if later else None,
            "key": task.key or None,
            "mode": task.mode,
            "user": task.user or None,
            "keep": None if task.keep == "" else task.keep,
            "tid": self._tid,
            "body": task.body,
            "reason": "",
            "changes": f"{state} {self._now:.6f};",
            "history": "",
            "attempts": 0,
            "counted": 0,
            "lost": 0,
            "cancel": False,
            "forget_at": None,
        }

    def _conclude(self, row: Row, state: str, reason: str) -> None:
        keep = self._session.settings.keep_failed if row["keep"] is None else row["keep"]
        row["changes"] += f"{state} {self._now:.6f};"
        row["place"] = self._session.number(self._connection)
        row |= {"state": state, "reason": reason, "due": None, "forget_at": self._now + keep}

    def _store(self) -> None:
        # A task that is known already stays as it is.
        insert = self._session.dialect.insert
        if self._rows:
            rows = list(self._rows.values())
            self._connection.execute(insert(TASK).on_conflict_do_nothing(), rows)
        if self._aliases:
            aliases = [
                {"queue": self._queue, "id": skipped, "task": earlier}
                for skipped, earlier in self._aliases.items()
            ]
            self._connection.execute(insert(ALIAS).on_conflict_do_nothing(), aliases)
