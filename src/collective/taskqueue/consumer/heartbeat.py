"""The heartbeat of leases and the watchdog of timeouts: renews, interrupts, reports stuck tasks.

One thread per consumer. It sleeps without a limit while no task runs, and otherwise wakes
once per renewal, not once per task.
"""

from __future__ import annotations

from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.storages.protocols import Storage
from math import isfinite
import logging
import sys
import threading
import time
import traceback


logger = logging.getLogger("collective.taskqueue")

#: Seconds between two reports of a task that does not react to its timeout.
STUCK_INTERVAL = 60.0

#: Seconds between two tries to interrupt a task that cannot be interrupted right now.
INTERRUPT_INTERVAL = 0.2

#: About how often a failed renewal is tried again before the lease expires.
RETRIES = 12

#: Seconds between two checks whether a running web hook was cancelled. A task of Zope checks by
#: itself.
CANCEL_INTERVAL = 1.0


class Heartbeat:
    """See the module. `lease` is the length of a lease in seconds."""

    def __init__(self, storage: Storage, lease: float, name: str) -> None:
        self._storage = storage
        self._outage = outage_of(storage)
        self._lease = lease
        #: Seconds between two renewals of a lease.
        self.renewal = lease / 3
        self._name = name
        self._changed = threading.Condition()
        self._running: dict[str, _Watched] = {}
        self._thread: threading.Thread | None = None
        self._stopped = False
        #: Monotonic time of the next check; None while the thread sleeps without a limit.
        self._next: float | None = None

    def watch(self, attempt: Attempt, timed: bool = True) -> _Watched:
        """Return a context manager that watches the attempt; called by the consumer.

        Without `timed` the lease is renewed, but the timeout is not enforced.
        """
        return _Watched(self, attempt, attempt.task.timeout if timed else None)

    def begin(self, watched: _Watched) -> None:
        """Start to watch; called when the block is entered."""
        with self._changed:
            self._running[watched.attempt.lease.token] = watched
            if self._thread is None:
                self._thread = self._started(watched)
            elif self._next is None or watched.soonest() < self._next:
                self._changed.notify()

    def _started(self, watched: _Watched) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            # At a limit of threads, or at the end of the process; the next task tries again.
            logger.error(
                "task %s: no thread can be started (%s), its lease is not renewed",
                watched.attempt.task.id,
                exc,
            )
            return None
        return thread

    def end(self, watched: _Watched) -> None:
        """Stop watching; called when the block is left; more than once does no harm."""
        with self._changed:
            self._running.pop(watched.attempt.lease.token, None)

    def running(self) -> list[Attempt]:
        """Return the attempts that run right now."""
        return [watched.attempt for watched in self.watched()]

    def watched(self) -> list[_Watched]:
        """Return what is known about the attempts that run right now."""
        with self._changed:
            return list(self._running.values())

    def stop(self) -> None:
        """End the thread; called when the consumer stops."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until the thread has ended; called after `stop`."""
        if self._thread is not None:
            self._thread.join(timeout)

    def look(self, now: float) -> None:
        """Do everything that is due at the monotonic time `now`."""
        with self._changed:
            running = list(self._running.values())
        for watched in running:
            if watched.renews <= now:
                watched.renews = now + self._renew(watched)
        for watched in running:
            if watched.asks <= now:
                watched.asks = now + CANCEL_INTERVAL
                watched.attempt.cut_if_cancelled()
            if watched.due <= now:
                # Set first: if `_enforce` fails, it is not tried again at once.
                watched.due = now + INTERRUPT_INTERVAL
                watched.due = now + self._enforce(watched, now)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                soonest = [watched.soonest() for watched in self._running.values()]
                self._next = min((when for when in soonest if isfinite(when)), default=None)
                self._changed.wait(self._next and max(0.0, self._next - time.monotonic()))
                if self._stopped:
                    return
            try:
                self.look(time.monotonic())
            except Exception:
                logger.exception("checking leases and timeouts failed, trying again")

    def _renew(self, watched: _Watched) -> float:
        """Renew the lease of a task; return the seconds until the next renewal."""
        attempt = watched.attempt
        try:
            renewed = self._outage.call(self._storage.renew, attempt.lease, self._lease)
        except Exception as exc:
            if not (watched.unrenewed and isinstance(exc, StorageUnavailable)):
                logger.warning(
                    "task %s: lease not renewed (%s), another consumer may run it",
                    attempt.task.id,
                    exc,
                )
            watched.unrenewed = True
            return self._lease / RETRIES
        watched.unrenewed = False
        if renewed:
            return self.renewal
        # Once the attempt has ended, its outcome may be stored, and that ends the lease, too.
        if not attempt.ended:
            logger.warning(
                "task %s: lease lost while running, its result will be dropped", attempt.task.id
            )
        return float("inf")

    def _enforce(self, watched: _Watched, now: float) -> float:
        """Interrupt a task that is over its timeout; return the seconds until the next check."""
        attempt = watched.attempt
        if attempt.ended:
            return float("inf")
        if watched.overdue is None:
            watched.overdue = now
        elif now - watched.overdue >= STUCK_INTERVAL:
            watched.overdue = now
            watched.interrupted = False
            _report_stuck(watched, now)
        if not watched.interrupted and attempt.interrupt():
            watched.interrupted = True
            logger.warning(
                "task %s: over its timeout of %g s, interrupted",
                attempt.task.id,
                attempt.task.timeout,
            )
        return STUCK_INTERVAL if watched.interrupted else INTERRUPT_INTERVAL


class _Watched:
    """An attempt and the monotonic times at which its next actions are due."""

    # A plain class: a context manager made of a generator would take twice the time per task.

    def __init__(self, heartbeat: Heartbeat, attempt: Attempt, timeout: float | None) -> None:
        now = time.monotonic()
        self._heartbeat = heartbeat
        self.attempt = attempt
        self.thread = threading.get_ident()
        self.started = now
        #: When to renew the lease next.
        self.renews = now + heartbeat.renewal
        self.due = float("inf") if timeout is None else now + timeout
        #: When to check for cancellation next.
        self.asks = now + CANCEL_INTERVAL if attempt.task.is_hook else float("inf")
        #: Since when it is over its timeout, or when that was last reported.
        self.overdue: float | None = None
        self.interrupted = False
        #: The last renewal of its lease has failed, and that was logged.
        self.unrenewed = False

    def __enter__(self) -> None:
        self._heartbeat.begin(self)

    def __exit__(self, *exc_info: object) -> None:
        self._heartbeat.end(self)

    def soonest(self) -> float:
        return min(self.due, self.asks, self.renews)


def _report_stuck(watched: _Watched, now: float) -> None:
    frame = sys._current_frames().get(watched.thread)
    logger.error(
        "task %s: running for %.0f s, cannot be interrupted, its lease is still renewed\n%s",
        watched.attempt.task.id,
        now - watched.started,
        "".join(traceback.format_stack(frame)) if frame else "",
    )
