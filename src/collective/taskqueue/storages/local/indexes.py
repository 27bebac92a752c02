"""The sorted lists of a local queue: per state and of all tasks, per user id and per person.

A line holds its tasks in order: queued ones by turn, scheduled ones by due time, all others by
the number they got when they entered the state. A page costs O(skipped + returned tasks).
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


#: The owner of tasks, as kind and name; empty texts for the tasks of all owners.
Owner = tuple[str, str]

ALL_USERS: Owner = ("", "")


class _Line:
    """The ids of tasks by their place, and their number: a tree does not know its length."""

    __slots__ = ("number", "tree")

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.number = 0


class _Ledger(dict[State | None, _Line]):
    """The lines of all tasks, of the tasks of a user id, or of the tasks of a person."""

    def __missing__(self, state: State | None) -> _Line:
        # A tree with integer keys is several times as fast.
        line = self[state] = _Line(OOBTree() if state == SCHEDULED else LOBTree())
        return line


class Lines:
    """All lines of a queue, see the module. The caller of every method holds the storage's lock."""

    def __init__(self) -> None:
        self._ledgers: defaultdict[Owner, _Ledger] = defaultdict(_Ledger)

    def open(self, record: Record) -> None:
        """Add a task to its lines of state None, where it stays until `close`."""
        record.ledgers = [self._ledgers[whose] for whose in _all_of(record.task.user)]
        self.enter(record, None, record.sequence)

    def close(self, record: Record) -> None:
        """Remove a forgotten task, and the lines that are empty then."""
        self.leave(record, None, record.sequence)
        for whose in _all_of(record.task.user):
            if not self._ledgers[whose][None].number:
                del self._ledgers[whose]

    def enter(self, record: Record, state: State | None, place: Place) -> None:
        """Add a task to its lines of a state, at a place."""
        for ledger in record.ledgers:
            line = ledger[state]
            line.tree[place] = record.task.id
            line.number += 1

    def leave(self, record: Record, state: State | None, place: Place) -> None:
        """Remove a task from its lines of a state."""
        for ledger in record.ledgers:
            line = ledger[state]
            del line.tree[place]
            line.number -= 1

    def number(self, state: State | None, user: str | Identity | None = None) -> int:
        """Return how many tasks a line has."""
        line = self._line(state, user)
        return 0 if line is None else line.number

    def first(self, state: State) -> tuple[Any, str] | None:
        """Return the place and the id of the first task in a state; None if there is none."""
        line = self._line(state)
        if line is None or not line.number:
            return None
        place = line.tree.minKey()
        return place, line.tree[place]

    def page(
        self, state: State | None, user: str | Identity | None = None, start: int = 0, size: int = 0
    ) -> Iterator[str]:
        """Return the ids of `size` tasks from `start` on; of all of them if `size` is 0."""
        line = self._line(state, user)
        stop = start + size if size else None
        return islice(() if line is None else line.tree.values(), start, stop)

    def after(self, number: int, user: str | Identity | None = None) -> Iterator[str]:
        """Return the ids of all tasks that were added after the one with this number, in order."""
        line = self._line(None, user)
        return iter(() if line is None else line.tree.values(min=number, excludemin=True))

    def _line(self, state: State | None, user: str | Identity | None = None) -> _Line | None:
        ledger = self._ledgers.get(ALL_USERS if user is None else _whose(user))
        return None if ledger is None else ledger.get(state)


# Cached: this is called for each task, mostly with the same few users.
@lru_cache(maxsize=1000)
def _all_of(user: Identity | None) -> tuple[Owner, ...]:
    return (ALL_USERS,) if user is None else (ALL_USERS, _whose(user.id), _whose(user))


def _whose(user: str | Identity) -> Owner:
    return ("user", user) if isinstance(user, str) else ("person", user.person)
