"""Log the outages of a storage once per process, whichever threads call the storage.

An outage is logged as one error when it begins, at most one line a minute while it lasts, and
one line when it is over. The code that runs a task logs what the outage means for that task.
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.protocols import Storage
from typing import Any
from typing import TypeVar
from weakref import WeakKeyDictionary
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

T = TypeVar("T")

#: Seconds between two log lines about an outage that lasts.
REMINDER_INTERVAL = 60.0

#: Seconds after an outage in which a failed call is still part of it: connections that were not
#: used meanwhile fail once more. If calls fail for longer, the next outage begins.
SETTLE = 5.0


class Outage:
    """The outages of one storage, called `name` in the log; `clock` gives monotonic seconds."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        #: When calls began to fail; None while they succeed.
        self._since: float | None = None
        #: When a call failed last, and when the last logged outage was over.
        self._failed = self._over = float("-inf")
        #: When this outage was logged last; None if it was not.
        self._logged: float | None = None

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a method of the storage, note whether it is available, return or raise the same."""
        begun = self._clock()
        try:
            result = function(*args, **kwargs)
        except StorageUnavailable as exc:
            self.failed(exc)
            raise
        self.succeeded(begun)
        return result

    def lasts(self) -> bool:
        """Return whether the storage is unavailable: calls have failed and none succeeded since."""
        return self._since is not None

    def failed(self, exc: StorageUnavailable) -> None:
        """Note that a call has failed; log the outage when a line is due."""
        with self._lock:
            self._failed = now = self._clock()
            if self._since is None:
                self._since = now
            first, seconds = self._logged is None, now - self._since
            quiet = SETTLE if first else REMINDER_INTERVAL
            if now - (self._over if first else self._logged or now) < quiet:
                return
            self._logged = now
        # Log the text: a handler that keeps the record must not keep the objects of the traceback.
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
        """Note that a call begun at this monotonic time has succeeded: the outage may be over."""
        # The usual case, without the lock: the completion of a task must not wait for it.
        if self._since is None:
            return
        with self._lock:
            # A call that began before another one failed does not prove that the outage is over.
            if self._since is None or begun < self._failed:
                return
            now = self._clock()
            seconds, logged = now - self._since, self._logged
            self._since = self._logged = None
            if logged is None:
                return
            self._over = now
        logger.info("queue %s: storage available again after %.0f s", self._name, seconds)


def outage_of(storage: Storage) -> Outage:
    """Return the `Outage` of a storage, the same one for all callers in this process."""
    with _lock:
        try:
            found = _outages.get(storage)
            if found is None:
                found = _outages[storage] = Outage(_name_of(storage))
        except TypeError:
            # A third-party storage that is not hashable or weakly referenceable: each caller logs.
            found = Outage(_name_of(storage))
        return found


def after_fork() -> None:
    """Start anew in a forked child: a thread of the parent may have held a lock."""
    global _lock, _outages
    _lock, _outages = threading.Lock(), WeakKeyDictionary()


def _name_of(storage: Storage) -> str:
    # A third-party storage need not have settings.
    return str(getattr(getattr(storage, "settings", None), "queue", type(storage).__name__))


_lock = threading.Lock()
_outages: WeakKeyDictionary[Any, Outage] = WeakKeyDictionary()
