"""The shutdown deadline: how long a consumer that was told to stop waits for running tasks."""

from __future__ import annotations

from collections.abc import Callable
import random
import threading
import time


#: Longest pause in seconds after consecutive errors: consumers are back within five seconds after
#: their storage is, however long the outage was.
MAX_PAUSE = 4.0

#: Seconds between two checks of a thread that was told to stop.
INTERVAL = 0.25


class Shutdown:
    """The grace period: begins when the consumer is told to stop, and ends at its deadline."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        #: Whether tasks may begin: not while the consumer rests, and never again once it stops.
        self.takes = True
        self._stopped_waiting = threading.Event()
        #: Monotonic time at which the wait for running tasks ends.
        self._deadline = float("inf")

    def begin(self, seconds: float) -> None:
        """Begin the grace period: no task begins any more, running ones have `seconds` to end."""
        self._deadline = time.monotonic() + seconds
        self.takes = False
        self.begun.set()

    def rest(self) -> None:
        """Let no task begin until `resume`."""
        self.takes = False

    def resume(self) -> None:
        """Let tasks begin again, unless the consumer was told to stop."""
        self.takes = True
        if self.begun.is_set():
            # `begin` in another thread may have come before the line above.
            self.takes = False

    def wait_while_resting(self) -> None:
        """Return after `INTERVAL` seconds, or when the consumer is told to stop."""
        self.begun.wait(INTERVAL)

    def stop_waiting(self) -> None:
        """End the wait now."""
        self._stopped_waiting.set()

    def may_try_again(self, errors: int) -> bool:
        """Pause after so many errors in a row; return False once the grace period is over."""
        seconds = pause(errors)
        if not self.begun.wait(seconds):
            return True
        left = self._left()
        return left > 0 and not self._stopped_waiting.wait(min(seconds, left))

    def join(self, thread: threading.Thread, wake: Callable[[], None]) -> None:
        """Wait for the thread until the grace period is over; call `wake` again and again."""
        while thread.is_alive() and self._left() > 0 and not self._stopped_waiting.is_set():
            thread.join(min(INTERVAL, self._left()))
            # Again: the thread may have been about to block.
            wake()

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


def pause(errors: int) -> float:
    """Return the seconds to wait after so many errors in a row: growing, random, bounded."""
    return random.uniform(0.5, 1.0) * min(0.1 * 2.0 ** min(errors, 10), MAX_PAUSE)
