"""Lets a request wait until a task is finished: for a limited time, and only a few at once.

A request of Zope holds a thread of the server and a database connection until it is answered.
So at most `MAX_WAITING` requests wait; others are answered at once, and the client asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.task import TaskStatus
import threading
import time


#: Longest time in seconds that a request waits.
MAX_WAIT = 30.0

#: Most requests that wait at the same time in one process, each with a thread and a database
#: connection. A server has four threads by default.
MAX_WAITING = 2

#: Seconds between two checks of the task: at first, and at most.
SOONEST = 0.05
LATEST = 0.5

_places = threading.BoundedSemaphore(MAX_WAITING)


def wait_until_finished(look: Callable[[], TaskStatus], seconds: float) -> TaskStatus:
    """Return the status as soon as the task is finished, or `seconds` have passed."""
    status = look()
    if status.finished or seconds <= 0 or not _places.acquire(blocking=False):
        return status
    try:
        deadline = time.monotonic() + min(seconds, MAX_WAIT)
        pause = SOONEST
        while not status.finished and (rest := deadline - time.monotonic()) > 0:
            time.sleep(min(pause, rest))
            pause = min(pause * 1.5, LATEST)
            status = look()
        return status
    finally:
        _places.release()
