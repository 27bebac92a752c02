"""SQLite and forks: a child must inherit neither an open file nor a lock within the library.

A child that inherits an open database behaves as if it held the locks of its parent, and holds
none of them. A lock that another thread held within the library stays locked forever. So a fork
waits until no thread is in SQLite, then all files are closed. They are opened again when they
are needed next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
import os
import threading
import weakref


#: Seconds that a fork waits for transactions to end, and a transaction for a fork.
PATIENCE = 10.0


class Closable(Protocol):
    """An object that has files open."""

    def let_go(self) -> None:
        """Close all files; no thread uses one of them."""


class Forks:
    """See the module."""

    def __init__(self) -> None:
        self._closables: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._registered = False
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._active = 0
        self._forking = False

    def watch(self, closable: Closable) -> None:
        """Close the files of `closable` before each fork from now on."""
        self._closables.add(closable)
        if not self._registered:
            self._registered = True
            os.register_at_fork(
                before=self._before, after_in_parent=self._after, after_in_child=self._begin
            )

    @contextmanager
    def none(self) -> Iterator[None]:
        """Let forks wait while the block runs."""
        with self._changed:
            if self._forking:
                self._changed.wait_for(lambda: not self._forking, PATIENCE)
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _before(self) -> None:
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: not self._active, PATIENCE)
        for closable in list(self._closables):
            closable.let_go()

    def _after(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()


FORKS = Forks()
