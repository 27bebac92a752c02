"""The next transition after an outcome: pure functions, no clock, no storage."""

from __future__ import annotations

from collections.abc import Collection
from collective.taskqueue.config import TRANSIENT_STATUSES
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from dataclasses import replace
import random


#: Share of the pause by which retries are spread, so that they do not all come at once.
JITTER = 0.1

#: Longest pause in seconds, whatever a server asks for: one year.
LONGEST_PAUSE = 366 * 86400.0

_random = random.Random()


def next_transition(
    lease: Lease,
    outcome: Outcome,
    now: float,
    rng: random.Random | None = None,
    since: float | None = None,
) -> Transition:
    """Return the transition that follows from the outcome of one attempt.

    `now`, and `since` when `max_age` began to count (None: when the task was added), are in
    seconds since the epoch. Called by the consumer after each dispatch.
    """
    if outcome.ok:
        return _transition(lease, outcome, SUCCEEDED, "")
    if outcome.verdict == "postpone":
        wait = outcome.retry_after
        due = now + (backoff(lease.task, 1) if wait is None else wait)
        return replace(_transition(lease, outcome, SCHEDULED, outcome.reason, due), counts=False)
    if not _may_be_retried(outcome):
        return _transition(lease, outcome, FAILED, _reason(outcome))
    task = lease.task
    used = lease.counted + 1
    if used >= task.max_attempts:
        reason = _reason(outcome)
        if task.max_attempts > 1:
            reason = f"{reason} (attempt {used} of {task.max_attempts})"
        return _transition(lease, outcome, FAILED, reason)
    due = now + _pause(task, used, outcome, rng or _random)
    begun = task.created if since is None else since
    if task.max_age is not None and due > begun + task.max_age:
        reason = f"{_reason(outcome)} (given up after {task.max_age:g} s)"
        return _transition(lease, outcome, FAILED, reason)
    return _transition(lease, outcome, SCHEDULED, _reason(outcome), due)


def classify(outcome: Outcome, transient: Collection[int]) -> Outcome:
    """Return the outcome with the verdict of its queue, if it is a client error.

    `transient` has the statuses after which that queue tries again. A verdict of the task
    itself is kept. Called after a task was performed, with the setting of its queue.
    """
    if outcome.verdict or outcome.status is None or not 400 <= outcome.status < 500:
        return outcome
    return replace(outcome, verdict="retry" if outcome.status in transient else "discard")


def backoff(task: Task, used: int) -> float:
    """Return the seconds to wait after attempt number `used`, without jitter."""
    if task.backoff == "linear":
        return float(min(task.min_backoff * used, task.max_backoff))
    # The exponent is bounded: 2.0 ** 1024 is an OverflowError.
    return float(min(task.min_backoff * 2.0 ** min(used - 1, 64), task.max_backoff))


def _may_be_retried(outcome: Outcome) -> bool:
    if outcome.verdict:
        return outcome.verdict == "retry"
    status = outcome.status
    if status is None or not 300 <= status < 500:
        return True
    return status in TRANSIENT_STATUSES


def _pause(task: Task, used: int, outcome: Outcome, rng: random.Random) -> float:
    if outcome.retry_after is not None:
        return min(max(0.0, outcome.retry_after), LONGEST_PAUSE)
    return min(backoff(task, used) * rng.uniform(1 - JITTER, 1 + JITTER), task.max_backoff)


def _reason(outcome: Outcome) -> str:
    return outcome.reason or f"status {outcome.status}"


def _transition(
    lease: Lease, outcome: Outcome, state: str, reason: str, due: float | None = None
) -> Transition:
    attempt = AttemptRecord(
        number=lease.attempt,
        consumer=lease.consumer,
        started=outcome.started,
        seconds=outcome.seconds,
        status=outcome.status,
        reason=", ".join(filter(None, ("" if outcome.ok else _reason(outcome), outcome.note))),
        error=outcome.error,
    )
    return Transition(
        state=state,  # type: ignore[arg-type]
        attempt=attempt,
        reason=reason,
        due=due,
        drops_slot=outcome.drops_slot,
        headers=outcome.headers,
        body=outcome.body,
        truncated=outcome.truncated,
    )
