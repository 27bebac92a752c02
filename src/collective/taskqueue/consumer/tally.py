"""How many attempts the consumers of this process have finished, by the state that followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collective.taskqueue.task import State
import threading


class Tally:
    """Counts since the process has started; may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[State | None] = Counter()
        self._alarms: list[tuple[int, Callable[[], object]]] = []

    def add(self, state: State | None) -> None:
        """Count one attempt; the state is None if its lease was lost."""
        with self._lock:
            self._counts[state] += 1
            due = self._due()
        for call in due:
            call()

    def alarm(self, number: int, call: Callable[[], object]) -> None:
        """Call a function once when so many attempts are finished, now if they are already.

        The thread that has finished the attempt calls it, before it takes another task.
        """
        with self._lock:
            self._alarms.append((number, call))
            due = self._due()
        for each in due:
            each()

    def counts(self) -> dict[State | None, int]:
        """Return the number of attempts by state."""
        with self._lock:
            return dict(self._counts)

    def _due(self) -> list[Callable[[], object]]:
        total = self._counts.total()
        due = [call for number, call in self._alarms if number <= total]
        self._alarms = [(number, call) for number, call in self._alarms if number > total]
        return due


#: Of this process.
tally = Tally()
