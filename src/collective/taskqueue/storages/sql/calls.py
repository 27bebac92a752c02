"""Calls whose answer may be lost: each has an id, and its result is stored with that id.

A call without an answer may have been executed. The thread repeats it under the same id, and finds
its result: the id is in `done` of the tasks that it completed or released, and in `token` of those
that it claimed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4
import threading


class Call:
    """A call; `ids` has an id for each name of what it does."""

    def __init__(self, ids: dict[str, str], sent: bool) -> None:
        self.ids = ids
        #: Whether it may have been executed before.
        self.sent = sent


class Calls:
    """The calls of all threads that got no answer yet."""

    def __init__(self) -> None:
        self._unanswered = threading.local()

    @contextmanager
    def call(self, *names: str) -> Iterator[Call]:
        """Yield the call that does what `names` say; an exception means that it got no answer.

        A name has the id under which this thread tried the same before, without an answer.
        """
        unanswered = self._unanswered.__dict__
        sent = not unanswered.keys().isdisjoint(names)
        new = uuid4().hex
        for number, name in enumerate(names):
            unanswered.setdefault(name, f"{new}.{number}.")
        yield Call({name: unanswered[name] for name in names}, sent)
        for name in set(names):
            del unanswered[name]

    def got_no_answer(self, name: str) -> bool:
        """Return whether this thread tried that before, without an answer."""
        return name in self._unanswered.__dict__
