"""The lists of a local queue: of each state and of all, of each user id and of each person.

A line has its tasks in order: queued ones by turn, scheduled ones by the moment they fall due,
all others by the number they had when they came. A page costs as much as is skipped and shown.
"""

from __future__ import annotations

from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collective.taskqueue.storages._record import Record
from collective.taskqueue.task import Identity
from collective.taskqueue.task import State
from functools import lru_cache
from itertools import islice
from typing import Any


#: Where a task stands in a line; no two are at the same place.
Place = tuple[float, int]

#: Whose tasks; an empty text for those of everybody.
Whose = tuple[str, str]

EVERYBODY: Whose = ("", "")


class Lines:
    """See the module. Every method expects the caller to hold the storage's lock."""

    def __init__(self) -> None:
        # A tree does not know how many it has.
        self._trees: dict[tuple[State | None, Whose], Any] = {}
        self._numbers: dict[tuple[State | None, Whose], int] = {}

    def enter(self, record: Record, state: State | None, place: Place) -> None:
        """A task comes into a state; None is for as long as it is known."""
        for whose in _all_of(record.task.user):
            line = state, whose
            self._trees.setdefault(line, OOBTree())[place] = record.id
            self._numbers[line] = self._numbers.get(line, 0) + 1

    def leave(self, record: Record, state: State | None, place: Place) -> None:
        """It does not stand there any more."""
        for whose in _all_of(record.task.user):
            line = state, whose
            del self._trees[line][place]
            self._numbers[line] -= 1
            if not self._numbers[line]:
                del self._trees[line], self._numbers[line]

    def number(self, state: State | None, user: str | Identity | None = None) -> int:
        """Return how many tasks there are."""
        return self._numbers.get((state, _whose(user)), 0)

    def first(self, state: State) -> tuple[Place, str] | None:
        """Return the first one in a state, and where it stands."""
        tree = self._trees.get((state, EVERYBODY))
        if tree is None:
            return None
        place = tree.minKey()
        return place, tree[place]

    def page(
        self, state: State | None, user: str | Identity | None = None, start: int = 0, size: int = 0
    ) -> Iterator[str]:
        """Return the ids of a page, or of all that come from `start` on."""
        tree = self._trees.get((state, _whose(user)))
        stop = start + size if size else None
        return islice(() if tree is None else tree.values(), start, stop)


# For each change of a task, and for the same few persons.
@lru_cache(maxsize=1000)
def _all_of(user: Identity | None) -> tuple[Whose, ...]:
    return (EVERYBODY,) if user is None else (EVERYBODY, _whose(user.id), _whose(user))


def _whose(user: str | Identity | None) -> Whose:
    if user is None:
        return EVERYBODY
    return ("user", user) if isinstance(user, str) else ("person", user.person)
