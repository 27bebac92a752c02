"""Whether the threads of a consumer work: when each was last between two tasks."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
import threading
import time


#: Seconds after which an idle thread that has not come by is stuck: a storage that processes
#: share lets a thread wait for 30 seconds, and a call to it may take its time.
STUCK = 120.0


class Pulse:
    """Each thread says when it comes by; others ask."""

    def __init__(self) -> None:
        #: Monotonic times.
        self._moved: dict[int, float] = {}
        self._resting: set[int] = set()

    def beat(self, rests: bool) -> None:
        """Note that this thread is between two tasks, and whether it rests there."""
        thread = threading.get_ident()
        self._moved[thread] = time.monotonic()
        if rests:
            self._resting.add(thread)
        else:
            self._resting.discard(thread)

    def all_rest(self, threads: Iterable[threading.Thread]) -> bool:
        """Return whether all these threads rest, or have ended."""
        return all(each.ident in self._resting for each in threads if each.is_alive())

    def stuck(
        self, threads: Iterable[threading.Thread], busy: Collection[int], waits: bool
    ) -> list[str]:
        """Return the names of the threads that have ended, or do not come by any more.

        Threads that are `busy` run a task. If the storage lets threads wait for longer, `waits`,
        only those that have ended are stuck.
        """
        now = time.monotonic()
        return [
            each.name
            for each in threads
            if not each.is_alive()
            or (
                not (waits or each.ident in busy)
                and now - self._moved.get(each.ident or 0, now) > STUCK
            )
        ]
