"""What is logged of the outages of a storage, whichever thread of this process meets them.

One error when an outage begins, at most one line a minute while it lasts, and one line when it
is over. What it means for a particular task is logged by those who run the task.
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.errors import StorageUnavailable
from typing import Any
from typing import TypeVar
from weakref import WeakKeyDictionary
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

T = TypeVar("T")

#: Seconds between two lines about an outage that lasts.
REMINDER_INTERVAL = 60.0

#: Seconds after an outage in which a call that fails is still part of it: connections that were
#: not used meanwhile fail once more. If calls fail for longer, it is the next outage.
SETTLE = 5.0


class Outage:
    """The outages of one storage, called `name` in the log; `clock` gives monotonic seconds."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        #: When calls began to fail; None while they succeed.
        self._since: float | None = None
        #: When one failed last, and when the last outage that was logged was over.
        self._failed = self._over = float("-inf")
        #: When this outage was logged last; None if it was not.
        self._logged: float | None = None

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what a method of the storage returns, raise what it raises, and take note."""
        begun = self._clock()
        try:
            result = function(*args, **kwargs)
        except StorageUnavailable as exc:
            self.failed(exc)
            raise
        self.succeeded(begun)
        return result

    def lasts(self) -> bool:
        """Return whether the last call has failed."""
        return self._since is not None

    def failed(self, exc: StorageUnavailable) -> None:
        """A call has failed: log that, unless it was logged."""
        with self._lock:
            self._failed = now = self._clock()
            if self._since is None:
                self._since = now
            first, seconds = self._logged is None, now - self._since
            quiet = SETTLE if first else REMINDER_INTERVAL
            if now - (self._over if first else self._logged or now) < quiet:
                return
            self._logged = now
        # The text: a handler that keeps the record must not keep what the traceback refers to.
        cause = str(exc)
        if first:
            logger.error("queue %s: storage unavailable (%s), trying again", self._name, cause)
        else:
            logger.warning(
                "queue %s: storage unavailable for %.0f s (%s), trying again",
                self._name,
                seconds,
                cause,
            )

    def succeeded(self, begun: float) -> None:
        """A call has succeeded that began at this monotonic time: the outage may be over."""
        # Nearly always; without the lock, because a task that ends must not wait for it.
        if self._since is None:
            return
        with self._lock:
            # One that was on its way when another failed proves nothing.
            if self._since is None or begun < self._failed:
                return
            now = self._clock()
            seconds, logged = now - self._since, self._logged
            self._since = self._logged = None
            if logged is None:
                return
            self._over = now
        logger.info("queue %s: storage available again after %.0f s", self._name, seconds)


def outage_of(storage: Any) -> Outage:
    """Return the one object of this process that logs the outages of a storage."""
    with _lock:
        try:
            found = _outages.get(storage)
            if found is None:
                found = _outages[storage] = Outage(_name_of(storage))
        except TypeError:
            # A storage of somebody else that cannot be remembered: each caller logs by itself.
            found = Outage(_name_of(storage))
        return found


def after_fork() -> None:
    """Called in a forked child: begin anew, a thread of the parent may have held a lock."""
    global _lock, _outages
    _lock, _outages = threading.Lock(), WeakKeyDictionary()


def _name_of(storage: Any) -> str:
    # A storage of somebody else need not keep its settings.
    return str(getattr(getattr(storage, "settings", None), "queue", type(storage).__name__))


_lock = threading.Lock()
_outages: WeakKeyDictionary[Any, Outage] = WeakKeyDictionary()
