"""All tasks of a local queue and the lists they are in; no lock, no clock, no waiting.

records    id → Record              every known task
aliases    id → id                  a task skipped for its key → the waiting task
lines      see indexes.py            the lists of each state, user and person, in order
waiting    id → None, in order      state queued, their turn has not come
parked     key → id                 state queued, its turn came while another of its key ran
ended      minute → state → number  how many reached each final state, for one hour
expiry     heap of (time, n, id)    when finished records are forgotten
keys       key → ids                the waiting and scheduled tasks of a key; more than one
                                    only if one came back while another waited

Every change of the state of a task calls `_enter` and `_leave`: only they know in which lists
a task is.
"""

from __future__ import annotations

from collections import Counter
from collections import OrderedDict
from collective.taskqueue import task as states
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.local.indexes import Lines
from collective.taskqueue.storages.local.record import Place
from collective.taskqueue.storages.local.record import Record
from collective.taskqueue.task import ALIASES
from collective.taskqueue.task import Identity
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from itertools import count
from itertools import takewhile
from typing import cast
import heapq
import logging


logger = logging.getLogger("collective.taskqueue")

#: Most records that are forgotten at once, so that no thread waits long for the lock.
PORTION = 100

#: Changes of state that no caller asked for, to be passed to `notify` of the storage.
Notices = list[tuple[State, str]]


class Board:
    """All tasks of a queue, see the module. The caller of every method holds the storage's lock."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.records: dict[str, Record] = {}
        self.aliases: dict[str, str] = {}
        self.lines = Lines()
        self.waiting: OrderedDict[str, None] = OrderedDict()
        self.parked: dict[str, str] = {}
        self.ended: dict[int, Counter[State]] = {}
        self._running_keys: Counter[str] = Counter()
        self._expiry: list[tuple[float, int, str]] = []
        self._keys: dict[str, dict[str, None]] = {}
        self._number = count()
        #: Bytes of all finished records.
        self._size = 0

    # adding tasks

    def promote(self, task: Task, tid: bytes | None, now: float, notices: Notices) -> bool:
        """Add a committed task, unless its key skips it. Return whether it was added."""
        if self._is_known(task):
            return False
        same = self._waiting_of(task.key)
        if same and task.on_conflict == "skip":
            self._skip(task, self.records[same[-1]], tid)
            return False
        record = self._create(task, tid)
        for earlier in same:
            self.supersede(self.records[earlier], record, now, notices)
        if task.due is not None and task.due > now:
            self.schedule(record, task.due, now)
        else:
            self.queue(record, now)
        return True

    def fail_batch(self, task: Task, reason: str, now: float, notices: Notices) -> None:
        """Add a task as failed. It is not queued and has no claim on its key: it blocks no task."""
        if self._is_known(task):
            return
        record = self._create(task, None)
        record.enter(states.QUEUED, now)
        self.conclude(record, states.FAILED, reason, now)
        notices.append((states.FAILED, task.id))
        logger.error("task %s: %s, failed", task.id, reason)

    def _is_known(self, task: Task) -> bool:
        known = task.id in self.records or task.id in self.aliases
        if known:
            logger.warning("task %s: is there already, not added again", task.id)
        return known

    def _skip(self, task: Task, earlier: Record, tid: bytes | None) -> None:
        self.aliases[task.id] = earlier.id
        earlier.aliases.append(task.id)
        if len(earlier.aliases) > ALIASES:
            del self.aliases[earlier.aliases.pop(0)]
        earlier.see(tid)
        logger.info("task %s: key %r already waits as %s, skipped", task.id, task.key, earlier.id)

    def _create(self, task: Task, tid: bytes | None) -> Record:
        record = self.records[task.id] = Record(task, tid, next(self._number))
        self.lines.open(record)
        return record

    def _enter(
        self, record: Record, state: State, now: float, place: Place, reason: str = ""
    ) -> None:
        self._leave(record)
        record.enter(state, now, reason)
        record.place = place
        self.lines.enter(record, state, place)

    def _leave(self, record: Record) -> None:
        if record.place is not None:
            self.lines.leave(record, record.state, record.place)
            record.place = None
        if record.size:
            self._size -= record.size
            record.size = 0

    def queue(self, record: Record, now: float, front: bool = False) -> None:
        """Put a task at the end of the waiting tasks, or at their front."""
        turn = -next(self._number) if front else next(self._number)
        self._enter(record, states.QUEUED, now, turn)
        self.waiting[record.id] = None
        if front:
            self.waiting.move_to_end(record.id, last=False)
        self._claim_key(record)

    def schedule(self, record: Record, due: float, now: float, reason: str = "") -> None:
        """Let a task wait until it is due."""
        self._enter(record, states.SCHEDULED, now, (due, next(self._number)), reason)
        self._claim_key(record)

    def supersede(self, record: Record, newer: Record, now: float, notices: Notices) -> None:
        """Cancel a task because a newer one of its key replaces it."""
        self.withdraw(record)
        self.conclude(record, states.CANCELLED, f"replaced by {newer.id}", now)
        newer.see(record.tid)
        notices.append((states.CANCELLED, record.id))
        logger.info("task %s: replaced by %s, cancelled", record.id, newer.id)

    def newer(self, record: Record) -> Record | None:
        """Return the waiting task that replaces another attempt of this one, or None."""
        if record.task.on_conflict == "skip":
            return None
        same = self._waiting_of(record.task.key)
        return self.records[same[-1]] if same else None

    def withdraw(self, record: Record) -> None:
        """Take a waiting or scheduled task out of the waiting, parked and key lists."""
        self.waiting.pop(record.id, None)
        key = record.task.key
        if key is not None:
            if self.parked.get(key) == record.id:
                del self.parked[key]
            same = self._keys.get(key, {})
            same.pop(record.id, None)
            if not same:
                self._keys.pop(key, None)

    def _waiting_of(self, key: str | None) -> list[str]:
        return [] if key is None else list(self._keys.get(key, ()))

    def _claim_key(self, record: Record) -> None:
        if record.task.key is not None:
            self._keys.setdefault(record.task.key, {})[record.id] = None

    # running tasks

    def ripen(self, now: float) -> None:
        """Queue the scheduled tasks that are due, in the order of their due times."""
        while (first := self.lines.first(states.SCHEDULED)) and first[0][0] <= now:
            self.queue(self.records[first[1]], now)

    def take(self, now: float) -> Record | None:
        """Set the oldest waiting task that may run to running, and return it; None if none may."""
        while self.waiting:
            task_id, _ = self.waiting.popitem(last=False)
            record = self.records[task_id]
            key = record.task.key
            serial = record.task.on_conflict == "after_running"
            if key is not None and serial and self._running_keys[key]:
                self.parked[key] = task_id
                continue
            self.withdraw(record)
            self._enter(record, states.RUNNING, now, next(self._number))
            if key is not None:
                self._running_keys[key] += 1
            return record
        return None

    def release(self, record: Record) -> None:
        """Remove a task from the running ones of its key; the caller sets the next state."""
        key = record.task.key
        if key is None:
            return
        self._running_keys[key] -= 1
        if self._running_keys[key]:
            return
        del self._running_keys[key]
        if key in self.parked:
            self._unpark(self.parked.pop(key))

    def _unpark(self, task_id: str) -> None:
        # The turn of the task came while another task of its key ran. So only tasks that came
        # back to the front since then, or were unparked just before, can be older.
        turn = self._turn(task_id)
        older = list(takewhile(lambda other: self._turn(other) < turn, self.waiting))
        self.waiting[task_id] = None
        for first in (task_id, *reversed(older)):
            self.waiting.move_to_end(first, last=False)

    def _turn(self, task_id: str) -> int:
        # A waiting task always has a place.
        return cast(int, self.records[task_id].place)

    def put_back(self, record: Record, now: float, notices: Notices) -> bool:
        """Put a released task back at the front, or cancel it if it must not run again.

        Returns whether it waits again.
        """
        newer = self.newer(record)
        if record.cancel_requested:
            self.conclude(record, states.CANCELLED, "cancelled while running", now)
            notices.append((states.CANCELLED, record.id))
        elif newer is not None:
            self.supersede(record, newer, now, notices)
        else:
            self.queue(record, now, front=True)
            return True
        return False

    # finished

    def conclude(self, record: Record, state: State, reason: str, now: float) -> None:
        """Give a task its final state, and forget expired and surplus records."""
        self._enter(record, state, now, next(self._number), reason)
        if state == states.SUCCEEDED:
            # A task that has succeeded cannot be retried.
            record.drop_payload()
        self._count_end(state, now)
        record.size = record.weight()
        self._size += record.size
        keep = record.task.keep
        if keep is None:
            succeeded = state == states.SUCCEEDED
            keep = self.settings.keep_succeeded if succeeded else self.settings.keep_failed
        record.forget_at = now + max(keep, states.LINGER)
        heapq.heappush(self._expiry, (record.forget_at, next(self._number), record.id))
        if len(self._expiry) > 2 * len(self.records) + 100:
            # Records forgotten long before their time have left stale entries.
            self._expiry = [entry for entry in self._expiry if self._is_current(entry)]
            heapq.heapify(self._expiry)
        self.remove_expired(now)
        while self.lines.number(state) > self.settings.max_finished:
            self.forget(self._oldest(state))

    def remove_expired(self, now: float, limit: int = PORTION) -> bool:
        """Forget expired records, and surplus ones by size in bytes; at most `limit` of them.

        Returns whether there may be more.
        """
        for _ in range(limit):
            if self._expiry and self._expiry[0][0] <= now:
                entry = heapq.heappop(self._expiry)
                if self._is_current(entry):
                    self.forget(self.records[entry[2]])
            elif self._size > self.settings.max_finished_bytes and self._gives_way() <= now:
                self.forget(self._oldest(*states.FINISHED))
            else:
                return False
        return True

    def next_expiry(self) -> float | None:
        """Return when the next record is to be forgotten, seconds since the epoch."""
        while self._expiry and not self._is_current(self._expiry[0]):
            heapq.heappop(self._expiry)
        moments = [self._expiry[0][0]] if self._expiry else []
        if self._size > self.settings.max_finished_bytes:
            moments.append(self._gives_way())
        return min(moments, default=None)

    def _gives_way(self) -> float:
        """Return when the oldest record may be forgotten because all together are too large."""
        # Until then, subscribers to the event can read the record, however large.
        return self._oldest(*states.FINISHED).changes[-1][1] + states.LINGER

    def _oldest(self, *of: State) -> Record:
        firsts = [first for first in map(self.lines.first, of) if first is not None]
        return self.records[min(firsts)[1]]

    def forget_response(self, record: Record) -> bool:
        """Forget the response of a finished task; return whether there was one."""
        found = record.forget_response()
        size = record.weight()
        self._size += size - record.size
        record.size = size
        return found

    def _count_end(self, state: State, now: float) -> None:
        minute = int(now // 60)
        if minute not in self.ended:
            self.ended = {m: ends for m, ends in self.ended.items() if m > minute - 60}
            self.ended[minute] = Counter()
        self.ended[minute][state] += 1

    def _is_current(self, entry: tuple[float, int, str]) -> bool:
        when, _, task_id = entry
        record = self.records.get(task_id)
        # A task that was retried since then has a newer entry, or none.
        return record is not None and record.forget_at == when

    def revive(self, record: Record, now: float) -> None:
        """Queue a finished task again."""
        record.renew_budget()
        self.queue(record, now)

    def forget(self, record: Record) -> None:
        """Forget a task that is not in the waiting, parked and key lists."""
        del self.records[record.id]
        for alias in record.aliases:
            del self.aliases[alias]
        self._leave(record)
        self.lines.close(record)

    # introspection

    def counts(self, user: str | Identity | None = None) -> dict[State, int]:
        """Return the number of tasks in each state."""
        return {state: self.lines.number(state, user) for state in states.STATES}

    def in_state(self, state: State) -> list[Record]:
        """Return all tasks in a state, in their order."""
        return [self.records[task_id] for task_id in self.lines.page(state)]

    def throughput(self, now: float) -> dict[State, int]:
        """Return how many tasks reached each final state in the last 60 minutes."""
        recent = [ends for minute, ends in self.ended.items() if minute > now // 60 - 60]
        return {state: sum(ends[state] for ends in recent) for state in states.FINISHED}
