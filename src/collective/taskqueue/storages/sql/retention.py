"""What a SQL queue forgets: what was kept long enough, and what is too much."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.notifier import News
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

#: No record is larger; what says so is damaged.
LARGEST = 2**40

_NOW: ColumnElement[float] = bindparam("now_", type_=Double)

#: A record is counted as what it takes.
_SIZE = case(
    (TASK.c.size.between(0, literal_column(str(LARGEST))), TASK.c.size),
    else_=literal_column(str(WEIGHT)),
)


class Tidy:
    """See the module. It is done now and then, by whoever ends tasks or looks for some.

    `tell` is called with what has happened to tasks whose rows were damaged.
    """

    #: Seconds between two looks for records whose time is over, and for damaged ones.
    INTERVAL = 1.0

    def __init__(self, session: Session, tell: Callable[[News], None]) -> None:
        self._session = session
        self._tell = tell
        self._looked = float("-inf")
        self._finished: dict[str, int] = {}
        # From the first end on: nobody knows how much there was before.
        self._bytes = session.settings.max_finished_bytes
        #: When there is to be a look at the bytes again: some records were too young to go.
        self._due = math.inf
        # Built once: that takes longer than to execute them.
        over = TASK.c.forget_at <= _NOW, is_finished()
        self._chores = select(
            any_row(TASK.c.forget_at, HERE, *over).label("over"), any_damage().label("damage")
        )
        self._old = transitions.forgetting(TASK.c.forget_at, *over)
        self._surplus = {state: _surplus(state) for state in FINISHED}
        self._total = select(func.sum(_SIZE)).where(HERE, one_of(*FINISHED))
        self._oldest = _oldest()
        self._large = [transitions.forgetting(TASK.c.place, *_large(state)) for state in FINISHED]

    def look(self, now: float) -> None:
        """Do what the clock asks for; called outside of any transaction."""
        if abs(now - self._looked) < self.INTERVAL:
            return
        self._looked = now
        try:
            [found] = self._read(self._chores, now_=now)
            if found.damage:
                self._repair()
        except StorageUnavailable as exc:
            logger.debug("queue %s: nobody tidies up (%s)", self._session.settings.queue, exc)
            return
        if found.over and self._forget(self._old, now_=now):
            # There is more, for the next one who comes.
            self._looked = float("-inf")
        if now >= self._due:
            self._shrink(now)

    def after(self, state: State, now: float, number: int = 1, size: int | None = None) -> None:
        """So many tasks have finished, of so many bytes, or as many as tasks can have."""
        self.look(now)
        settings = self._session.settings
        most = settings.max_finished
        # From the first one on: nobody knows how many there were before.
        finished = number + self._finished.get(state, most)
        self._finished[state] = finished
        # A twentieth too many is not worth a look after each task.
        if finished > most // 20 and not self._forget(self._surplus[state], most=most):
            self._finished[state] = 0
        self._bytes += number * settings.max_payload if size is None else size
        if self._bytes > settings.max_finished_bytes // 20:
            self._shrink(now)

    def _shrink(self, now: float) -> None:
        """Forget the oldest of what takes too much room, and what may not go yet later."""
        most = self._session.settings.max_finished_bytes
        try:
            [[total]] = self._read(self._total)
            self._bytes, self._due = 0, math.inf
            surplus = (total or 0) - most
            if surplus <= 0:
                return
            rows = self._read(self._oldest)
        except StorageUnavailable as exc:
            logger.debug("queue %s: nothing forgotten (%s)", self._session.settings.queue, exc)
            return
        last = None
        for row in sorted(rows, key=lambda row: in_order(row.place))[: transitions.PORTION]:
            if surplus > 0:
                last, surplus = row.place, surplus - row.size
        for statement in self._large:
            self._forget(statement, last=last, now_=now)
        self._due = now if surplus > 0 else now + LINGER

    def _repair(self) -> None:
        news: News = []

        def work(connection: Connection, again: bool) -> None:
            news.clear()
            repair(self._session, connection, news)

        self._session.write(work)
        self._tell(news)

    def _forget(self, statement: Any, **values: Any) -> bool:
        """Forget a portion; return whether there may be more."""
        session = self._session

        def work(connection: Connection, again: bool) -> int:
            return len(session.execute(connection, statement, **values).all())

        try:
            return session.single(work) == transitions.PORTION
        except StorageUnavailable as exc:
            # The task has ended all the same, and the next one may be reserved already.
            logger.debug("queue %s: nothing forgotten (%s)", session.settings.queue, exc)
            return False

    def _read(self, statement: Any, **values: Any) -> Any:
        session = self._session
        return session.read(
            lambda connection: session.execute(connection, statement, **values).all()
        )


def _surplus(state: State) -> Any:
    """Forget those that finished in a state before the last `most` that did."""
    line = HERE, one_of(*FINISHED), one_of(state)
    places = select(TASK.c.place).where(*line).order_by(TASK.c.place.desc())
    last = places.offset(bindparam("most", type_=Integer)).limit(1).scalar_subquery()
    return transitions.forgetting(TASK.c.place, *line[1:], TASK.c.place <= last)


def _oldest() -> Any:
    """Return places and sizes of those that finished first in each of the states."""
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
    # Who is told of an end can look at it for a while. What ended at no time is damaged.
    young = TASK.c.ended.between(_NOW - LINGER, _NOW + HOUR)
    old = ~func.coalesce(young, literal_column("false"))
    last = TASK.c.place <= bindparam("last", type_=BigInteger)
    return one_of(*FINISHED), one_of(state), last, old
