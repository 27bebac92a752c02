"""A SQL queue deletes finished tasks: those kept long enough, and those that are too many."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.damage import in_order
from collective.taskqueue.storages.sql.repairs import any_damage
from collective.taskqueue.storages.sql.repairs import repair
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import any_row
from collective.taskqueue.storages.sql.states import HERE
from collective.taskqueue.storages.sql.states import HOUR
from collective.taskqueue.storages.sql.states import is_finished
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.states import WEIGHT
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import LINGER
from collective.taskqueue.task import State
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import case
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import Double
from sqlalchemy import func
from sqlalchemy import Integer
from sqlalchemy import literal_column
from sqlalchemy import select
from sqlalchemy import union_all
from typing import Any
import logging
import math


logger = logging.getLogger("collective.taskqueue")

#: No record has more bytes; a larger size is damaged.
LARGEST = 2**40

_NOW: ColumnElement[float] = bindparam("now_", type_=Double)

#: The bytes a record is counted with; `WEIGHT` if its size is damaged or missing.
_SIZE = case(
    (TASK.c.size.between(0, literal_column(str(LARGEST))), TASK.c.size),
    else_=literal_column(str(WEIGHT)),
)


class Retention:
    """See the module. Any consumer does it now and then, when it finishes or reserves tasks.

    `publish` is called with what was done to tasks whose rows were damaged.
    """

    #: Seconds between two looks for records whose retention is over, and for damaged ones.
    INTERVAL = 1.0

    def __init__(self, session: Session, publish: Callable[[Notices], None]) -> None:
        self._session = session
        self._publish = publish
        self._looked = float("-inf")
        self._finished: dict[str, int] = {}
        # So that the first finished task triggers a look: the bytes before it are unknown.
        self._bytes = session.settings.max_finished_bytes
        #: When to look at the bytes again: some records were too young to be deleted.
        self._due = math.inf
        # Built once: building a statement takes longer than executing it.
        over = TASK.c.forget_at <= _NOW, is_finished()
        self._maintenance = select(
            any_row(TASK.c.forget_at, HERE, *over).label("over"), any_damage().label("damage")
        )
        self._old = transitions.forgetting(TASK.c.forget_at, *over)
        self._surplus = {state: _surplus(state) for state in FINISHED}
        self._total = select(func.sum(_SIZE)).where(HERE, one_of(*FINISHED))
        self._oldest = _oldest()
        self._large = [transitions.forgetting(TASK.c.place, *_large(state)) for state in FINISHED]

    def look(self, now: float) -> None:
        """Repair damaged rows and delete expired records; called outside of any transaction.

        Does nothing within `INTERVAL` seconds of the last look, unless more records were left.
        """
        if abs(now - self._looked) < self.INTERVAL:
            return
        self._looked = now
        try:
            [found] = self._read(self._maintenance, now_=now)
            if found.damage:
                self._repair()
        except StorageUnavailable as exc:
            logger.debug(
                "queue %s: expired records not removed (%s), trying again later",
                self._session.settings.queue,
                exc,
            )
            return
        if found.over and self._forget(self._old, now_=now):
            # There are more: let the next call look at once.
            self._looked = float("-inf")
        if now >= self._due:
            self._shrink(now)

    def after(self, state: State, now: float, number: int = 1, size: int | None = None) -> None:
        """Count `number` finished tasks of `size` bytes; delete those that are too many.

        Without a `size`, each counts as the largest payload.
        """
        self.look(now)
        settings = self._session.settings
        most = settings.max_finished
        # The first finished task triggers a look: how many there were before is unknown.
        finished = number + self._finished.get(state, most)
        self._finished[state] = finished
        # Look only when a twentieth too many may have finished, not after each task.
        if finished > most // 20 and not self._forget(self._surplus[state], most=most):
            self._finished[state] = 0
        self._bytes += number * settings.max_payload if size is None else size
        if self._bytes > settings.max_finished_bytes // 20:
            self._shrink(now)

    def _shrink(self, now: float) -> None:
        """Delete the oldest records if all take too many bytes; those too young yet, later."""
        most = self._session.settings.max_finished_bytes
        try:
            [[total]] = self._read(self._total)
            self._bytes, self._due = 0, math.inf
            surplus = (total or 0) - most
            if surplus <= 0:
                return
            rows = self._read(self._oldest)
        except StorageUnavailable as exc:
            logger.debug(
                "queue %s: expired records not removed (%s), trying again later",
                self._session.settings.queue,
                exc,
            )
            return
        last = None
        for row in sorted(rows, key=lambda row: in_order(row.place))[: transitions.PORTION]:
            if surplus > 0:
                last, surplus = row.place, surplus - row.size
        for statement in self._large:
            self._forget(statement, last=last, now_=now)
        self._due = now if surplus > 0 else now + LINGER

    def _repair(self) -> None:
        notices: Notices = []

        def work(connection: Connection) -> None:
            notices.clear()
            repair(self._session, connection, notices)

        self._session.write(work)
        self._publish(notices)

    def _forget(self, statement: Any, **values: Any) -> bool:
        """Delete a portion of tasks; return whether there may be more."""
        session = self._session

        def work(connection: Connection) -> int:
            return len(session.execute(connection, statement, **values).all())

        try:
            return session.single(work) == transitions.PORTION
        except StorageUnavailable as exc:
            # Do not raise: the task has finished, and the next one may be reserved already.
            logger.debug(
                "queue %s: expired records not removed (%s), trying again later",
                session.settings.queue,
                exc,
            )
            return False

    def _read(self, statement: Any, **values: Any) -> Any:
        session = self._session
        return session.read(
            lambda connection: session.execute(connection, statement, **values).all()
        )


def _surplus(state: State) -> Any:
    """Return the statement that deletes a portion of all but the last `most` of a final state."""
    line = HERE, one_of(*FINISHED), one_of(state)
    places = select(TASK.c.place).where(*line).order_by(TASK.c.place.desc())
    last = places.offset(bindparam("most", type_=Integer)).limit(1).scalar_subquery()
    return transitions.forgetting(TASK.c.place, *line[1:], TASK.c.place <= last)


def _oldest() -> Any:
    """Return the query for places and sizes of the first portion finished in each state."""
    lines = [
        select(TASK.c.place, _SIZE.label("size"))
        .where(HERE, one_of(*FINISHED), one_of(state))
        .order_by(TASK.c.place)
        .limit(transitions.PORTION)
        .subquery(f"first_{state}")
        for state in FINISHED
    ]
    return union_all(*(select(line.c.place, line.c.size) for line in lines))


def _large(state: State) -> tuple[ColumnElement[bool], ...]:
    # A subscriber to the event can still read a task for LINGER seconds. A task that ended at no
    # possible time is damaged, and counts as old.
    young = TASK.c.ended.between(_NOW - LINGER, _NOW + HOUR)
    old = ~func.coalesce(young, literal_column("false"))
    last = TASK.c.place <= bindparam("last", type_=BigInteger)
    return one_of(*FINISHED), one_of(state), last, old
