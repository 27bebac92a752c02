"""The ticks of schedules in a SQL queue: the first call for a tick queues its task."""

from __future__ import annotations

from collective.taskqueue.schedule import Run
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql.aftermath import Aftermath
from collective.taskqueue.storages.sql.promote import Promotion
from collective.taskqueue.storages.sql.schema import SCHEDULE
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.task import Task
from sqlalchemy import and_
from sqlalchemy import Connection
from sqlalchemy import func
from sqlalchemy import not_
from sqlalchemy import or_
from sqlalchemy import select
from sqlalchemy import update
from typing import Any
import json


class Schedules:
    """See `ITaskAdmin.tick` and the methods about schedules."""

    def __init__(self, session: Session, aftermath: Aftermath) -> None:
        self._session = session
        self._changed = aftermath.changed
        self._queue = session.settings.queue

    def tick(self, schedule: str, at: float, task: Task | None, moves: bool) -> bool:
        """Queue the task of a tick, unless another call has; return whether it did."""

        def work(connection: Connection) -> Notices | None:
            now = self._session.now(connection)
            if moves and at > now:
                return None
            found = connection.execute(self._moved(schedule, at, moves)).first()
            if found is None:
                return None
            if task is None:
                return []
            state = _state(None, False, found.runs).ticked(at, task, moves)
            runs = json.dumps(state.runs)
            connection.execute(update(SCHEDULE).where(*self._mine(schedule)).values(runs=runs))
            promotion = Promotion(self._session, connection, None, now)
            promotion.promote(codec.staged([task]))
            return promotion.notices

        notices = self._session.write(work)
        if notices is not None:
            self._changed(notices)
        return notices is not None

    def state(self, name: str) -> ScheduleState:
        """Return what is kept of a schedule, and the time."""

        def work(connection: Connection) -> ScheduleState:
            row = connection.execute(select(SCHEDULE).where(*self._mine(name))).first()
            found = ScheduleState() if row is None else _state(row.last, row.paused, row.runs)
            return found._replace(now=self._session.now(connection))

        return self._session.read(work)

    def pause(self, name: str) -> None:
        """Let a schedule have no more ticks."""
        new = self._new(name, paused=True)
        key = [SCHEDULE.c.queue, SCHEDULE.c.name]
        statement = new.on_conflict_do_update(index_elements=key, set_={"paused": True})
        self._session.write(lambda connection: connection.execute(statement).close())

    def resume(self, name: str) -> None:
        """Let a schedule tick again from now on."""

        def work(connection: Connection) -> None:
            now = self._session.now(connection)
            last = func.coalesce(SCHEDULE.c.last, now)
            latest = func.greatest if connection.dialect.name == "postgresql" else func.max
            resumed = {"paused": False, "last": latest(last, now)}
            mine = *self._mine(name), SCHEDULE.c.paused
            connection.execute(update(SCHEDULE).where(*mine).values(resumed))

        self._session.write(work)

    def _moved(self, schedule: str, at: float, moves: bool) -> Any:
        """Return the statement that moves the last tick; it returns no row if that is refused."""
        new = self._new(schedule, last=at if moves else None)
        goes = and_(not_(SCHEDULE.c.paused), or_(SCHEDULE.c.last.is_(None), SCHEDULE.c.last < at))
        return new.on_conflict_do_update(
            index_elements=[SCHEDULE.c.queue, SCHEDULE.c.name],
            set_={"last": at if moves else SCHEDULE.c.last},
            where=goes if moves else None,
        ).returning(SCHEDULE.c.runs)

    def _new(self, name: str, **values: Any) -> Any:
        insert = self._session.dialect.insert(SCHEDULE)
        return insert.values(
            {"queue": self._queue, "name": name, "paused": False, "runs": "[]", **values}
        )

    def _mine(self, name: str) -> tuple[Any, ...]:
        return SCHEDULE.c.queue == self._queue, SCHEDULE.c.name == name


def _state(last: Any, paused: Any, runs: Any) -> ScheduleState:
    """Return the state of a row; what is damaged in it counts as missing."""
    try:
        found = tuple(Run(float(tick), str(task_id)) for tick, task_id in json.loads(runs))
    except (ValueError, TypeError):
        found = ()
    is_time = isinstance(last, float | int) and 0 <= last < 1e15
    return ScheduleState(float(last) if is_time else None, paused is True or paused == 1, found)
