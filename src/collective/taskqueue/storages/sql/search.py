"""Searches in a SQL queue: tasks that match a filter, in the order in which they were added.

Tasks are read by their number, or if only a few are in the states that a filter has, from the
indexes of these states. No condition of a filter is in a statement that has to find a portion of
rows: the database would read on and on while none matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.search import cursor_at
from collective.taskqueue.storages.search import number_at
from collective.taskqueue.storages.search import SCAN
from collective.taskqueue.storages.sql.damage import in_order
from collective.taskqueue.storages.sql.damage import shown
from collective.taskqueue.storages.sql.pages import BRIEF
from collective.taskqueue.storages.sql.pages import order_of
from collective.taskqueue.storages.sql.rows import status_of
from collective.taskqueue.storages.sql.schema import indexed
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import fresh
from collective.taskqueue.storages.sql.states import HERE
from collective.taskqueue.storages.sql.states import name_of
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import lowered
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import Connection
from sqlalchemy import literal_column
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import union_all
from typing import Any


#: Most tasks that one statement reads.
PORTION = 200

#: Larger numbers are damaged.
LAST = "4611686018427387904"

#: A user as the indexes have it, and one person of that user id.
Person = tuple[str, str]


class Search:
    """See the module."""

    def __init__(self, session: Session) -> None:
        self._session = session
        columns = (TASK.c.number, fresh(session.statements.now).label("fresh"), *BRIEF)
        number = TASK.c.number
        after = bindparam("after_", type_=BigInteger)
        following = select(*columns).where(HERE, number > after, number < literal_column(LAST))
        following = following.order_by(number).limit(literal_column(str(PORTION)))
        self._following = following
        self._following_of = following.where(*_whose(0))
        numbers = bindparam("numbers_", type_=BigInteger, expanding=True)
        self._chosen = select(*columns).where(HERE, number.in_(numbers))
        #: By states, and the number of persons.
        self._few: dict[tuple[tuple[State, ...], int], Any] = {}

    def page(self, filter: TaskFilter, cursor: str | None, size: int) -> TaskPage:
        """Return the next tasks that match; see `ITaskAdmin.search`."""
        last = number_at(cursor, self._session.settings.queue, filter)
        return self._session.read(lambda connection: self._page(connection, filter, last, size))

    def _page(self, connection: Connection, filter: TaskFilter, last: int, size: int) -> TaskPage:
        found: list[TaskStatus] = []
        for examined, row in enumerate(self._candidates(connection, filter, last)):
            if examined == SCAN or len(found) == size:
                place = self._session.settings.queue
                return TaskPage(tuple(found), cursor_at(last, place, filter))
            last = row.number
            status = _matching(row, filter)
            if status is not None:
                found.append(status)
        return TaskPage(tuple(found))

    def _candidates(self, connection: Connection, filter: TaskFilter, last: int) -> Iterator[Any]:
        """Yield the rows of tasks that were added after number `last` and may match, in order."""
        persons = self._persons(connection, filter.user)
        numbers = self._numbers(connection, filter.states, persons)
        if numbers is not None:
            later = sorted(number for number in numbers if number > last)
            for start in range(0, len(later), PORTION):
                portion = later[start : start + PORTION]
                yield from _sorted(self._read(connection, self._chosen, numbers_=portion))
            return
        while rows := self._after(connection, last, persons):
            yield from rows
            last = rows[-1].number

    def _persons(self, connection: Connection, user: str | Identity | None) -> list[Person] | None:
        """Return the persons whose tasks are searched; None for the tasks of all."""
        if user is None:
            return None
        if isinstance(user, Identity):
            return [(indexed(user.id), user.person)]
        statement = self._session.statements.pages.persons
        name = indexed(user)
        return [(name, person) for [person] in self._read(connection, statement, user_=name)]

    def _numbers(
        self, connection: Connection, states: Sequence[State], persons: list[Person] | None
    ) -> list[int] | None:
        """Return the numbers of all tasks in these states; None if they are too many."""
        wanted = tuple(state for state in STATES if state in states)
        if not wanted:
            return None
        if persons == []:
            return []
        kind = wanted, len(persons or ())
        if kind not in self._few:
            self._few[kind] = _few(*kind)
        names: dict[str, str] = {}
        for which, (user, person) in enumerate(persons or ()):
            names |= {f"user_{which}": user, f"person_{which}": person}
        # One statement, so that a task is not missed that changes its state meanwhile.
        rows = self._read(connection, self._few[kind], **names)
        if len(rows) > SCAN:
            return None
        return [number for [number] in rows if type(number) is int]

    def _after(
        self, connection: Connection, last: int, persons: list[Person] | None
    ) -> Sequence[Any]:
        """Return the next rows after number `last`."""
        if persons is None:
            return self._read(connection, self._following, after_=last)
        rows: list[Any] = []
        for user, person in persons:
            names = {"user_0": user, "person_0": person}
            rows += self._read(connection, self._following_of, after_=last, **names)
        return _sorted(rows)[:PORTION]

    def _read(self, connection: Connection, statement: Any, **values: Any) -> Sequence[Any]:
        rows: Sequence[Any] = self._session.execute(connection, statement, **values).all()
        return rows


def _whose(which: int) -> tuple[Any, Any]:
    return (
        TASK.c.user == bindparam(f"user_{which}", type_=Text),
        TASK.c.person == bindparam(f"person_{which}", type_=Text),
    )


def _few(states: tuple[State, ...], persons: int) -> Any:
    """Return the statement for the numbers of the tasks in these states, `SCAN` and one more."""
    parts = [
        part
        for state in states
        for part in ([_of(state, n) for n in range(persons)] or [_of(state)])
    ]
    numbers = [select(part.subquery(f"few_{n}").c.number) for n, part in enumerate(parts)]
    return union_all(*numbers).limit(literal_column(str(SCAN + 1)))


def _of(state: State, person: int | None = None) -> Select[Any]:
    """Return the statement for the numbers of tasks in a state, written so that its index matches.

    As the pages of `pages.py`: without an order a planner might read the whole table.
    """
    query = select(TASK.c.number).where(HERE).limit(literal_column(str(SCAN + 1)))
    order = order_of(state)
    if person is not None:
        query = query.where(*_whose(person), TASK.c.state == name_of(state))
        if state == RUNNING:
            order = [column + literal_column("0") for column in order]
        return query.order_by(*order)
    query = query.where(one_of(state))
    if state in FINISHED:
        query = query.where(one_of(*FINISHED))
    return query.order_by(*order)


def _sorted(rows: Sequence[Any]) -> list[Any]:
    sound = [row for row in rows if type(row.number) is int]
    return sorted(sound, key=lambda row: in_order(row.number))


def _matching(row: Any, filter: TaskFilter) -> TaskStatus | None:
    """Return the status of a task that matches; None if it does not."""
    # The statement has compared the user. What costs least to compare comes first.
    if not row.fresh or (filter.states and row.state in STATES and row.state not in filter.states):
        return None
    if filter.reason is not None and lowered(filter.reason) not in lowered(shown(row.reason)):
        return None
    if filter.url is not None or filter.since is not None or filter.until is not None:
        try:
            task = codec.decode(shown(row.id), row.body)
        except TaskDecodeError:
            return None
        same = TaskFilter(url=filter.url, since=filter.since, until=filter.until)
        if not same.matches(task, row.state, ""):
            return None
    status = status_of(row, brief=True)
    # A state that is damaged is shown as failed.
    return status if not filter.states or status.state in filter.states else None
