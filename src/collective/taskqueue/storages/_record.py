"""What the local storage holds of one task: mutable, guarded by the storage's lock."""

from __future__ import annotations

from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition


#: Attempts and changes of state a record holds; the oldest give way.
HISTORY = 100

#: Skipped tasks whose ids lead to the one that waits; the oldest give way.
ALIASES = 1000


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
        "last",
        "lost",
        "number",
        "place",
        "progress",
        "reason",
        "started",
        "state",
        "task",
        "tid",
        "token",
        "turn",
    )

    def __init__(self, task: Task, tid: bytes | None) -> None:
        self.task = task
        self.tid = tid
        self.state: State = QUEUED
        self.reason = ""
        self.changes: list[tuple[State, float]] = []
        #: Key in the storage's tree of scheduled tasks.
        self.place: tuple[float, int] | None = None
        #: Grows along the line of waiting tasks.
        self.turn = 0
        self.token: str | None = None
        self.consumer: str | None = None
        self.started = 0.0
        #: By the clock that nobody sets; all other times are seconds since the epoch.
        self.expires = 0.0
        self.forget_at: float | None = None
        #: Dispatches so far; those that count against `max_attempts`; those lost.
        self.number = 0
        self.counted = 0
        self.lost = 0
        self.attempts: list[AttemptRecord] = []
        self.last: Transition | None = None
        self.forgotten = False
        self.progress: Progress | None = None
        self.cancel_requested = False
        self.aliases: list[str] = []

    @property
    def id(self) -> str:
        return self.task.id

    def enter(self, state: State, now: float, reason: str = "") -> None:
        self.state = state
        self.reason = reason
        self.place = None
        self.token = None
        self.forget_at = None
        self.changes.append((state, now))
        del self.changes[:-HISTORY]

    def start(self, consumer: str, token: str, lease: float, now: float, passed: float) -> Lease:
        self.enter(RUNNING, now)
        self.token = token
        self.consumer = consumer
        self.started = now
        self.expires = passed + lease
        self.number += 1
        self.progress = None
        return Lease(self.task, token, consumer, self.number, self.counted, now + lease, self.tid)

    def unstart(self) -> None:
        """It has not begun after all."""
        self.number -= 1
        self.progress = None

    def end(self, transition: Transition) -> None:
        self.last = transition
        self.forgotten = False
        self._remember(transition.attempt)

    def lose(self, now: float) -> None:
        self.lost += 1
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
        """Whoever runs the task must see that transaction, too."""
        # Ids of transactions grow; the order in which batches are promoted may be another.
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

    def status(self) -> TaskStatus:
        last = self.last
        return TaskStatus(
            task=self.task,
            state=self.state,
            reason=self.reason,
            changes=tuple(self.changes),
            due=self.place[0] if self.place else None,
            consumer=self.consumer,
            attempts=tuple(self.attempts),
            progress=self.progress,
            cancel_requested=self.cancel_requested,
            status=last.attempt.status if last else None,
            headers=last.headers if last else (),
            body=last.body if last else b"",
            truncated=last.truncated if last else False,
            forgotten=self.forgotten,
        )

    def _remember(self, attempt: AttemptRecord) -> None:
        self.attempts.append(attempt)
        del self.attempts[:-HISTORY]
