"""Promotion of the tasks of a batch to a SQL queue, according to the key of each one."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.storages.codec import Staged
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql.damage import storable
from collective.taskqueue.storages.sql.schema import ALIAS
from collective.taskqueue.storages.sql.schema import indexed
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import WEIGHT
from collective.taskqueue.storages.sql.transitions import see
from collective.taskqueue.storages.sql.transitions import supersede
from collective.taskqueue.storages.sql.transitions import waiting_of
from collective.taskqueue.task import ALIASES
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import LINGER
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import select
from sqlalchemy import union_all
from typing import Any


Row = dict[str, Any]


class Promotion:
    """The admission of one batch, within a transaction of the caller."""

    def __init__(
        self, session: Session, connection: Connection, tid: bytes | None, now: float
    ) -> None:
        self._session = session
        self._connection = connection
        self._queue = session.settings.queue
        self._tid = tid
        self._now = now
        self._rows: dict[str, Row] = {}
        self._aliases: list[Row] = []
        self.notices: Notices = []

    def promote(self, tasks: Sequence[Staged]) -> None:
        """Queue or schedule the tasks in this order; skip or replace those of the same key."""
        tasks = [task._replace(key=indexed(task.key)) for task in tasks]
        keys = {task.key for task in tasks if task.key}
        same: dict[str, list[str]] = {}
        if keys:
            self._session.dialect.lock_keys(self._connection, keys)
            same = waiting_of(self._session, self._connection, keys)
        for task, number in self._numbered(tasks):
            waiting = same.setdefault(task.key, []) if task.key else []
            if waiting and task.mode == "skip":
                self._skip(task, waiting[-1], number)
                continue
            row = self._row(task, number)
            for earlier in waiting:
                self._supersede(earlier, row)
            self._rows[task.id] = row
            waiting[:] = [task.id]
        self._store()

    def fail_batch(self, tasks: Sequence[Staged], reason: str) -> None:
        """Record the tasks as failed, without queueing them or checking their keys."""
        for task, number in self._numbered(tasks):
            row = self._row(task._replace(due=""), number)
            self._conclude(row, FAILED, reason)
            self._rows[task.id] = row
            self.notices.append((FAILED, task.id, reason))
        self._store()

    def _numbered(self, tasks: Sequence[Staged]) -> Iterator[tuple[Staged, int]]:
        """Yield the tasks that are not stored yet, each with a new number."""
        numbers = self._session.dialect.numbers(self._connection, len(tasks))
        known = self._known([task.id for task in tasks])
        for task, number in zip(tasks, numbers, strict=True):
            if task.id in known:
                self.notices.append(("known", task.id, ""))
                continue
            known.add(task.id)
            self._session.dialect.resume()
            yield task, number

    def _known(self, ids: list[str]) -> set[str]:
        found: set[str] = set()
        for portion in self._session.portions(ids):
            queries = [
                select(table.c.id).where(table.c.queue == self._queue, table.c.id.in_(portion))
                for table in (TASK, ALIAS)
            ]
            found |= set(self._connection.scalars(union_all(*queries)))
        return found

    def _skip(self, task: Staged, earlier: str, number: int) -> None:
        self._aliases.append(
            {"queue": self._queue, "id": task.id, "task": earlier, "number": number}
        )
        self.notices.append(("skipped", task.id, earlier))
        if earlier not in self._rows:
            # The waiting task has to see what the later transaction has written, too.
            see(self._session, self._connection, earlier, self._tid)

    def _supersede(self, earlier: str, row: Row) -> None:
        reason = f"replaced by {row['id']}"
        if earlier in self._rows:
            self._conclude(self._rows[earlier], CANCELLED, reason)
        else:
            tid = supersede(self._session, self._connection, earlier, row["id"], self._now)
            if tid is None:
                return
            row["tid"] = max(tid, row["tid"] or b"") or None
        self.notices.append((CANCELLED, earlier, reason))

    def _row(self, task: Staged, number: int) -> Row:
        due = float(task.due) if task.due != "" else None
        later = due is not None and due > self._now
        state = SCHEDULED if later else QUEUED
        return {
            "queue": self._queue,
            "id": task.id,
            "number": number,
            "state": state,
            "place": number,
            "due": due if later else None,
            "key": task.key or None,
            "mode": task.mode,
            "user": indexed(task.user) if task.user else None,
            "person": task.person or None,
            "keep": max(float(task.keep), LINGER) if task.keep != "" else None,
            "tid": self._tid,
            "reason": "",
            "changes": f"{state} {self._now:.6f};",
            "history": "",
            "attempts": 0,
            "counted": 0,
            "lost": 0,
            "cancel": False,
            "forgotten": False,
            "forget_at": None,
            "ended": None,
            "size": None,
            "body": task.head,
            "payload": task.payload or None,
        }

    def _conclude(self, row: Row, state: str, reason: str) -> None:
        keep = max(self._session.settings.keep_failed, LINGER)
        if row["keep"] is not None:
            keep = row["keep"]
        row["changes"] += f"{state} {self._now:.6f};"
        row["place"] = self._session.number(self._connection)
        row |= {"state": state, "reason": storable(reason), "due": None}
        size = WEIGHT + len(row["body"]) + len(row["payload"] or b"")
        row |= {"forget_at": self._now + keep, "ended": self._now, "size": size}

    def _store(self) -> None:
        # A task that is stored already stays as it is.
        insert = self._session.dialect.insert
        for table, rows in ((TASK, list(self._rows.values())), (ALIAS, self._aliases)):
            for portion in self._session.portions(rows):
                self._connection.execute(insert(table).on_conflict_do_nothing(), portion)
        for task_id in {alias["task"] for alias in self._aliases}:
            self._session.dialect.resume()
            self._cap_aliases(task_id)

    def _cap_aliases(self, task_id: str) -> None:
        mine = ALIAS.c.queue == self._queue, ALIAS.c.task == task_id
        numbers = select(ALIAS.c.number).where(*mine).order_by(ALIAS.c.number.desc())
        last = numbers.offset(ALIASES).limit(1).scalar_subquery()
        self._connection.execute(delete(ALIAS).where(*mine, ALIAS.c.number <= last))
