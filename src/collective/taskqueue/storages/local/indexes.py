"""The lists of a local queue: of each state and of all, of each user id and of each person.

A line has its tasks in order: queued ones by turn, scheduled ones by the moment they fall due,
all others by the number they had when they came. A page costs as much as is skipped and shown.
"""

from __future__ import annotations

from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from collections import defaultdict
from collections.abc import Iterator
from collective.taskqueue.storages.local.record import Place
from collective.taskqueue.storages.local.record import Record
from collective.taskqueue.task import Identity
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from functools import lru_cache
from itertools import islice
from typing import Any


#: Whose tasks; an empty text for those of everybody.
Whose = tuple[str, str]

EVERYBODY: Whose = ("", "")


class _Line:
    """The ids of tasks by their place; a tree does not know how many it has."""

    __slots__ = ("number", "tree")

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.number = 0


class _Ledger(dict[State | None, _Line]):
    """The lines of everybody's tasks, or of those of a user id or of a person."""

    def __missing__(self, state: State | None) -> _Line:
        # A tree of whole numbers is several times as fast.
        line = self[state] = _Line(OOBTree() if state == SCHEDULED else LOBTree())
        return line


class Lines:
    """See the module. Every method expects the caller to hold the storage's lock."""

    def __init__(self) -> None:
        self._ledgers: defaultdict[Whose, _Ledger] = defaultdict(_Ledger)

    def open(self, record: Record) -> None:
        """A task is known from now on; state None is for as long as it is."""
        record.ledgers = [self._ledgers[whose] for whose in _all_of(record.task.user)]
        self.enter(record, None, record.born)

    def close(self, record: Record) -> None:
        """It is forgotten."""
        self.leave(record, None, record.born)
        for whose in _all_of(record.task.user):
            if not self._ledgers[whose][None].number:
                del self._ledgers[whose]

    def enter(self, record: Record, state: State | None, place: Place) -> None:
        """A task comes into a state."""
        for ledger in record.ledgers:
            line = ledger[state]
            line.tree[place] = record.task.id
            line.number += 1

    def leave(self, record: Record, state: State | None, place: Place) -> None:
        """It does not stand there any more."""
        for ledger in record.ledgers:
            line = ledger[state]
            del line.tree[place]
            line.number -= 1

    def number(self, state: State | None, user: str | Identity | None = None) -> int:
        """Return how many tasks there are."""
        line = self._line(state, user)
        return 0 if line is None else line.number

    def first(self, state: State) -> tuple[Any, str] | None:
        """Return the place of the first one in a state, and its id."""
        line = self._line(state)
        if line is None or not line.number:
            return None
        place = line.tree.minKey()
        return place, line.tree[place]

    def page(
        self, state: State | None, user: str | Identity | None = None, start: int = 0, size: int = 0
    ) -> Iterator[str]:
        """Return the ids of a page, or of all that come from `start` on."""
        line = self._line(state, user)
        stop = start + size if size else None
        return islice(() if line is None else line.tree.values(), start, stop)

    def _line(self, state: State | None, user: str | Identity | None = None) -> _Line | None:
        ledger = self._ledgers.get(_whose(user))
        return None if ledger is None else ledger.get(state)


# For each task, and for the same few persons.
@lru_cache(maxsize=1000)
def _all_of(user: Identity | None) -> tuple[Whose, ...]:
    return (EVERYBODY,) if user is None else (EVERYBODY, _whose(user.id), _whose(user))


def _whose(user: str | Identity | None) -> Whose:
    if user is None:
        return EVERYBODY
    return ("user", user) if isinstance(user, str) else ("person", user.person)
