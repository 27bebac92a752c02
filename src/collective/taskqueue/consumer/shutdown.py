"""How long a consumer that was told to stop waits for what still runs."""

from __future__ import annotations

from collections.abc import Callable
import random
import threading
import time


#: Longest pause in seconds after errors that follow one another: five seconds after a storage
#: is back, however long it was away, its consumers are.
MAX_PAUSE = 4.0

#: Seconds between two looks at a thread that has been told to stop.
INTERVAL = 0.25


class Grace:
    """Not begun while the consumer runs; over when it waits no longer."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._hurried = threading.Event()
        #: Monotonic time at which running tasks are waited for no longer.
        self._deadline = float("inf")

    def begin(self, seconds: float) -> None:
        """From now on nothing new begins, and what runs has so many seconds to end."""
        self._deadline = time.monotonic() + seconds
        self.begun.set()

    def hurry(self) -> None:
        """Wait no longer."""
        self._hurried.set()

    def may_try_again(self, errors: int) -> bool:
        """Pause after so many errors in a row; return False once the grace period is over."""
        seconds = pause(errors)
        if not self.begun.wait(seconds):
            return True
        left = self._left()
        return left > 0 and not self._hurried.wait(min(seconds, left))

    def join(self, thread: threading.Thread, wake: Callable[[], None]) -> None:
        """Wait for the thread as long as there is grace; `wake` is called again and again."""
        while thread.is_alive() and self._left() > 0 and not self._hurried.is_set():
            thread.join(min(INTERVAL, self._left()))
            # Once more: the thread may have been on its way to where it blocks.
            wake()

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


def pause(errors: int) -> float:
    """Return the seconds to wait after so many errors in a row: growing, spread, bounded."""
    return random.uniform(0.5, 1.0) * min(0.1 * 2.0 ** min(errors, 10), MAX_PAUSE)
