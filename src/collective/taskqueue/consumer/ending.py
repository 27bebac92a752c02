"""The end of an attempt: what of its outcome can be stored, and its line in the log."""

from __future__ import annotations

from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import Transition
from dataclasses import replace
from itertools import chain
import logging


logger = logging.getLogger("collective.taskqueue")


def storable(outcome: Outcome) -> Outcome:
    """Return the outcome without lone surrogates in its texts, which no storage can hold."""
    texts = [outcome.reason, outcome.error, *chain.from_iterable(outcome.headers)]
    if "".join(texts).isascii():
        return outcome
    headers = tuple((_encodable(name), _encodable(value)) for name, value in outcome.headers)
    reason, error = _encodable(outcome.reason), _encodable(outcome.error)
    return replace(outcome, reason=reason, error=error, headers=headers)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def log_end(lease: Lease, transition: Transition, state: State | None) -> None:
    """Log what has become of a task; the state is None if its lease was lost."""
    task_id = lease.task.id
    # The message of an exception may have many lines, and text quoted in it could forge one.
    reason = " ".join(transition.reason.split())
    if state is None:
        logger.warning("task %s: finished after its lease was lost, result dropped", task_id)
    elif state == CANCELLED:
        logger.info("task %s: cancelled while running", task_id)
    elif state == FAILED:
        logger.error("task %s: %s, failed", task_id, reason)
    elif state == SCHEDULED:
        logger.warning(
            "task %s: %s, attempt %d failed, next one in %.1f s",
            task_id,
            reason,
            lease.attempt,
            (transition.due or 0.0) - transition.attempt.started - transition.attempt.seconds,
        )
