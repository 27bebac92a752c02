"""Queries of the admin of a SQL queue: pages of tasks, counts, consumers, and throughput.

Each statement is built once: the values that differ are parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from collective.taskqueue.storages.sql.counters import counters
from collective.taskqueue.storages.sql.schema import CONSUMER
from collective.taskqueue.storages.sql.schema import ENDED
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.states import fresh
from collective.taskqueue.storages.sql.states import HERE
from collective.taskqueue.storages.sql.states import HOUR
from collective.taskqueue.storages.sql.states import name_of
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import ColumnElement
from sqlalchemy import func
from sqlalchemy import literal
from sqlalchemy import literal_column
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import union_all
from typing import Any


#: A larger number of tasks that finished in a minute is damaged.
MOST = "1000000000000"

_SMALL = ("id", "state", "reason", "changes", "due", "consumer", "attempts", "progress", "cancel")

#: The columns that a brief status is made of.
BRIEF = tuple(TASK.c[name] for name in (*_SMALL, "status", "forgotten", "body"))

#: The additional columns of a status that is not brief.
LARGE = (TASK.c.history, TASK.c.last, TASK.c.payload)

#: The columns that tasks of a state are ordered by; None stands for the tasks of all states.
_ORDER: dict[Any, tuple[str, ...]] = {
    None: ("number",),
    SCHEDULED: ("due", "place"),
    RUNNING: ("claim", "place"),
}

_USER = TASK.c.user == bindparam("user_", type_=Text)
_PERSON = TASK.c.person == bindparam("person_", type_=Text)

#: The same conditions, written so that a planner uses the index by `forget_at`, not by user.
_SAME_USER = func.coalesce(TASK.c.user, "") == bindparam("user_", type_=Text)
_SAME_PERSON = func.coalesce(TASK.c.person, "") == bindparam("person_", type_=Text)


class Pages:
    """See the module. `now` is an expression for the time.

    The keys of `pages` are a state or None, and whether the page is of one person's tasks. Their
    parameters: `start_`, `size_`, `user_`, `person_`.
    """

    def __init__(self, now: ColumnElement[float]) -> None:
        self._now = now
        states: tuple[State | None, ...] = (None, *STATES)
        self.pages = {(state, own): self._page(state, own) for state in states for own in (0, 1)}
        self.persons = self._persons()
        # The last column of a row: True for a counter, False for the number of expired tasks.
        parts = (counters().subquery("counted"), True), (self._overdue([]).subquery("over"), False)
        self.counts = union_all(*(select(part, literal(kind)) for part, kind in parts))
        self.counts_of_user = self._counts_of([_USER], [_SAME_USER])
        self.counts_of_person = self._counts_of([_USER, _PERSON], [_SAME_USER, _SAME_PERSON])
        # A damaged time is in no range.
        seen = CONSUMER.c.seen.between(self._now - HOUR, self._now + HOUR)
        self.consumers = (
            select(CONSUMER.c.name, CONSUMER.c.process, CONSUMER.c.seen, now.label("now"))
            .where(CONSUMER.c.queue == bindparam("queue_", type_=Text), seen)
            .order_by(CONSUMER.c.name, CONSUMER.c.process)
        )
        self.running = (
            select(TASK.c.consumer, TASK.c.process, TASK.c.id)
            .where(HERE, one_of(RUNNING))
            .order_by(TASK.c.claim, TASK.c.place)
        )
        minute = bindparam("minute_", type_=BigInteger)
        self.throughput = (
            select(ENDED.c.state, func.sum(ENDED.c.number))
            .where(
                ENDED.c.queue == bindparam("queue_", type_=Text),
                ENDED.c.state.in_([name_of(state) for state in FINISHED]),
                ENDED.c.minute.between(minute - 59, minute + 60),
                ENDED.c.number.between(0, literal_column(MOST)),
            )
            .group_by(ENDED.c.state)
        )

    def _page(self, state: State | None, own: int) -> Select[Any]:
        """Return the statement that lists one page of tasks, of one person if they are `own`."""
        order = order_of(state)
        query = select(*BRIEF, *(column.label(f"order_{n}") for n, column in enumerate(order)))
        query = query.where(HERE)
        if own:
            query = query.where(_USER, _PERSON)
            if state is not None:
                query = query.where(TASK.c.state == name_of(state))
        elif state is not None:
            query = query.where(one_of(state))
            if state in FINISHED:
                query = query.where(one_of(*FINISHED))
        if state is None or state in FINISHED:
            query = query.where(fresh(self._now))
        if own and state == RUNNING:
            # Sort by an expression, so that no index is used for the order: few tasks run.
            order = [column + literal_column("0") for column in order]
        start = bindparam("start_", type_=BigInteger)
        return query.order_by(*order).offset(start).limit(bindparam("size_", type_=BigInteger))

    def _persons(self) -> Select[Any]:
        """Return the statement that lists the persons of a user id: one index step for each."""

        def following(*later: ColumnElement[bool]) -> Any:
            # ORDER BY and LIMIT instead of min(): for that a planner might scan all rows.
            query = select(other.c.person).where(*of_user, other.c.person.is_not(None), *later)
            return query.order_by(other.c.person).limit(literal_column("1")).scalar_subquery()

        other = TASK.alias("other")
        of_user = (
            other.c.queue == bindparam("queue_", type_=Text),
            other.c.user == bindparam("user_", type_=Text),
        )
        found = select(following().label("person")).cte("persons", recursive=True)
        later = following(other.c.person > found.c.person)
        found = found.union_all(select(later).where(found.c.person.is_not(None)))
        return select(found.c.person).where(found.c.person.is_not(None))

    def _counts_of(
        self, whose: Iterable[ColumnElement[bool]], same: Iterable[ColumnElement[bool]]
    ) -> Any:
        """Return the statement that counts tasks by state; a state may have two rows to add up."""
        every = select(TASK.c.state, func.count()).where(HERE, *whose).group_by(TASK.c.state)
        return union_all(every, self._overdue(same))

    def _overdue(self, same: Iterable[ColumnElement[bool]]) -> Any:
        """Return the statement that counts expired tasks by state, as negative numbers."""
        state = func.coalesce(TASK.c.state, "")
        return (
            select(state, -func.count())
            .where(HERE, TASK.c.forget_at <= self._now, *same)
            .where(state.in_([name_of(final) for final in FINISHED]))
            .group_by(state)
        )


def order_of(state: State | None) -> list[ColumnElement[Any]]:
    """Return the columns that tasks of a state are ordered by."""
    return [TASK.c[name] for name in _ORDER.get(state, ("place",))]
