"""The desk of a consumer whose storage is remote.

A background thread, the clerk, reports completed attempts and prefetches tasks, both in batches.
It flushes a completed attempt within a moment. It prefetches as many tasks as the consumer has
completed within the last moments, and releases those that cannot begin soon.

If the storage is a library in this process, a thread that comes for its next task does the flush:
two computing threads would only take the interpreter's lock from each other. The clerk does the
flush if no thread comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from collective.taskqueue.consumer.desk import Completion
from collective.taskqueue.consumer.desk import Desk
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import Lease
from collective.taskqueue.task import State
from functools import partial
from math import inf
from typing import Any
from typing import NamedTuple
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Maximum number of prefetched tasks.
HELD = 256

#: Prefetch window in seconds, by the clock of `_busy`: prefetch as many tasks as were completed in
#: it. The window is 1.5 times the delay of a completion if that is longer.
HORIZON = 0.1

#: Flush when completed >= SHARE * prefetched.
SHARE = 3

#: Seconds that a thread sleeps before its next task, to let the clerk run: nearly none.
MOMENT = 1e-5

#: Seconds that a prefetched task waits for a thread before it is released.
PATIENCE = 0.25

#: How often the clerk reports a completion that the storage refuses; then a new thread does.
REFUSALS = 2


class Held(NamedTuple):
    """A prefetched task, and two times of the monotonic clock."""

    lease: Lease
    #: The lease did not begin earlier.
    since: float
    #: When the task was prefetched.
    arrived: float


class BusyDesk(Desk):
    """See the module; its storage is an `IRemoteStorage`."""

    _storage: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        lock = threading.Lock()
        #: `_work` wakes the clerk; `_news` wakes the other threads after a round trip.
        self._work = threading.Condition(lock)
        self._news = threading.Condition(lock)
        #: Prefetched tasks, oldest first.
        self._hand: deque[Held] = deque()
        self._ends: deque[Completion] = deque()
        #: Tokens of the leases that the threads hold, and whether each is redelivered.
        self._taken: dict[str, bool] = {}
        #: How many threads wait in the storage and not here.
        self._away = 0
        #: How many threads wait for the storage, and the seconds that all together have waited,
        #: minus the times at which the threads that still wait began to.
        self._waiting = 0
        self._waited = 0.0
        #: When the last attempts were completed, by the clock of `_busy`.
        self._recent: deque[float] = deque(maxlen=HELD + 1)
        #: When the oldest completion in `_ends` was added, by the monotonic clock.
        self._first = 0.0
        self._deliveries: int = self._storage.settings.max_deliveries
        #: Seconds that a completion waits for others while more tasks are prefetched. Then a
        #: thread flushes; the clerk does it if no thread comes that may flush.
        self._delay: float = self._storage.delay
        self._most: int = self._storage.most
        #: Whether the threads flush by themselves.
        self._nearby = bool(self._storage.in_process and self._settings.concurrent_limit)
        self._under_way = False
        self._closed = False
        self._clerk: threading.Thread | None = None

    def take(self, timeout: float | None = None) -> list[Lease]:
        if self._nearby:
            self._go()
        with self._work:
            lease = self._from_hand()
            clerk_works = self._under_way or self._is_pressing()
            away = lease is None and not self._shutdown.begun.is_set()
            self._away += away
        if not away:
            if clerk_works:
                # The clerk waits for the interpreter's lock again after each call of a driver,
                # and starts its wait anew whenever this thread gives up the lock for a system
                # call. Those moments are too short for the clerk to get the lock.
                time.sleep(MOMENT)
            return [] if lease is None else [lease]
        leases: list[Lease] = []
        try:
            leases = super().take(timeout)
        finally:
            with self._work:
                self._away -= 1
                leases = [lease for lease in leases if not self._holds_back(lease)]
                for lease in leases:
                    self._note_taken(lease)
        return leases

    def _go(self) -> None:
        """Do the flush that the clerk would do now."""
        with self._work:
            if self._under_way or not self._is_pressing():
                return
            errand = self._errand()
            self._begin_wait()
        brought: list[Held] = []
        try:
            brought = self._visit(*errand)
        finally:
            with self._work:
                self._end_wait()
                self._return_with(brought)

    def _from_hand(self) -> Lease | None:
        """Return the next prefetched lease; None if there is none and none is on its way."""
        while not self._shutdown.begun.is_set():
            if self._hand and self._may_begin(self._hand[0]):
                lease = self._hand.popleft().lease
                self._note_taken(lease)
                return lease
            # Without `concurrent_limit` the clerk prefetches nothing to wait for.
            if not self._hand and not (self._settings.concurrent_limit and self._has_unsaid()):
                break
            # A flush may be due: a task was taken, or no other completion is expected.
            self._work.notify()
            self._wait()
        return None

    def _wait(self) -> None:
        self._begin_wait()
        try:
            self._news.wait()
        finally:
            self._end_wait()

    def _begin_wait(self) -> None:
        self._waiting += 1
        self._waited -= time.monotonic()

    def _end_wait(self) -> None:
        self._waiting -= 1
        self._waited += time.monotonic()

    def _busy(self) -> float:
        """Return monotonic time minus the mean seconds that a thread waited for the storage."""
        now = time.monotonic()
        waited = self._waited + self._waiting * now
        return now - waited / (self._settings.concurrent_limit or 1)

    def _has_unsaid(self) -> bool:
        return bool(self._ends) or self._under_way

    def _may_begin(self, held: Held) -> bool:
        if time.monotonic() - held.since > self._settings.lease / 3:
            # The storage was unavailable for so long that the lease may expire before renewal.
            return False
        # A redelivered task may crash the process: flush all completions before it begins.
        return not (_is_redelivered(held.lease) and self._has_unsaid())

    def _holds_back(self, lease: Lease) -> bool:
        """Whether a lease that a thread reserved itself has to wait, too: see `_may_begin`."""
        limited = bool(self._settings.concurrent_limit)
        if not (limited and _is_redelivered(lease) and self._has_unsaid()):
            return False
        self._put_in_hand([lease])
        return True

    def _put_in_hand(self, leases: Sequence[Lease]) -> None:
        now = time.monotonic()
        self._hand.extendleft(Held(lease, now, now) for lease in reversed(leases))
        self._work.notify()

    def _note_taken(self, lease: Lease) -> None:
        self._taken[lease.token] = _is_redelivered(lease)

    def end(self, completion: Completion) -> None:
        with self._work:
            if not self._closed and self._has_clerk(completion):
                self._taken.pop(completion.lease.token, None)
                self._recent.append(self._busy())
                self._ends.append(completion)
                if len(self._ends) == 1:
                    self._first = time.monotonic()
                if len(self._ends) == 1 or (self._is_pressing() and not self._nearby):
                    # Otherwise the timeout of the clerk ends soon enough.
                    self._work.notify()
                return
        self.drop(completion.lease)
        super().end(completion)

    def drop(self, lease: Lease) -> None:
        with self._work:
            self._taken.pop(lease.token, None)

    def release(self, leases: Sequence[Lease]) -> None:
        with self._work:
            if self._is_staffed():
                # The clerk releases these in order with its own.
                self._put_in_hand(leases)
                return
        super().release(leases)

    def _is_staffed(self) -> bool:
        return not self._closed and self._clerk is not None and self._clerk.is_alive()

    def _has_clerk(self, completion: Completion) -> bool:
        if self._clerk is None or not self._clerk.is_alive():
            name = f"taskqueue-{self._settings.queue}-{self._settings.name}-clerk"
            clerk = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                clerk.start()
            except RuntimeError as exc:
                logger.warning(
                    "task %s: no thread can be started (%s), its completion is reported alone",
                    completion.lease.task.id,
                    exc,
                )
                return False
            self._clerk = clerk
        return True

    def wake(self) -> None:
        with self._work:
            self._work.notify()
            self._news.notify_all()

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify()
        if self._clerk is not None:
            self._shutdown.join(self._clerk, self.wake)

    # the clerk

    def _run(self) -> None:
        while True:
            with self._work:
                while self._under_way or not (self._is_its_turn() or self._is_late()):
                    if self._closed and not self._has_unsaid():
                        return
                    self._work.wait(self._pause())
                errand = self._errand()
            brought: list[Held] = []
            try:
                brought = self._visit(*errand)
            finally:
                with self._work:
                    self._return_with(brought)

    def _errand(self) -> tuple[list[Held], list[Completion], int]:
        """Return what to release, what to report, and how many tasks to reserve."""
        back = self._take_back()
        ends = [self._ends.popleft() for _ in range(min(len(self._ends), self._most))]
        self._under_way = True
        return back, ends, self._wanted()

    def _visit(self, back: Sequence[Held], ends: Sequence[Completion], limit: int) -> list[Held]:
        """Make that round trip to the storage, and return the prefetched tasks."""
        try:
            if back:
                until = min(held.since for held in back) + self._settings.lease
                self._release([held.lease for held in back], until)
            if ends:
                return self._complete_and_reserve(ends, limit)
        except BaseException:
            logger.exception(
                "%d completed attempts may be unreported, their leases expire", len(ends)
            )
            # Otherwise their leases would be renewed for ever.
            for completion in ends:
                completion.release()
        return []

    def _return_with(self, brought: Sequence[Held]) -> None:
        self._hand.extend(brought)
        self._under_way = False
        self._work.notify()
        self._news.notify_all()

    def _is_pressing(self) -> bool:
        """Whether completed attempts are to be flushed now."""
        enough = len(self._ends) >= min(SHARE * len(self._hand), self._most)
        if enough or self._shutdown.begun.is_set() or self._all_wait():
            return bool(self._ends)
        return bool(self._ends) and time.monotonic() >= self._first + self._delay

    def _all_wait(self) -> bool:
        """Whether no other attempt will complete: for one, a redelivered task is next."""
        return self._waiting + self._away >= (self._settings.concurrent_limit or inf)

    def _is_its_turn(self) -> bool:
        """Whether the clerk is to flush completed attempts now."""
        if self._may_expect_others():
            return bool(self._ends) and time.monotonic() >= self._first + self._longest()
        return self._is_pressing()

    def _may_expect_others(self) -> bool:
        """Whether a thread may come for its next task, and flush by itself."""
        return self._nearby and not self._waiting and not self._shutdown.begun.is_set()

    def _longest(self) -> float:
        """Return the seconds after which the clerk flushes a completion in any case."""
        return self._delay * (2 if self._may_expect_others() else 1)

    def _is_late(self) -> bool:
        """Whether the oldest prefetched task has waited too long."""
        if not self._hand:
            return False
        return self._shutdown.begun.is_set() or time.monotonic() >= self._hand[0].arrived + PATIENCE

    def _pause(self) -> float | None:
        """Return the seconds until the clerk must flush or release; None if neither is due."""
        if self._under_way:
            # A thread is on a round trip, and notifies the clerk when it is back.
            return None
        moments = [self._first + self._longest()] if self._ends else []
        if self._hand:
            moments.append(self._hand[0].arrived + PATIENCE)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _take_back(self) -> list[Held]:
        late = list(self._hand) if self._is_late() else []
        if late:
            self._hand.clear()
        return late

    def _wanted(self) -> int:
        """Return how many tasks to reserve: one for each free thread, and some to prefetch."""
        threads = self._settings.concurrent_limit
        if not threads or self._shutdown.begun.is_set():
            return 0
        ahead = 0
        if self._may_hold():
            since = self._busy() - max(HORIZON, 1.5 * self._delay)
            # Minus the one that was completed just now, however long it took.
            ahead = sum(moment > since for moment in self._recent) - 1
        free = threads - len(self._taken) - self._away
        return max(0, min(self._most, free + max(0, ahead) - len(self._hand)))

    def _may_hold(self) -> bool:
        """Whether to prefetch: a prefetched task loses a delivery if the process crashes."""
        held = any(_is_redelivered(held.lease) for held in self._hand)
        return not held and not any(self._taken.values()) and self._deliveries > 1

    def _complete_and_reserve(self, ends: Sequence[Completion], limit: int) -> list[Held]:
        pairs = [(completion.lease, completion.transition) for completion in ends]
        name, lease = self._settings.name, self._settings.lease
        since = 0.0

        def complete_and_reserve() -> tuple[list[State | None], list[Lease]] | None:
            nonlocal since
            # Before any of the leases can have begun.
            since = time.monotonic()
            try:
                found: tuple[list[State | None], list[Lease]]
                found = self._storage.complete_and_reserve(pairs, name, limit, lease)
            except StorageUnavailable:
                raise
            except Exception as exc:
                self._log_failure(ends, exc, 1)
                return [], []
            return found

        found = self._until_done(ends, complete_and_reserve)
        if found is not None and len(found[0]) < len(ends):
            # One by one: a completion that the storage cannot hold must not block the others.
            for completion in ends:
                self._hand_in_alone(completion)
            return []
        self._settle(ends, None if found is None else found[0])
        now = time.monotonic()
        return [] if found is None else [Held(lease, since, now) for lease in found[1]]

    def _hand_in_alone(self, completion: Completion) -> None:
        try:
            self._finish(completion, REFUSALS)
        except Exception:
            name = f"taskqueue-{self._settings.queue}-{completion.lease.task.id}-end"
            finish = partial(self._finish, completion)
            try:
                threading.Thread(target=finish, name=name, daemon=True).start()
            except RuntimeError:
                finish()


def _is_redelivered(lease: Lease) -> bool:
    # Redelivered: an earlier attempt has not ended as counted; its process may have crashed.
    return lease.attempt - lease.counted > 1
