"""Batches the calls of a consumer whose storage is remote.

A background thread reports completed attempts and prefetches tasks, both in one round trip, the
*flush*. A completed attempt is flushed within `delay` seconds of the storage. As many tasks are
prefetched as run in `WINDOW` seconds; those that wait too long for a thread are released.

If the storage is a library in this process, a thread that comes for its next task does the flush:
two computing threads would only take the interpreter's lock from each other. The background
thread does the flush if no thread comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from collective.taskqueue.consumer.calls import Completion
from collective.taskqueue.consumer.calls import StorageCalls
from collective.taskqueue.storages.protocols import RemoteStorage
from collective.taskqueue.task import Lease
from math import inf
from typing import NamedTuple
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Maximum number of prefetched tasks.
MOST = 256

#: Prefetch window in seconds: prefetch as many tasks as run in it, by the last `SAMPLE` attempts.
#: The window is 1.5 times the delay of a completion if that is longer.
WINDOW = 0.1
SAMPLE = 8

#: Flush when completed >= SHARE * prefetched.
SHARE = 3

#: Seconds that a prefetched task waits for a thread before it is released.
PATIENCE = 0.6


class Prefetched(NamedTuple):
    """A prefetched task, and two times of the monotonic clock."""

    lease: Lease
    #: The lease did not begin earlier.
    since: float
    #: When the task was prefetched.
    arrived: float


class Batcher:
    """See the module. Its methods are those of `StorageCalls`."""

    def __init__(self, calls: StorageCalls, storage: RemoteStorage) -> None:
        self._calls = calls
        self._settings = calls.settings
        self._shutdown = calls.shutdown
        self._threads = calls.settings.concurrent_limit or inf
        self._delay = storage.delay
        self._most = storage.most
        #: Seconds after which a lease is too old to begin.
        self._oldest = calls.settings.lease / 3
        self._deliveries = storage.settings.max_deliveries
        #: Whether the threads flush by themselves.
        self._in_process = storage.in_process and self._threads < inf
        lock = threading.Lock()
        #: Wakes the background thread.
        self._work = threading.Condition(lock)
        #: Wakes the other threads after a flush.
        self._flushed = threading.Condition(lock)
        #: Oldest first.
        self._prefetched: deque[Prefetched] = deque()
        self._completed: deque[Completion] = deque()
        #: When the oldest of `_completed` was added, by the monotonic clock.
        self._first = 0.0
        #: Tokens of the leases that the threads run, and whether each is redelivered.
        self._running: dict[str, bool] = {}
        #: Threads that wait for a flush, and threads that wait in the storage.
        self._waiting = self._reserving = 0
        #: Seconds that the last attempts took.
        self._seconds: deque[float] = deque(maxlen=SAMPLE)
        self._flushing = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def take(self, timeout: float | None = None) -> list[Lease]:
        if self._in_process:
            self._flush_if_due()
        with self._work:
            lease = self._next()
            reserves = lease is None and self._shutdown.takes
            self._reserving += reserves
        if reserves:
            return self._reserve(timeout)
        return [] if lease is None else [lease]

    def complete(self, completion: Completion) -> None:
        with self._work:
            if not self._closed and self._has_thread(completion):
                self._running.pop(completion.lease.token, None)
                self._seconds.append(completion.transition.attempt.seconds)
                if not self._completed:
                    self._first = time.monotonic()
                self._completed.append(completion)
                if len(self._completed) == 1 or (self._due_at() == 0.0 and not self._in_process):
                    # Otherwise the wait of the background thread ends soon enough.
                    self._work.notify()
                return
        self.drop(completion.lease)
        self._calls.complete(completion)

    def drop(self, lease: Lease) -> None:
        with self._work:
            self._running.pop(lease.token, None)

    def release(self, leases: Sequence[Lease]) -> None:
        with self._work:
            if not self._closed and self._thread is not None and self._thread.is_alive():
                # The background thread releases these in order with its own.
                self._return(leases)
                return
        self._calls.release(leases)

    def wake(self) -> None:
        with self._work:
            self._work.notify()
            self._flushed.notify_all()

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify()
        if self._thread is not None:
            self._calls.shutdown.join(self._thread, self.wake)

    def _reserve(self, timeout: float | None) -> list[Lease]:
        leases: list[Lease] = []
        try:
            leases = self._calls.take(timeout)
        finally:
            with self._work:
                self._reserving -= 1
                for lease in leases[:]:
                    if self._threads < inf and not self._may_begin(lease):
                        leases.remove(lease)
                        self._return([lease])
                    else:
                        self._running[lease.token] = lease.is_redelivered
        return leases

    def _next(self) -> Lease | None:
        """Return the next prefetched lease; None if there is none and none is on its way."""
        while self._shutdown.takes:
            if self._prefetched:
                lease, since, _ = self._prefetched[0]
                # After a long outage the lease may expire before it is renewed.
                if time.monotonic() < since + self._oldest and self._may_begin(lease):
                    self._prefetched.popleft()
                    self._running[lease.token] = lease.is_redelivered
                    return lease
            elif self._threads == inf or not (self._completed or self._flushing):
                return None
            self._work.notify()
            self._waiting += 1
            try:
                self._flushed.wait()
            finally:
                self._waiting -= 1
        return None

    def _may_begin(self, lease: Lease) -> bool:
        # A redelivered task may crash the process: flush all completions before it begins.
        return not (lease.is_redelivered and (self._completed or self._flushing))

    def _return(self, leases: Sequence[Lease]) -> None:
        now = time.monotonic()
        self._prefetched.extendleft(Prefetched(lease, now, now) for lease in reversed(leases))
        self._work.notify()

    def _has_thread(self, completion: Completion) -> bool:
        if self._thread is None or not self._thread.is_alive():
            name = f"taskqueue-{self._settings.queue}-{self._settings.name}-batcher"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                logger.warning(
                    "task %s: no thread can be started (%s), its completion is reported alone",
                    completion.lease.task.id,
                    exc,
                )
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._work:
                while (pause := self._pause()) is None or pause > 0:
                    if self._closed and not (self._completed or self._flushing):
                        return
                    self._work.wait(pause)
                self._flushing = True
            self._flush()

    def _flush_if_due(self) -> None:
        with self._work:
            if self._flushing or self._due_at() > time.monotonic():
                return
            self._flushing = True
        self._flush()

    def _pause(self) -> float | None:
        """Return the seconds until the background thread has to act; None until notified."""
        if self._flushing:
            return None
        if not self._shutdown.takes and (self._completed or self._prefetched):
            return 0.0
        due = self._due_at()
        if self._in_process and not self._waiting:
            # Another thread may come and do it.
            due = max(due, self._first + 2 * self._delay)
        at = min(due, self._late_at())
        return None if at == inf else at - time.monotonic()

    def _due_at(self) -> float:
        """Return the monotonic time at which completed attempts are to be flushed."""
        if not self._completed:
            return inf
        many = len(self._completed) >= min(SHARE * len(self._prefetched), self._most)
        idle = self._waiting + self._reserving >= self._threads
        return 0.0 if many or idle or not self._shutdown.takes else self._first + self._delay

    def _late_at(self) -> float:
        """Return the monotonic time at which prefetched tasks are to be released."""
        if not self._prefetched:
            return inf
        _, since, arrived = self._prefetched[0]
        # No thread begins an older lease, see `_next`; if it ended, the task would lose a delivery.
        return min(arrived + PATIENCE, since + self._oldest)

    def _flush(self) -> None:
        completions: list[Completion] = []
        leases: list[Lease] = []
        since = 0.0
        try:
            with self._work:
                late = self._take_late()
                number = min(len(self._completed), self._most)
                completions = [self._completed.popleft() for _ in range(number)]
                self._first = time.monotonic()
                limit = self._wanted()
            if late:
                until = min(each.since for each in late) + self._settings.lease
                self._calls.release([each.lease for each in late], until)
            if completions:
                leases, since = self._calls.complete_and_reserve(completions, limit)
        except BaseException:
            logger.exception(
                "%d completed attempts may be unreported, their leases expire", len(completions)
            )
            # Otherwise their leases would be renewed for ever.
            for completion in completions:
                completion.release()
        finally:
            with self._work:
                now = time.monotonic()
                self._prefetched.extend(Prefetched(lease, since, now) for lease in leases)
                self._flushing = False
                self._work.notify()
                self._flushed.notify_all()

    def _take_late(self) -> list[Prefetched]:
        late: list[Prefetched] = []
        if not self._shutdown.takes or self._late_at() <= time.monotonic():
            late = list(self._prefetched)
            self._prefetched.clear()
        return late

    def _wanted(self) -> int:
        """Return how many tasks to reserve: one for each free thread, and some to prefetch."""
        if self._threads == inf or not self._shutdown.takes:
            return 0
        free = self._threads - len(self._running) - self._reserving
        return int(max(0, min(self._most, free + self._ahead() - len(self._prefetched))))

    def _ahead(self) -> float:
        """Return how many tasks to prefetch; each of them loses a delivery in a crash."""
        redelivered = any(each.lease.is_redelivered for each in self._prefetched)
        if redelivered or any(self._running.values()) or self._deliveries <= 1:
            return 0.0
        known = len(self._seconds)
        window = max(WINDOW, 1.5 * self._delay) * self._threads
        ahead = window / max(sum(self._seconds) / max(1, known), window / MOST) - 1
        # Cautious at first: one fast task may be followed by slow ones.
        return max(0.0, ahead if known == SAMPLE else min(ahead, known - 1))
