"""The tasks that a search in a SQL queue examines, in the order of their numbers.

Each state that a filter has is a source of numbers in ascending order. Sources that many tasks may
be in are read from an index, a portion at a time:

* scheduled, failed and cancelled tasks have an index by number of their own;
* a queued task that was never moved has its number as its place, so that the index of the queue is
  in the order of the numbers; those that were moved have an index by number of their own.

Tasks that run, and succeeded ones, enter and leave their states on the road of every task: an index
by number would make each task dearer. They are sorted each time. If there are too many of them to
do so, tasks are read by number, whatever their state is.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.storages.sql.damage import in_order
from collective.taskqueue.storages.sql.pages import BRIEF
from collective.taskqueue.storages.sql.pages import order_of
from collective.taskqueue.storages.sql.schema import indexed
from collective.taskqueue.storages.sql.schema import LAST
from collective.taskqueue.storages.sql.schema import RARE
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import fresh
from collective.taskqueue.storages.sql.states import HERE
from collective.taskqueue.storages.sql.states import name_of
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.states import unbounded
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskFilter
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import cast
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import literal_column
from sqlalchemy import null
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import union_all
from typing import Any
from typing import NamedTuple


#: Most numbers of each source that one statement returns, and most tasks that it reads.
PORTION = 200

#: Most tasks of one state that are sorted, of all persons and of one: their index has the number.
FEW, FEW_OF_PERSON = 10_000, 1000

#: A user as the indexes have it, and one person of that user id.
Person = tuple[str, str]

_NUMBER = TASK.c.number
_AFTER = bindparam("after_", type_=BigInteger)
_LATER = (_NUMBER > _AFTER, literal_column(LAST) > _NUMBER)


class Portion(NamedTuple):
    """Tasks that may match."""

    #: Rows of tasks, by number.
    rows: Sequence[Any]
    #: All tasks up to this number were looked for.
    upto: int
    #: How many rows had to be read beside these.
    more: int = 0


class Candidates:
    """See the module."""

    def __init__(self, session: Session) -> None:
        self._session = session
        columns = (_NUMBER, fresh(session.statements.now).label("fresh"), *BRIEF)
        self._following = _portion(select(*columns).where(HERE, *_LATER).order_by(_NUMBER))
        self._following_of = self._following.where(*_whose(0))
        numbers = bindparam("numbers_", type_=BigInteger, expanding=True)
        self._chosen = select(*columns).where(HERE, _NUMBER.in_(numbers))
        #: By states, and the number of persons.
        self._sources: dict[tuple[tuple[State, ...], int], Any] = {}

    def after(self, connection: Connection, filter: TaskFilter, last: int) -> Iterator[Portion]:
        """Yield all tasks after number `last` that may match, of the user of the filter only."""
        persons = self._persons(connection, filter.user)
        wanted = tuple(state for state in STATES if state in filter.states)
        if persons == []:
            return
        while 0 < len(wanted) < len(STATES):
            found = self._numbers(connection, wanted, persons, last)
            if found is None:
                break
            numbers, upto, more = found
            rows = self._read(connection, self._chosen, numbers_=numbers) if numbers else ()
            yield Portion(_sorted(rows), upto, more)
            if upto >= int(LAST):
                return
            last = upto
        while rows := self._next(connection, last, persons):
            last = rows[-1].number
            yield Portion(rows, last)

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
        self,
        connection: Connection,
        states: tuple[State, ...],
        persons: list[Person] | None,
        last: int,
    ) -> tuple[list[int], int, int] | None:
        """Return the next numbers of tasks in these states, up to which, and how many more rows.

        None if more tasks are in a state than can be sorted.
        """
        kind = states, len(persons or ())
        if kind not in self._sources:
            self._sources[kind] = _sources(*kind)
        # One statement, so that a task is not missed that changes its state meanwhile.
        read = self._read(connection, self._sources[kind], after_=last, **_names(persons))
        found: dict[int, list[tuple[Any, Any]]] = {}
        for source, number, place in read:
            if number is None:
                return None
            found.setdefault(source, []).append((number, place))
        # A source that has returned a whole portion may have more.
        ends = [rows[-1][1] for rows in found.values() if len(rows) == PORTION]
        upto = min((end for end in ends if type(end) is int), default=int(LAST))
        numbers = sorted(
            number
            for rows in found.values()
            for number, place in rows
            if type(number) is int and number == place and number <= upto
        )
        if len(numbers) > PORTION:
            numbers = numbers[:PORTION]
            upto = numbers[-1]
        # Those that come later are read again, and counted then.
        more = sum(
            number != place and not (type(place) is int and place > upto)
            for rows in found.values()
            for number, place in rows
        )
        return numbers, upto, more

    def _next(
        self, connection: Connection, last: int, persons: list[Person] | None
    ) -> Sequence[Any]:
        """Return the next rows after number `last`, whatever their state is."""
        if persons is None:
            return self._read(connection, self._following, after_=last)
        rows: list[Any] = []
        for person in persons:
            rows += self._read(connection, self._following_of, after_=last, **_names([person]))
        return _sorted(rows)[:PORTION]

    def _read(self, connection: Connection, statement: Any, **values: Any) -> Sequence[Any]:
        rows: Sequence[Any] = self._session.execute(connection, statement, **values).all()
        return rows


def _names(persons: list[Person] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for which, (user, person) in enumerate(persons or ()):
        found |= {f"user_{which}": user, f"person_{which}": person}
    return found


def _whose(which: int | None) -> tuple[ColumnElement[bool], ...]:
    if which is None:
        return ()
    return (
        TASK.c.user == bindparam(f"user_{which}", type_=Text),
        TASK.c.person == bindparam(f"person_{which}", type_=Text),
    )


def _sources(states: tuple[State, ...], persons: int) -> Any:
    """Return the statement for the next numbers of each state.

    Its rows: the source, the number of a task, and what the source is in the order of. A row
    without a number says that there are too many tasks.
    """
    parts = [
        part
        for state in states
        for which in (range(persons) if persons else (None,))
        for part in _parts(state, which)
    ]
    rows = [part.subquery(f"source_{n}") for n, part in enumerate(parts)]
    return union_all(*(select(literal_column(str(n)), *row.c) for n, row in enumerate(rows)))


def _parts(state: State, which: int | None) -> list[Select[Any]]:
    """Return the statements for the tasks in a state, each written so that its index matches."""
    numbers = select(_NUMBER, _NUMBER.label("place")).where(HERE, *_whose(which))
    if state in RARE:
        rare = numbers.where(TASK.c.state == name_of(state), *_LATER)
        rare = rare.where(TASK.c.state.in_([name_of(each) for each in RARE]))
        return [_portion(rare.order_by(_NUMBER))]
    if state == RUNNING:
        # An expression, so that no index by number is used: few tasks run.
        number = _NUMBER + literal_column("0")
        later = (number > _AFTER, number < literal_column(LAST))
        return [_portion(numbers.where(one_of(RUNNING), *later).order_by(number))]
    if state == QUEUED and which is None:
        place = TASK.c.place
        queue = select(_NUMBER, place).where(HERE, one_of(QUEUED), place > _AFTER).order_by(place)
        moved = numbers.where(unbounded(QUEUED), place != _NUMBER, *_LATER).order_by(_NUMBER)
        return [_portion(queue), _portion(moved)]
    return _few(state, which)


def _few(state: State, which: int | None) -> list[Select[Any]]:
    """Return the statements for the tasks of a state that has no index by number.

    As the pages of `pages.py`: without an order a planner might read the whole table.
    """
    most = FEW if which is None else FEW_OF_PERSON
    inner = select(_NUMBER).where(HERE, *_whose(which)).order_by(*order_of(state))
    if which is not None:
        inner = inner.where(TASK.c.state == name_of(state))
    else:
        inner = inner.where(one_of(state), one_of(*FINISHED))
    few = inner.limit(literal_column(str(most))).subquery("few").c.number
    sorted_ = select(few, few.label("place")).where(few > _AFTER, few < literal_column(LAST))
    over = inner.offset(literal_column(str(most))).limit(literal_column("1")).subquery("over")
    none = cast(null(), BigInteger)
    too_many = select(none.label("number"), none.label("place")).select_from(over)
    return [_portion(sorted_.order_by(few)), too_many]


def _portion(query: Select[Any]) -> Select[Any]:
    return query.limit(literal_column(str(PORTION)))


def _sorted(rows: Sequence[Any]) -> list[Any]:
    sound = [row for row in rows if type(row.number) is int]
    return sorted(sound, key=lambda row: in_order(row.number))
