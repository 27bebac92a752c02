"""Changes of many tasks of a SQL queue, in one transaction: retry, cancel or remove."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.storages.sql.damage import shown
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import fresh
from collective.taskqueue.storages.sql.states import HERE
from collective.taskqueue.storages.sql.transitions import concluded
from collective.taskqueue.storages.sql.transitions import entered
from collective.taskqueue.storages.sql.transitions import waiting_of
from collective.taskqueue.task import Action
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from sqlalchemy import bindparam
from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import update
from typing import Any


#: By the id of a task, the mark that a try has left in its row: the text of its last change.
Marks = dict[str, str]


class Changes:
    """See the module. `changed` is `Aftermath.changed`."""

    def __init__(self, session: Session, changed: Callable[..., None]) -> None:
        self._session = session
        self._changed = changed
        names = ("id", "state", "key", "mode", "cancel", "changes")
        several = HERE, TASK.c.id.in_(bindparam("ids_", expanding=True))
        known = select(*(TASK.c[name] for name in names))
        known = known.where(*several, fresh(session.statements.now))
        self._keys = select(TASK.c.key).where(*several, TASK.c.key.is_not(None))
        # All transactions lock rows in the same order, against deadlocks.
        self._locked = known.order_by(TASK.c.id).with_for_update()
        self._ask = update(TASK).where(*several).values(cancel=True)
        self._remove = delete(TASK).where(*several)

    def change(
        self, action: Action, task_ids: Sequence[str], states: Collection[State]
    ) -> dict[str, State]:
        """Change the tasks that are in one of the states; see `ITaskAdmin.change`."""
        allowed = [state for state in ACTIONS[action] if state in states]
        if not (task_ids and allowed):
            return {}
        act = {"retry": self._retry_all, "cancel": self._cancel_all, "remove": self._remove_all}
        # If the answer to a commit is lost, the work is done again: it finds what it has done.
        marks: Marks = {}

        def work(connection: Connection) -> dict[str, State]:
            before = dict(marks)
            marks.clear()
            if action == "retry":
                self._lock_keys(connection, task_ids)
            found = self._session.execute(connection, self._locked, ids_=list(task_ids))
            rows = {row.id: row for row in found}
            return act[action](connection, _Tasks(task_ids, rows, allowed, before, marks))

        changed = self._session.write(work)
        if changed and action != "remove":
            self._changed([], *(state for state in changed.values() if state == CANCELLED))
        return {task_id: changed[task_id] for task_id in task_ids if task_id in changed}

    def _lock_keys(self, connection: Connection, task_ids: Sequence[str]) -> None:
        found = self._session.execute(connection, self._keys, ids_=list(task_ids)).scalars()
        keys = {key for key in found if isinstance(key, str)}
        if keys:
            self._session.dialect.lock_keys(connection, keys)

    def _retry_all(self, connection: Connection, tasks: _Tasks) -> dict[str, State]:
        # A key that is no text is damaged: no other task has it.
        keys = {row.key for row in tasks.rows.values() if isinstance(row.key, str)}
        waiting = waiting_of(self._session, connection, keys)
        chosen: list[str] = []
        for row in tasks.to_be_changed():
            if row.key not in keys:
                chosen.append(row.id)
            elif row.mode == "skip" or not waiting.get(row.key):
                # The next one of its key finds that this one waits.
                waiting.setdefault(row.key, []).append(row.id)
                chosen.append(row.id)
        now = self._session.now(connection)
        values = {**entered(QUEUED, now), "counted": 0, "lost": 0, "cancel": False}
        self._update(connection, chosen, values)
        return tasks.changed_to(QUEUED, now, chosen)

    def _cancel_all(self, connection: Connection, tasks: _Tasks) -> dict[str, State]:
        rows = list(tasks.to_be_changed())
        running = [row.id for row in rows if row.state == RUNNING and not row.cancel]
        waiting = [row.id for row in rows if row.state != RUNNING]
        if running:
            self._session.execute(connection, self._ask, ids_=running)
        now = self._session.now(connection)
        if waiting:
            values = concluded(self._session, connection, CANCELLED, now, "cancelled")
            self._update(connection, waiting, values)
        # A second try does not count those that the first has asked: no event is lost.
        return tasks.changed_to(CANCELLED, now, waiting) | dict.fromkeys(running, RUNNING)

    def _remove_all(self, connection: Connection, tasks: _Tasks) -> dict[str, State]:
        states: dict[str, State] = {row.id: row.state for row in tasks.to_be_changed()}
        if states:
            self._session.execute(connection, self._remove, ids_=list(states))
        gone = tasks.changed_to(tasks.allowed[0], 0.0, states)
        return gone | states

    def _update(self, connection: Connection, ids: list[str], values: dict[str, Any]) -> None:
        """Set the same values for each of these tasks, and the next places, in this order."""
        if not ids:
            return
        mine = TASK.c.id == bindparam("id_", type_=Text)
        statement = update(TASK).where(HERE, mine)
        statement = statement.values({**values, "place": bindparam("place_")})
        numbers = self._session.dialect.numbers(connection, len(ids))
        queue = self._session.settings.queue
        connection.execute(
            statement,
            [
                {"queue_": queue, "id_": task_id, "place_": number}
                for task_id, number in zip(ids, numbers, strict=True)
            ],
        )


class _Tasks:
    """The tasks of one try: their locked rows, and the marks of the try before and of this one."""

    def __init__(
        self,
        ids: Sequence[str],
        rows: dict[str, Any],
        allowed: Sequence[State],
        before: Marks,
        marks: Marks,
    ) -> None:
        self._ids = ids
        self.rows = rows
        self.allowed = allowed
        self._before = before
        self._marks = marks

    def to_be_changed(self) -> Iterator[Any]:
        """Yield the rows of tasks in a state that allows it, in the order of the ids."""
        for task_id in dict.fromkeys(self._ids):
            row = self.rows.get(task_id)
            if row is not None and row.state in self.allowed:
                yield row

    def changed_to(self, state: State, now: float, chosen: Iterable[str]) -> dict[str, State]:
        """Note that these tasks enter a state; return them, and those of the try before."""
        self._marks.update(dict.fromkeys(chosen, f"{state} {now:.6f};"))
        done = [task_id for task_id, mark in self._before.items() if self._has(task_id, mark)]
        self._marks.update({task_id: self._before[task_id] for task_id in done})
        return dict.fromkeys([*done, *chosen], state)

    def _has(self, task_id: str, mark: str) -> bool:
        # A row that is gone has no mark: it was removed, or it expired.
        row = self.rows.get(task_id)
        return row is None or mark in shown(row.changes)
