"""The views that the measured tasks call."""

from Products.Five.browser import BrowserView
from queue import SimpleQueue
import time


#: When each task on `Stamp` came to its first line, by the clock of `time.perf_counter`.
stamps: SimpleQueue[float] = SimpleQueue()


class Noop(BrowserView):
    """Does nothing."""

    def __call__(self) -> str:
        return "nothing"


class Stamp(BrowserView):
    """Tells when it was called."""

    def __call__(self) -> str:
        stamps.put(time.perf_counter())
        return "stamped"
