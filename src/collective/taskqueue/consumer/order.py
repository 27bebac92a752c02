"""The order of several queues that one consumer serves: a task of an earlier queue begins first.

Each queue has threads of its own, which wait for its tasks. A task begins when fewer tasks than the
limit run, and no earlier queue has one that waits. A running task is never interrupted for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from threading import Event
from threading import get_ident
import time


#: Seconds that a thread has to wait for a task of its queue before the queue counts as empty: the
#: answer of the storage may be on its way.
SETTLED = 0.05

#: Seconds after which a thread that waits for its turn looks whether it has something else to do.
INTERVAL = 0.25

#: Seconds that a reserved task waits for its turn before it is released.
PATIENCE = 0.6


class Order:
    """The queues of one consumer, which runs at most `limit` tasks at a time."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._changed = Condition()
        #: By queue, earliest first: the threads that have no task, and since when.
        self._idle: list[dict[int, float]] = []
        #: By queue: how many of its tasks are reserved, and wait to begin.
        self._reserved: list[int] = []

    def add(self) -> Turn:
        """Return what decides when tasks of the next queue begin."""
        self._idle.append({})
        self._reserved.append(0)
        return Turn(self, len(self._idle) - 1)

    def may_take(self, rank: int) -> bool:
        """Return whether a thread of this queue may take a task; called with the lock."""
        if self._free <= sum(self._reserved):
            return False
        latest = time.monotonic() - SETTLED
        return all(
            any(since <= latest for since in threads.values()) for threads in self._idle[:rank]
        )

    def may_begin(self, rank: int) -> bool:
        """Return whether a reserved task of this queue may begin; called with the lock."""
        return self._free > sum(self._reserved[:rank])


class Turn:
    """When the tasks of one of the queues begin. Used by the consumer of that queue."""

    def __init__(self, order: Order, rank: int) -> None:
        self._order = order
        self._rank = rank

    def wait(self, stopping: Event) -> bool:
        """Wait until a thread may take a task; return False if it has to look elsewhere first."""
        order = self._order
        deadline = time.monotonic() + INTERVAL
        with order._changed:
            while not order.may_take(self._rank):
                if stopping.is_set() or time.monotonic() > deadline:
                    return False
                order._changed.wait(min(SETTLED, INTERVAL))
        return not stopping.is_set()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Let later queues have their turn while this thread waits for a task of its queue."""
        order, threads, me = self._order, self._order._idle[self._rank], get_ident()
        with order._changed:
            threads[me] = time.monotonic()
        try:
            yield
        finally:
            with order._changed:
                threads.pop(me, None)

    def begin(self, stopping: Event) -> bool:
        """Wait until a reserved task may begin; return False if it is to be released."""
        order = self._order
        deadline = time.monotonic() + PATIENCE
        with order._changed:
            order._reserved[self._rank] += 1
            try:
                while not order.may_begin(self._rank):
                    left = deadline - time.monotonic()
                    if stopping.is_set() or left <= 0:
                        return False
                    order._changed.wait(left)
                order._free -= 1
                return True
            finally:
                order._reserved[self._rank] -= 1

    def end(self) -> None:
        """A task that had begun has ended."""
        with self._order._changed:
            self._order._free += 1
            self._order._changed.notify_all()
