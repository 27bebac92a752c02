"""The admin operations of a local queue, under the lock of its memory."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue import task as states
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskAdmin
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.storages import processes
from collective.taskqueue.storages.local.board import Notices
from collective.taskqueue.storages.local.memory import Memory
from collective.taskqueue.storages.local.record import Record
from collective.taskqueue.storages.search import cursor_at
from collective.taskqueue.storages.search import number_at
from collective.taskqueue.storages.search import SCAN
from collective.taskqueue.task import Action
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import Identity
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from math import inf
from secrets import token_hex
from zope.interface import implementer
import logging
import os
import socket


logger = logging.getLogger("collective.taskqueue")

#: Seconds that a consumer is remembered after its last call.
SEEN = 3600.0


@implementer(ITaskAdmin)
class LocalAdmin:
    """See `ITaskAdmin`."""

    def __init__(self, memory: Memory, publish: Callable[[Notices], None]) -> None:
        self._memory = memory
        self._publish = publish
        self._board = memory.board
        # A cursor of a former process must not be taken for one of this: numbers began anew.
        self._place = f"{memory.settings.queue} {token_hex(8)}"

    def check(self) -> None:
        """Do nothing: memory needs no check."""

    def in_doubt(self, age: float = 0.0) -> list[StagedBatch]:
        with self._memory.changed:
            now = self._memory.monotonic()
            return [
                StagedBatch(batch_id, witness, now - staged, tuple(task.id for task in tasks))
                for batch_id, (tasks, witness, staged) in self._memory.staged.items()
                if now - staged >= age
            ]

    def recover(self) -> list[str]:
        notices: Notices = []
        with self._memory.changed:
            recovered = self._memory.recover(notices)
        self._publish(notices)
        return recovered

    def counts(self, user: str | Identity | None = None) -> dict[State, int]:
        with self._memory.changed:
            self._remove_expired()
            return self._board.counts(user)

    def get(self, task_id: str, brief: bool = False) -> TaskStatus:
        with self._memory.changed:
            return self._record(task_id).status(brief)

    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        with self._memory.changed:
            self._remove_expired()
            page = self._board.lines.page(state, user, start, size) if size else ()
            return [self._board.records[task_id].status(brief=True) for task_id in page]

    def search(self, filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage:
        last = number_at(cursor, self._place, filter)
        found: list[TaskStatus] = []
        with self._memory.changed:
            self._remove_expired()
            for examined, record in enumerate(self._candidates(filter, last)):
                if examined == SCAN or len(found) == size:
                    return TaskPage(tuple(found), cursor_at(last, self._place, filter))
                last = record.sequence
                if filter.matches(record.task, record.state, record.reason):
                    found.append(record.status(brief=True))
        return TaskPage(tuple(found))

    def _candidates(self, filter: TaskFilter, last: int) -> Iterator[Record]:
        """Yield the tasks added after number `last` that may match, in that order."""
        lines, records = self._board.lines, self._board.records
        wanted = set(filter.states)
        if wanted and sum(lines.number(state, filter.user) for state in wanted) <= SCAN:
            few = [records[one] for state in wanted for one in lines.page(state, filter.user)]
            few.sort(key=lambda record: record.sequence)
            yield from (record for record in few if record.sequence > last)
        else:
            yield from (records[task_id] for task_id in lines.after(last, filter.user))

    def _remove_expired(self) -> None:
        # Forget all expired records: a reader must not see any of them.
        while self._board.remove_expired(self._memory.clock()):
            pass

    def consumers(self) -> list[ConsumerStatus]:
        host, pid = socket.gethostname(), os.getpid()
        with self._memory.changed:
            now = self._memory.clock()
            running: dict[str, list[str]] = {}
            for record in self._board.in_state(states.RUNNING):
                running.setdefault(record.consumer or "", []).append(record.id)
            # A consumer that blocks in `reserve` is alive.
            ages = {
                name: 0.0 if self._memory.blocked[name] else now - heard
                for name, heard in self._memory.seen.items()
            }
            self._memory.seen = {name: now - age for name, age in ages.items() if age < SEEN}
            return [
                ConsumerStatus(
                    name,
                    host,
                    pid,
                    ages[name],
                    tuple(running.get(name, ())),
                    name in running or ages[name] < processes.SILENCE,
                )
                for name in sorted(self._memory.seen)
            ]

    def forget_consumer(self, consumer: str) -> None:
        with self._memory.changed:
            self._memory.seen.pop(consumer, None)

    def throughput(self) -> dict[State, int]:
        with self._memory.changed:
            return self._board.throughput(self._memory.clock())

    def cancel(self, task_id: str, reason: str = "cancelled") -> State:
        with self._memory.changed:
            record = self._record(task_id)
            if record.state in states.FINISHED:
                raise ForbiddenTransition(f"task {task_id} has {record.state}, not cancelled")
            self._cancel(record, reason)
            return record.state

    def _cancel(self, record: Record, reason: str = "cancelled") -> None:
        if record.state == states.RUNNING:
            record.cancel_requested = True
        else:
            self._board.withdraw(record)
            self._board.conclude(record, states.CANCELLED, reason, self._memory.clock())
            # Wake a `reserve`, which then sleeps only until the record expires.
            self._memory.changed.notify()

    def retry(self, task_id: str) -> None:
        with self._memory.changed:
            record = self._record(task_id)
            if record.state not in (states.FAILED, states.CANCELLED):
                raise ForbiddenTransition(f"task {task_id} is {record.state}, not queued again")
            newer = self._board.newer(record)
            if newer is not None:
                raise ForbiddenTransition(f"task {task_id}: {newer.id} of its key already waits")
            self._retry(record)

    def _retry(self, record: Record) -> None:
        self._board.revive(record, self._memory.clock())
        self._memory.changed.notify()

    def remove(self, task_id: str) -> None:
        with self._memory.changed:
            record = self._record(task_id)
            if record.state not in states.FINISHED:
                raise ForbiddenTransition(f"task {task_id} is {record.state}, not removed")
            self._board.forget(record)

    def change(
        self, action: Action, task_ids: Sequence[str], states: Collection[State]
    ) -> dict[str, State]:
        act = {"retry": self._retry, "cancel": self._cancel, "remove": self._board.forget}[action]
        changed: dict[str, State] = {}
        with self._memory.changed:
            for task_id in task_ids:
                # The end of a task before it may have removed its record.
                record = self._board.records.get(task_id)
                if record and record.state in states and self._allows(action, record):
                    act(record)
                    changed[task_id] = record.state
        return changed

    def _allows(self, action: Action, record: Record) -> bool:
        if record.state not in ACTIONS[action] or self._is_expired(record):
            return False
        if action == "retry":
            return self._board.newer(record) is None
        return not (record.state == states.RUNNING and record.cancel_requested)

    def run_now(self, task_id: str) -> None:
        with self._memory.changed:
            record = self._record(task_id)
            if record.state == states.SCHEDULED:
                self._board.queue(record, self._memory.clock())
                self._memory.changed.notify()
            elif record.state != states.QUEUED:
                raise ForbiddenTransition(f"task {task_id} is {record.state}, it does not wait")

    def forget_response(self, task_id: str) -> bool:
        with self._memory.changed:
            record = self._record(task_id)
            if record.state not in states.FINISHED:
                raise ForbiddenTransition(f"task {task_id} is {record.state}, not finished")
            return self._board.forget_response(record)

    def clear(self) -> int:
        with self._memory.changed:
            board = self._board
            ids = [*board.lines.page(states.QUEUED), *board.lines.page(states.SCHEDULED)]
            for task_id in ids:
                board.withdraw(board.records[task_id])
                board.forget(board.records[task_id])
        for task_id in ids:
            logger.warning("task %s: its queue was reset, dropped", task_id)
        return len(ids)

    def purge(self, state: State) -> int:
        if state not in states.FINISHED:
            raise ForbiddenTransition(f"{state} is no final state; its tasks cannot be purged")
        with self._memory.changed:
            ids = list(self._board.lines.page(state))
            for task_id in ids:
                self._board.forget(self._board.records[task_id])
        for task_id in ids:
            logger.info("task %s: %s tasks were purged, forgotten", task_id, state)
        return len(ids)

    def pause(self) -> None:
        with self._memory.changed:
            self._memory.paused = True

    def resume(self) -> None:
        with self._memory.changed:
            self._memory.paused = False
            self._memory.changed.notify_all()

    def paused(self) -> bool:
        return self._memory.paused

    def tick(self, schedule: str, at: float, task: Task | None = None, moves: bool = True) -> bool:
        notices: Notices = []
        with self._memory.changed:
            state, now = self._memory.schedules[schedule], self._memory.clock()
            if moves and not state.may_tick(at, now):
                return False
            self._memory.schedules[schedule] = state.ticked(at, task, moves)
            if task is not None:
                self._board.promote(task, None, now, notices)
                self._memory.changed.notify()
        self._publish(notices)
        return True

    def schedule(self, name: str) -> ScheduleState:
        with self._memory.changed:
            return self._memory.schedules[name]._replace(now=self._memory.clock())

    def pause_schedule(self, name: str) -> None:
        with self._memory.changed:
            self._memory.schedules[name] = self._memory.schedules[name]._replace(paused=True)

    def resume_schedule(self, name: str) -> None:
        with self._memory.changed:
            state = self._memory.schedules[name]
            self._memory.schedules[name] = state.resumed(self._memory.clock())

    def _record(self, task_id: str) -> Record:
        record = self._board.records.get(self._board.aliases.get(task_id, task_id))
        if record is None or self._is_expired(record):
            raise UnknownTask(f"no task {task_id} in queue {self._memory.settings.queue}")
        return record

    def _is_expired(self, record: Record) -> bool:
        return (record.forget_at or inf) <= self._memory.clock()
