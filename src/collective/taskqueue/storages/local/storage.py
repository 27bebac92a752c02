"""The local storage: the memory of one process, and the reference of the contract.

Volatile by design: a restart loses waiting tasks. Nothing polls: a blocked `reserve` sleeps
until a task is due or the condition is notified. The methods of this file hold the lock. The
board keeps the lists of tasks; admin.py has the operations of admins, under the same lock.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue import task as states
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.interfaces import ITaskStorage
from collective.taskqueue.storages.local.admin import LocalAdmin
from collective.taskqueue.storages.local.board import Notices
from collective.taskqueue.storages.local.memory import Memory
from collective.taskqueue.storages.local.record import Record
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from secrets import token_hex
from zope.interface import implementer
import logging
import time


logger = logging.getLogger("collective.taskqueue")

#: Number of promoted batches to remember; a `promote` is repeated only within seconds.
REMEMBERED_BATCHES = 10_000


@implementer(ITaskStorage)
class LocalStorage:
    """The storage in the memory of one process, see `ITaskStorage`.

    `clock` returns seconds since the epoch. `monotonic` returns seconds that no correction of
    the system clock changes; without it, a `clock` other than `time.time` serves for both.
    """

    def __init__(
        self,
        settings: QueueSettings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self.settings = settings
        self.notify: Callable[[State, str], None] = lambda state, task_id: None
        self._clocks = clock, monotonic or (time.monotonic if clock is time.time else clock)
        self._begin()

    def _begin(self) -> None:
        self._memory = Memory(self.settings, *self._clocks)
        self._board = self._memory.board
        self._changed = self._memory.changed
        self._wakes = 0
        self.admin = LocalAdmin(self._memory, self._publish)

    # adding tasks

    def stage(self, batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None:
        with self._changed:
            self._memory.staged[batch_id] = tuple(tasks), witness, self._memory.monotonic()

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        notices: Notices = []
        with self._changed:
            if batch_id in self._memory.promoted:
                return
            batch = self._memory.staged.pop(batch_id, (tuple(tasks),))[0]
            if not batch:
                # Do not mark as promoted: a later call may still bring the tasks.
                return
            self._remember(batch_id)
            now = self._memory.clock()
            for task in batch:
                self._board.promote(task, tid, now, notices)
            self._changed.notify(len(batch))
        self._publish(notices)

    def discard(self, batch_id: str) -> None:
        with self._changed:
            self._memory.staged.pop(batch_id, None)

    def fail_batch(self, batch_id: str, reason: str) -> None:
        notices: Notices = []
        with self._changed:
            tasks = self._memory.staged.pop(batch_id, ((), None, 0.0))[0]
            if tasks:
                # A later `promote` of the batch does nothing: an admin decides now.
                self._remember(batch_id)
            now = self._memory.clock()
            for task in tasks:
                self._board.fail_batch(task, reason, now, notices)
            self._changed.notify()
        self._publish(notices)

    def _remember(self, batch_id: str) -> None:
        self._memory.promoted[batch_id] = None
        if len(self._memory.promoted) > REMEMBERED_BATCHES:
            self._memory.promoted.popitem(last=False)

    # running tasks

    def reserve(
        self,
        consumer: str,
        limit: int = 1,
        timeout: float | None = None,
        lease: float = 30.0,
        slots: Sequence[str] = (),
    ) -> list[Lease]:
        deadline = None if timeout is None else time.monotonic() + timeout
        wakes = self._wakes
        over = False
        leases: list[Lease] = []
        while not leases and not over:
            notices: Notices = []
            with self._changed:
                try:
                    while not over:
                        now = self._memory.seen[consumer] = self._memory.clock()
                        self._memory.recover(notices)
                        self._board.ripen(now)
                        self._board.remove_expired(now)
                        leases = (
                            []
                            if self._memory.paused
                            else self._take(consumer, limit, lease, now, slots)
                        )
                        if leases or notices:
                            break
                        pause = self._until_next(now, deadline)
                        over = wakes != self._wakes or (pause is not None and pause <= 0)
                        if not over:
                            self._block(consumer, pause)
                finally:
                    # Another waiting thread must watch over these leases. It must also take over
                    # a notification that this thread got but does not use.
                    self._changed.notify()
            if notices:
                # Without the lock, and before this thread waits again.
                self._publish(notices)
        return leases

    def _block(self, consumer: str, pause: float | None) -> None:
        self._memory.blocked[consumer] += 1
        try:
            self._changed.wait(pause)
        finally:
            self._memory.blocked[consumer] -= 1
            self._memory.seen[consumer] = self._memory.clock()

    def wake(self) -> None:
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def renew(self, lease: Lease, seconds: float = 30.0) -> bool:
        with self._changed:
            record = self._holder(lease)
            if record is None:
                return False
            self._memory.seen[lease.consumer] = self._memory.clock()
            record.expires = self._memory.monotonic() + seconds
            return True

    def complete(self, lease: Lease, transition: Transition) -> State | None:
        notices: Notices = []
        with self._changed:
            record = self._holder(lease)
            if record is None:
                return None
            now = self._memory.clock()
            self._board.release(record)
            record.end(transition)
            newer = self._board.newer(record)
            if record.cancel_requested:
                self._board.conclude(record, states.CANCELLED, "cancelled while running", now)
            elif transition.state != states.SCHEDULED:
                self._board.conclude(record, transition.state, transition.reason, now)
            elif newer is not None:
                self._board.supersede(record, newer, now, [])
            else:
                record.counted += transition.counts
                self._board.schedule(record, transition.due or now, now, transition.reason)
            self._changed.notify()
            state = record.state
        if notices:
            self._publish(notices)
        return state

    def release(self, leases: Sequence[Lease]) -> list[str]:
        notices: Notices = []
        waiting: list[str] = []
        with self._changed:
            now = self._memory.clock()
            # Release the last lease first, so that the first task ends up at the very front.
            for lease in reversed(leases):
                record = self._holder(lease)
                if record is not None:
                    self._board.release(record)
                    record.unstart()
                    if self._board.put_back(record, now, notices):
                        waiting.insert(0, record.id)
            self._changed.notify(len(leases))
        self._publish(notices)
        return waiting

    def report(self, lease: Lease, progress: Progress | None = None) -> bool:
        with self._changed:
            record = self._holder(lease)
            if record is None:
                return True
            if progress is not None:
                record.progress = progress
            return record.cancel_requested

    def _take(
        self, consumer: str, limit: int, lease: float, now: float, slots: Sequence[str]
    ) -> list[Lease]:
        leases: list[Lease] = []
        passed = self._memory.monotonic()
        while len(leases) < limit:
            record = self._board.take(now)
            if record is None:
                break
            slot = slots[len(leases)] if len(leases) < len(slots) else None
            leases.append(record.start(consumer, token_hex(16), lease, now, passed, slot))
        return leases

    def _until_next(self, now: float, deadline: float | None) -> float | None:
        """Return the seconds until there may be work without a notification; None if never."""
        pauses = [] if deadline is None else [deadline - time.monotonic()]
        moments = [self._board.next_expiry()]
        first = self._board.lines.first(states.SCHEDULED)
        if first is not None and not self._memory.paused:
            moments.append(first[0][0])
        pauses += [max(moment - now, 0.001) for moment in moments if moment is not None]
        running = [record.expires for record in self._board.in_state(states.RUNNING)]
        if running:
            pauses.append(max(min(running) - self._memory.monotonic(), 0.001))
        return min(pauses, default=None)

    def _holder(self, lease: Lease) -> Record | None:
        record = self._board.records.get(lease.task.id)
        if record is None or record.state != states.RUNNING or record.token != lease.token:
            return None
        return record

    # the process

    def after_fork(self) -> None:
        # The parent process runs the tasks that waited in it.
        self._begin()

    def close(self) -> None:
        self.wake()
        with self._changed:
            board = self._board
            for record in [*board.in_state(states.QUEUED), *board.in_state(states.SCHEDULED)]:
                logger.warning("task %s: %s, lost with this process", record.id, record.state)

    def _publish(self, notices: Notices) -> None:
        for state, task_id in notices:
            self.notify(state, task_id)
