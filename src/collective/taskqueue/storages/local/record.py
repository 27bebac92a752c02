"""The record of one task in the local storage: mutable, guarded by the storage's lock."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import Lease
from collective.taskqueue.task import NO_SLOT
from collective.taskqueue.task import Progress
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from dataclasses import replace
from itertools import chain
from typing import Any


#: Most attempts, and most changes of state, that a record keeps: the latest ones.
HISTORY = 100

#: Bytes of a record without its large fields.
WEIGHT = 500

#: The place of a task in a line: its number, and before it the due time if it is scheduled.
#: No two tasks of a line have the same place.
Place = int | tuple[float, int]


class Record:
    """One task, its state and its history."""

    __slots__ = (
        "aliases",
        "attempts",
        "cancel_requested",
        "changes",
        "consumer",
        "counted",
        "expires",
        "forget_at",
        "forgotten",
        "id",
        "last",
        "ledgers",
        "lost",
        "number",
        "place",
        "progress",
        "reason",
        "sequence",
        "size",
        "slot",
        "started",
        "state",
        "task",
        "tid",
        "token",
    )

    def __init__(self, task: Task, tid: bytes | None, sequence: int) -> None:
        self.task = task
        self.id = task.id
        self.tid = tid
        #: A number that grows with each added task.
        self.sequence = sequence
        self.state: State = QUEUED
        self.reason = ""
        self.changes: list[tuple[State, float]] = []
        #: The lists that contain the task, see indexes.py, and its place in the line of its state.
        self.ledgers: Sequence[Any] = ()
        self.place: Place | None = None
        #: Bytes of the finished record; 0 before.
        self.size = 0
        self.token: str | None = None
        self.slot: str | None = None
        self.consumer: str | None = None
        self.started = 0.0
        #: By the monotonic clock; all other times are seconds since the epoch.
        self.expires = 0.0
        self.forget_at: float | None = None
        #: Attempts so far; attempts that count for `max_attempts`; lost attempts.
        self.number = 0
        self.counted = 0
        self.lost = 0
        self.attempts: list[AttemptRecord] = []
        self.last: Transition | None = None
        self.forgotten = False
        self.progress: Progress | None = None
        self.cancel_requested = False
        self.aliases: list[str] = []

    def enter(self, state: State, now: float, reason: str = "") -> None:
        self.state = state
        self.reason = reason
        self.token = None
        self.forget_at = None
        self.changes.append((state, now))
        del self.changes[:-HISTORY]

    def start(
        self, consumer: str, token: str, lease: float, now: float, passed: float, slot: str | None
    ) -> Lease:
        """Start an attempt and return its lease, which lasts for `lease` seconds.

        Each delivery of an attempt has the slot of the first one.
        """
        self.token = token
        self.slot = self.slot or slot
        self.consumer = consumer
        self.started = now
        self.expires = passed + lease
        self.number += 1
        self.progress = None
        return Lease(
            self.task,
            token,
            consumer,
            self.number,
            self.counted,
            now + lease,
            self.tid,
            self.slot,
            self.lost,
        )

    def unstart(self) -> None:
        """Take back the attempt of a released task that did not start."""
        self.number -= 1
        self.progress = None

    def end(self, transition: Transition) -> None:
        self.last = transition
        if transition.drops_slot or transition.state == SUCCEEDED:
            self.slot = None
        self.forgotten = False
        self._remember(transition.attempt)

    def lose(self, now: float) -> None:
        self.lost += 1
        self.slot = self.slot or NO_SLOT
        self._remember(
            AttemptRecord(
                number=self.number,
                consumer=self.consumer or "",
                started=self.started,
                seconds=now - self.started,
                status=None,
                reason="its process was lost",
            )
        )

    def see(self, tid: bytes | None) -> None:
        """Note a transaction that the next attempt must see, too."""
        # Transaction ids grow. Keep the largest: batches may be promoted in another order.
        self.tid = max(self.tid or b"", tid or b"") or None

    def forget_response(self) -> bool:
        found = self.last is not None
        self.forgotten = self.forgotten or found
        self.last = None
        return found

    def renew_budget(self) -> None:
        self.counted = 0
        self.lost = 0
        self.cancel_requested = False

    def drop_payload(self) -> None:
        if self.task.payload:
            self.task = replace(self.task, payload=b"")

    def weight(self) -> int:
        """Return roughly how many bytes the record takes, counting the large fields."""
        task, last = self.task, self.last
        size = WEIGHT + len(task.payload) + len(task.url) + len(self.reason) + _size(task.headers)
        for attempt in self.attempts:
            size += len(attempt.reason) + len(attempt.error)
        return size if last is None else size + len(last.body) + _size(last.headers)

    def status(self, brief: bool = False) -> TaskStatus:
        last = self.last
        status = TaskStatus(
            task=replace(self.task, payload=b"") if brief and self.task.payload else self.task,
            state=self.state,
            reason=self.reason,
            changes=tuple(self.changes),
            due=self.place[0] if isinstance(self.place, tuple) else None,
            consumer=self.consumer,
            attempts_made=self.number - (self.state == RUNNING),
            progress=self.progress,
            cancel_requested=self.cancel_requested,
            status=last.attempt.status if last else None,
            forgotten=self.forgotten,
        )
        if brief:
            return status
        status = replace(status, attempts=tuple(self.attempts))
        if last is None:
            return status
        return replace(status, headers=last.headers, body=last.body, truncated=last.truncated)

    def _remember(self, attempt: AttemptRecord) -> None:
        self.attempts.append(attempt)
        del self.attempts[:-HISTORY]


def _size(headers: Iterable[tuple[str, str]]) -> int:
    return sum(map(len, chain.from_iterable(headers)))
