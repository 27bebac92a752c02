"""The desk of a consumer whose storage is far away.

It has a clerk, a thread that hands in many ends at once and brings as many new tasks, while
the others go on. What has ended is on its way in a moment; what is brought ahead is what the
consumer began within the last moments, and goes back if it cannot begin soon.

If the storage is a library in this process, a thread that comes for its next task goes there
itself: two that compute would only take the interpreter's lock from each other. The clerk goes
if nobody comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from collective.taskqueue.consumer.desk import Desk
from collective.taskqueue.consumer.desk import Ending
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

#: Most tasks that are held.
HELD = 256

#: What is reserved ahead is what was done in so many seconds before, without those in which all
#: threads waited for the storage; or in half as many again as ends wait for others, if more.
HORIZON = 0.1

#: Somebody goes to the storage when so many have ended for each that is still held.
SHARE = 3

#: Seconds that a thread sleeps for the clerk before its next task: nearly none.
MOMENT = 1e-5

#: Seconds that a task which was brought ahead waits for a thread before it is given back.
PATIENCE = 0.25

#: How often the clerk tries to hand in what the storage refuses, before somebody else does.
REFUSALS = 2


class Held(NamedTuple):
    """A task that waits at the desk, and two moments of the monotonic clock."""

    lease: Lease
    #: Its lease has not begun before.
    since: float
    #: When it came to the desk.
    arrived: float


class BusyDesk(Desk):
    """See the module; its storage is an `IExchange`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        lock = threading.Lock()
        #: For the clerk: there is work. For the others: the clerk has been at the storage.
        self._work = threading.Condition(lock)
        self._news = threading.Condition(lock)
        #: What was brought ahead, oldest first.
        self._hand: deque[Held] = deque()
        self._ends: deque[Ending] = deque()
        #: The tokens of all that the threads have in their hands.
        self._taken: dict[str, bool] = {}
        #: How many threads wait at the storage and not here.
        self._away = 0
        #: How many threads wait for the storage, and the seconds that all together have waited,
        #: less the moments at which those that still wait began to.
        self._waiting = 0
        self._waited = 0.0
        #: When the last tasks ended, by the clock of `_busy`.
        self._recent: deque[float] = deque(maxlen=HELD + 1)
        #: When the first of the ends was handed in, by the monotonic clock.
        self._first = 0.0
        self._deliveries: int = self._storage.settings.max_deliveries
        #: Seconds that an end waits for others to go with, while there is more to begin; then
        #: somebody goes, the clerk if nobody comes that may.
        self._delay: float = self._storage.delay
        self._most: int = self._storage.most
        #: Whether the threads go to the storage themselves.
        self._nearby = bool(self._storage.nearby and self._settings.concurrent_limit)
        self._under_way = False
        self._closed = False
        self._clerk: threading.Thread | None = None

    def take(self, timeout: float | None = None) -> list[Lease]:
        if self._nearby:
            self._go()
        with self._work:
            lease = self._from_hand()
            clerk_works = self._under_way or self._is_pressing()
            away = lease is None and not self._grace.begun.is_set()
            self._away += away
        if not away:
            if clerk_works:
                # It waits for the interpreter's lock again after each call of a driver, and
                # begins to wait anew whenever this thread gives up the lock for a system call:
                # that is too short to get it.
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
        """Do what the clerk would do now."""
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
        """Return what is next, None if there is nothing, and nothing on its way."""
        while not self._grace.begun.is_set():
            if self._hand and self._may_begin(self._hand[0]):
                lease = self._hand.popleft().lease
                self._note_taken(lease)
                return lease
            # Without a limit the clerk brings nothing that could be waited for.
            if not self._hand and not (self._settings.concurrent_limit and self._has_unsaid()):
                break
            # It may press now, by what was taken, or because nobody else is expected.
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
        """The clock that stands still while all threads wait for the storage."""
        now = time.monotonic()
        waited = self._waited + self._waiting * now
        return now - waited / (self._settings.concurrent_limit or 1)

    def _has_unsaid(self) -> bool:
        return bool(self._ends) or self._under_way

    def _may_begin(self, held: Held) -> bool:
        if time.monotonic() - held.since > self._settings.lease / 3:
            # The storage was away for so long that the lease may be over before it is renewed.
            return False
        # Should it take down the process, then nothing that has ended is lost with it.
        return not (_is_suspect(held.lease) and self._has_unsaid())

    def _holds_back(self, lease: Lease) -> bool:
        """Whether a task that came past the clerk waits here, too: see `_may_begin`."""
        limited = bool(self._settings.concurrent_limit)
        if not (limited and _is_suspect(lease) and self._has_unsaid()):
            return False
        self._put_in_hand([lease])
        return True

    def _put_in_hand(self, leases: Sequence[Lease]) -> None:
        now = time.monotonic()
        self._hand.extendleft(Held(lease, now, now) for lease in reversed(leases))
        self._work.notify()

    def _note_taken(self, lease: Lease) -> None:
        self._taken[lease.token] = _is_suspect(lease)

    def end(self, ending: Ending) -> None:
        with self._work:
            if not self._closed and self._has_clerk(ending):
                self._taken.pop(ending.lease.token, None)
                self._recent.append(self._busy())
                self._ends.append(ending)
                if len(self._ends) == 1:
                    self._first = time.monotonic()
                if len(self._ends) == 1 or (self._is_pressing() and not self._nearby):
                    # Else it looks by itself, soon enough.
                    self._work.notify()
                return
        self.drop(ending.lease)
        super().end(ending)

    def drop(self, lease: Lease) -> None:
        with self._work:
            self._taken.pop(lease.token, None)

    def give_back(self, leases: Sequence[Lease]) -> None:
        with self._work:
            if self._is_staffed():
                # In its order with what the clerk gives back.
                self._put_in_hand(leases)
                return
        super().give_back(leases)

    def _is_staffed(self) -> bool:
        return not self._closed and self._clerk is not None and self._clerk.is_alive()

    def _has_clerk(self, ending: Ending) -> bool:
        if self._clerk is None or not self._clerk.is_alive():
            name = f"taskqueue-{self._settings.queue}-{self._settings.name}-clerk"
            clerk = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                clerk.start()
            except RuntimeError as exc:
                logger.warning(
                    "task %s: no thread can be had (%s), its end is handed in by itself",
                    ending.lease.task.id,
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
            self._grace.join(self._clerk, self.wake)

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

    def _errand(self) -> tuple[list[Held], list[Ending], int]:
        """What to give back, what to hand in, and how many to bring."""
        back = self._take_back()
        ends = [self._ends.popleft() for _ in range(min(len(self._ends), self._most))]
        self._under_way = True
        return back, ends, self._wanted()

    def _visit(self, back: Sequence[Held], ends: Sequence[Ending], limit: int) -> list[Held]:
        """Go to the storage with that, and return what was brought."""
        try:
            if back:
                until = min(held.since for held in back) + self._settings.lease
                self._give_back([held.lease for held in back], until)
            if ends:
                return self._exchange(ends, limit)
        except BaseException:
            logger.exception("the ends of %d tasks may be lost, going on", len(ends))
            # Or else their leases were renewed for ever.
            for ending in ends:
                ending.release()
        return []

    def _return_with(self, brought: Sequence[Held]) -> None:
        self._hand.extend(brought)
        self._under_way = False
        self._work.notify()
        self._news.notify_all()

    def _is_pressing(self) -> bool:
        """Whether what has ended is to be handed in now."""
        enough = len(self._ends) >= min(SHARE * len(self._hand), self._most)
        if enough or self._grace.begun.is_set() or self._all_wait():
            return bool(self._ends)
        return bool(self._ends) and time.monotonic() >= self._first + self._delay

    def _all_wait(self) -> bool:
        """Whether nothing else will end: for one, a task that was lost before is next."""
        return self._waiting + self._away >= (self._settings.concurrent_limit or inf)

    def _is_its_turn(self) -> bool:
        """Whether the clerk is to hand in now what has ended."""
        if self._may_expect_others():
            return bool(self._ends) and time.monotonic() >= self._first + self._longest()
        return self._is_pressing()

    def _may_expect_others(self) -> bool:
        """Whether a thread may come for its next task, and go to the storage itself."""
        return self._nearby and not self._waiting and not self._grace.begun.is_set()

    def _longest(self) -> float:
        """Seconds after which the clerk hands in what has ended, whatever else happens."""
        return self._delay * (2 if self._may_expect_others() else 1)

    def _is_late(self) -> bool:
        """Whether what was reserved ahead has waited too long."""
        if not self._hand:
            return False
        return self._grace.begun.is_set() or time.monotonic() >= self._hand[0].arrived + PATIENCE

    def _pause(self) -> float | None:
        """Seconds until one of both is true, whatever happens; None if neither will be."""
        if self._under_way:
            # A thread is there, and tells when it is back.
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
        """How many tasks to reserve: one for each thread that waits here, and some ahead."""
        threads = self._settings.concurrent_limit
        if not threads or self._grace.begun.is_set():
            return 0
        ahead = 0
        if self._may_hold():
            since = self._busy() - max(HORIZON, 1.5 * self._delay)
            # Less the one that ended just now, however long it took.
            ahead = sum(moment > since for moment in self._recent) - 1
        free = threads - len(self._taken) - self._away
        return max(0, min(self._most, free + max(0, ahead) - len(self._hand)))

    def _may_hold(self) -> bool:
        """Whether a task may be lost with the process although it has not begun."""
        held = any(_is_suspect(held.lease) for held in self._hand)
        return not held and not any(self._taken.values()) and self._deliveries > 1

    def _exchange(self, ends: Sequence[Ending], limit: int) -> list[Held]:
        pairs = [(ending.lease, ending.transition) for ending in ends]
        name, lease = self._settings.name, self._settings.lease
        since = 0.0

        def exchange() -> tuple[list[State | None], list[Lease]] | None:
            nonlocal since
            # Before any of the leases can have begun.
            since = time.monotonic()
            try:
                found: tuple[list[State | None], list[Lease]]
                found = self._storage.exchange(pairs, name, limit, lease)
            except StorageUnavailable:
                raise
            except Exception as exc:
                self._log_failure(ends, exc, 1)
                return [], []
            return found

        found = self._until_done(ends, exchange)
        if found is not None and len(found[0]) < len(ends):
            # One that the storage cannot hold harms no other.
            for ending in ends:
                self._hand_in_alone(ending)
            return []
        self._settle(ends, None if found is None else found[0])
        now = time.monotonic()
        return [] if found is None else [Held(lease, since, now) for lease in found[1]]

    def _hand_in_alone(self, ending: Ending) -> None:
        try:
            self._finish(ending, REFUSALS)
        except Exception:
            name = f"taskqueue-{self._settings.queue}-{ending.lease.task.id}-end"
            finish = partial(self._finish, ending)
            try:
                threading.Thread(target=finish, name=name, daemon=True).start()
            except RuntimeError:
                finish()


def _is_suspect(lease: Lease) -> bool:
    # Not all of its attempts have come to an end that counts: its process may have been lost.
    return lease.attempt - lease.counted > 1
