"""A request that waits until a task is finished: not for long, and not many at a time.

A request of Zope holds a thread of the server and a database connection until it is answered.
So only so many wait; those that come too many are answered at once, and ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.task import TaskStatus
import threading
import time


#: Longest time in seconds that a request waits.
MAX_WAIT = 30.0

#: Requests that wait at the same time, in one process: no more threads and database
#: connections are held than these. A server has four threads by default.
MAX_WAITING = 2

#: Seconds between two looks at the task, at first and at most.
SOONEST = 0.05
LATEST = 0.5

_places = threading.BoundedSemaphore(MAX_WAITING)


def wait_until_finished(look: Callable[[], TaskStatus], seconds: float) -> TaskStatus:
    """Return what `look` says as soon as the task is finished, or `seconds` have passed."""
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
