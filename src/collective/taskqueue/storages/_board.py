"""All tasks of a local queue and the lines they stand in; no lock, no clock, no waiting.

records    id → Record              every task that is known
aliases    id → id                  a task skipped for its key → the one that waits
waiting    id → None, in order      state queued
parked     key → id                 state queued, its turn has come, its key still runs
scheduled  tree of (due, n) → id    state scheduled, in the order they fall due
running    id → None, in order      state running
finished   state → id → None        in the order they finished, for the cap in number
ended      minute → state → number  how many came to each final state, for one hour
expiry     heap of (time, n, id)    when finished records are forgotten
keys       key → ids                the waiting and scheduled tasks of a key; more than one
                                    only if one has come back while another waits
"""

from __future__ import annotations

from BTrees.OOBTree import OOBTree
from collections import Counter
from collections import OrderedDict
from collections.abc import Container
from collections.abc import Iterable
from collective.taskqueue import task as states
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages._record import ALIASES
from collective.taskqueue.storages._record import Record
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from itertools import chain
from itertools import count
from itertools import takewhile
from typing import Any
import heapq
import logging


logger = logging.getLogger("collective.taskqueue")

#: A change of state that nobody asked for, to be told to the queue.
News = list[tuple[State, str]]


class Board:
    """See the module. Every method expects the caller to hold the storage's lock."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.records: dict[str, Record] = {}
        self.aliases: dict[str, str] = {}
        self.waiting: OrderedDict[str, None] = OrderedDict()
        self.parked: dict[str, str] = {}
        self.scheduled: Any = OOBTree()
        self.running: OrderedDict[str, None] = OrderedDict()
        self.finished: dict[State, OrderedDict[str, None]] = {
            state: OrderedDict() for state in states.FINISHED
        }
        self.ended: dict[int, Counter[State]] = {}
        self._running_keys: Counter[str] = Counter()
        self._expiry: list[tuple[float, int, str]] = []
        self._keys: dict[str, dict[str, None]] = {}
        self._by_user: dict[str, OrderedDict[str, None]] = {}
        self._number = count()

    # in

    def admit(self, task: Task, tid: bytes | None, now: float, news: News) -> bool:
        """Add a committed task, or not: its key decides. Return whether it was added."""
        if self._is_known(task):
            return False
        same = self._waiting_of(task.key)
        if same and task.on_conflict == "skip":
            self._skip(task, self.records[same[-1]], tid)
            return False
        record = self._create(task, tid)
        for earlier in same:
            self.supersede(self.records[earlier], record, now, news)
        if task.due is not None and task.due > now:
            self.schedule(record, task.due, now)
        else:
            self.queue(record, now)
        return True

    def condemn(self, task: Task, reason: str, now: float, news: News) -> None:
        """Add a task as failed. It stands in no line, so it keeps nothing from running."""
        if self._is_known(task):
            return
        record = self._create(task, None)
        record.enter(states.QUEUED, now)
        self.conclude(record, states.FAILED, reason, now)
        news.append((states.FAILED, task.id))
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
        record = self.records[task.id] = Record(task, tid)
        if task.user is not None:
            self._by_user.setdefault(task.user.id, OrderedDict())[task.id] = None
        return record

    def queue(self, record: Record, now: float, front: bool = False) -> None:
        """Put a task at the end of the line of waiting tasks, or at its front."""
        record.enter(states.QUEUED, now)
        record.turn = -next(self._number) if front else next(self._number)
        self.waiting[record.id] = None
        if front:
            self.waiting.move_to_end(record.id, last=False)
        self._claim_key(record)

    def schedule(self, record: Record, due: float, now: float, reason: str = "") -> None:
        """Let a task wait until it is due."""
        record.enter(states.SCHEDULED, now, reason)
        record.place = (due, next(self._number))
        self.scheduled[record.place] = record.id
        self._claim_key(record)

    def supersede(self, record: Record, newer: Record, now: float, news: News) -> None:
        """Cancel a task because a newer one of its key makes it pointless."""
        self.withdraw(record)
        self.conclude(record, states.CANCELLED, f"replaced by {newer.id}", now)
        newer.see(record.tid)
        news.append((states.CANCELLED, record.id))
        logger.info("task %s: replaced by %s, cancelled", record.id, newer.id)

    def newer(self, record: Record) -> Record | None:
        """Return the waiting task that makes another run of this one pointless."""
        if record.task.on_conflict == "skip":
            return None
        same = self._waiting_of(record.task.key)
        return self.records[same[-1]] if same else None

    def withdraw(self, record: Record) -> None:
        """Take a waiting or scheduled task out of every line it stands in."""
        self.waiting.pop(record.id, None)
        if record.place is not None:
            del self.scheduled[record.place]
            record.place = None
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

    # out

    def ripen(self, now: float) -> None:
        """Queue the scheduled tasks that are due, in the order they fell due."""
        while self.scheduled and self.scheduled.minKey()[0] <= now:
            self.queue(self.records[self.scheduled.pop(self.scheduled.minKey())], now)

    def hasten(self, record: Record, now: float) -> None:
        """Queue a scheduled task that is not due yet."""
        del self.scheduled[record.place]
        self.queue(record, now)

    def take(self) -> Record | None:
        """Take the oldest task that may run out of the line; it is running now."""
        while self.waiting:
            task_id, _ = self.waiting.popitem(last=False)
            record = self.records[task_id]
            key = record.task.key
            serial = record.task.on_conflict == "after_running"
            if key is not None and serial and self._running_keys[key]:
                self.parked[key] = task_id
                continue
            self.withdraw(record)
            self.running[task_id] = None
            if key is not None:
                self._running_keys[key] += 1
            return record
        return None

    def release(self, record: Record) -> None:
        """A task runs no more; what becomes of it is the caller's to say at once."""
        del self.running[record.id]
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
        # Its turn had come while its key ran, so only what came back to the front since
        # then, or was unparked just before, can be older.
        turn = self.records[task_id].turn
        older = list(takewhile(lambda other: self.records[other].turn < turn, self.waiting))
        self.waiting[task_id] = None
        for first in (task_id, *reversed(older)):
            self.waiting.move_to_end(first, last=False)

    def put_back(self, record: Record, now: float, news: News) -> bool:
        """Put a task that was released to the front, unless another run of it is pointless.

        Returns whether it waits again.
        """
        newer = self.newer(record)
        if record.cancel_requested:
            self.conclude(record, states.CANCELLED, "cancelled while running", now)
            news.append((states.CANCELLED, record.id))
        elif newer is not None:
            self.supersede(record, newer, now, news)
        else:
            self.queue(record, now, front=True)
            return True
        return False

    # finished

    def conclude(self, record: Record, state: State, reason: str, now: float) -> None:
        """Give a task its final state, and forget what has been kept long enough."""
        record.enter(state, now, reason)
        self._count_end(state, now)
        line = self.finished[state]
        line[record.id] = None
        keep = record.task.keep
        if keep is None:
            succeeded = state == states.SUCCEEDED
            keep = self.settings.keep_succeeded if succeeded else self.settings.keep_failed
        record.forget_at = now + max(keep, states.LINGER)
        heapq.heappush(self._expiry, (record.forget_at, next(self._number), record.id))
        while self._expiry and self._expiry[0][0] <= now:
            old = self._expired(heapq.heappop(self._expiry))
            if old is not None:
                self.forget(old)
        while len(line) > self.settings.max_finished:
            self.forget(self.records[next(iter(line))])
        if len(self._expiry) > 2 * len(self.records) + 100:
            # Records that gave way long before their time have left their entries behind.
            self._expiry = [entry for entry in self._expiry if self._expired(entry)]
            heapq.heapify(self._expiry)

    def _count_end(self, state: State, now: float) -> None:
        minute = int(now // 60)
        if minute not in self.ended:
            self.ended = {m: ends for m, ends in self.ended.items() if m > minute - 60}
            self.ended[minute] = Counter()
        self.ended[minute][state] += 1

    def _expired(self, entry: tuple[float, int, str]) -> Record | None:
        when, _, task_id = entry
        record = self.records.get(task_id)
        # A task that was retried since then has another entry, or none.
        return record if record is not None and record.forget_at == when else None

    def revive(self, record: Record, now: float) -> None:
        """Queue a finished task again."""
        del self.finished[record.state][record.id]
        record.renew_budget()
        self.queue(record, now)

    def forget(self, record: Record) -> None:
        """Forget a task that stands in no line but that of finished ones."""
        del self.records[record.id]
        for alias in record.aliases:
            del self.aliases[alias]
        if record.state in self.finished:
            self.finished[record.state].pop(record.id, None)
        if record.task.user is not None:
            mine = self._by_user[record.task.user.id]
            del mine[record.id]
            if not mine:
                del self._by_user[record.task.user.id]

    # introspection

    def waiting_number(self) -> int:
        """Return how many tasks are queued."""
        return len(self.waiting) + len(self.parked)

    def counts(self) -> dict[State, int]:
        """Return the number of tasks in each state."""
        return {
            states.QUEUED: self.waiting_number(),
            states.SCHEDULED: len(self.scheduled),
            states.RUNNING: len(self.running),
            **{state: len(line) for state, line in self.finished.items()},
        }

    def throughput(self, now: float) -> dict[State, int]:
        """Return how many tasks came to each final state in the last 60 minutes."""
        recent = [ends for minute, ends in self.ended.items() if minute > now // 60 - 60]
        return {state: sum(ends[state] for ends in recent) for state in states.FINISHED}

    def line(self, state: State | None, user: str | None) -> Iterable[str]:
        """Return the ids of the tasks in a state, or of all, or of one user's."""
        if user is None:
            return self._line(state)
        if state is None:
            return self._by_user.get(user, ())
        mine: Container[str] = self._by_user.get(user, ())
        return (task_id for task_id in self._line(state) if task_id in mine)

    def _line(self, state: State | None) -> Iterable[str]:
        if state is None:
            return self.records
        if state == states.QUEUED:
            return chain(self.parked.values(), self.waiting)
        if state == states.SCHEDULED:
            return self.scheduled.values()
        if state == states.RUNNING:
            return self.running
        return self.finished[state]
