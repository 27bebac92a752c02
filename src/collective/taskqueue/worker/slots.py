"""The places of a supervisor: each has one worker process, or waits for the next one."""

from __future__ import annotations

from collective.taskqueue.worker.child import Child
from dataclasses import dataclass
import time


#: Seconds of the first pause before a process that died is replaced; it doubles up to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

#: A process that lived for so many seconds did not die of its start.
LONG_LIFE = 60.0


@dataclass
class Slot:
    """One of the processes of ``--processes``."""

    number: int
    child: Child | None = None
    #: Takes the place of the child as soon as it has loaded Zope.
    successor: Child | None = None
    #: How many processes in a row have died soon.
    deaths: int = 0
    #: Monotonic time of the next start.
    due: float = 0.0
    #: With --burst: its queues are empty.
    done: bool = False

    def children(self) -> list[Child]:
        """Return the processes of this place."""
        return [child for child in (self.child, self.successor) if child is not None]

    def starts(self, now: float) -> bool:
        """Return whether a process is to be started now."""
        return not self.done and not self.children() and self.due <= now

    def has_started(self) -> bool:
        """Return whether its process has loaded Zope."""
        return self.done or (self.child is not None and self.child.loaded)

    def buried(self, child: Child) -> float:
        """Note that the process has died; return the seconds until the next one starts."""
        now = time.monotonic()
        self.deaths = 1 if now - child.started >= LONG_LIFE else self.deaths + 1
        pause = min(FIRST_PAUSE * 2.0 ** (min(self.deaths, 20) - 1), LONGEST_PAUSE)
        self.due = now + pause
        return pause
