"""Consumer threads sleep in `reserve`; a notifier wakes them after a change."""

from __future__ import annotations

from collections.abc import Callable
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds between two tries to listen to a database that is unavailable.
PAUSE = 1.0


class Notifier:
    """Wakes sleeping threads of this process: one for each change, all of them on `wake`.

    `listen` runs in a thread of its own, started when a thread sleeps for the first time. Its
    argument is this notifier: it calls `ring` when another process may have changed something.
    """

    def __init__(self, listen: Callable[[Notifier], None]) -> None:
        self._listen = listen
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._asleep = threading.Condition(lock)
        #: Threads that sleep now.
        self.sleepers = 0
        #: Set by `close`: the listening thread ends.
        self.stopped = threading.Event()
        self._thread: threading.Thread | None = None
        #: Grows with each change; a thread that has seen this value has missed no change.
        self.changes = 0
        #: Grows when all sleeping threads have to return.
        self.wakes = 0

    def ring(self) -> None:
        """Count a change, and wake one sleeping thread to look for tasks."""
        with self._changed:
            self.changes += 1
            self._changed.notify()

    def wake(self) -> None:
        """Let all sleeping threads return."""
        with self._changed:
            self.wakes += 1
            self._changed.notify_all()

    def sleep(self, seconds: float, changes: int, wakes: int) -> None:
        """Sleep until `changes` or `wakes` is outdated, for at most `seconds`.

        They are the caller's copies of the counters: return at once if one has grown since.
        """
        with self._changed:
            if self._thread is None and not self.stopped.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="taskqueue-listen", daemon=True
                )
                self._thread.start()
            if self.changes == changes and self.wakes == wakes:
                self.sleepers += 1
                self._asleep.notify()
                try:
                    self._changed.wait(seconds)
                finally:
                    self.sleepers -= 1

    def rest(self, seconds: float) -> bool:
        """Wait `seconds`, then until a thread sleeps; return whether `stopped` is set.

        Called by a `listen` that polls: it need not poll while no thread sleeps.
        """
        if not self.stopped.wait(seconds):
            with self._changed:
                while not (self.sleepers or self.stopped.is_set()):
                    self._asleep.wait()
        return self.stopped.is_set()

    def close(self) -> None:
        """End the thread; called at exit."""
        with self._changed:
            self.stopped.set()
            self._asleep.notify()
        self.wake()
        if self._thread is not None:
            self._thread.join(PAUSE)

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                self._listen(self)
            except Exception as exc:
                logger.debug("cannot listen to the database (%s), trying again", exc)
                # The woken consumer asks the database, and reports that it is unavailable.
                self.ring()
                self.stopped.wait(PAUSE)


class Debounced:
    """Calls `call` at once, but not more often than once in `interval` seconds.

    Calls within an interval are merged into one call at its end.
    """

    def __init__(self, call: Callable[[], None], interval: float) -> None:
        self._call = call
        self._interval = interval
        self._lock = threading.Lock()
        self._calling = threading.Lock()
        self._closed = False
        self._last = float("-inf")
        self._timer: threading.Timer | None = None

    def __call__(self) -> None:
        with self._lock:
            if self._timer is not None or self._closed:
                return
            rest = self._last + self._interval - time.monotonic()
            if rest > 0:
                self._timer = threading.Timer(rest, self._late)
                self._timer.daemon = True
                self._timer.start()
                return
            self._last = time.monotonic()
        self._call_once()

    def close(self) -> None:
        """Cancel a pending call and wait for a running one; called at exit."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        with self._calling:
            return

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            self._last = time.monotonic()
        self._call_once()

    def _call_once(self) -> None:
        with self._calling:
            if not self._closed:
                self._call()
