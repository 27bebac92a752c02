"""Limits how many tasks of one user wait in a queue, if they are added over HTTP."""

from __future__ import annotations

from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.services.refusal import Refusal
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED


#: Seconds after which a refused client may try again.
RETRY_AFTER = 60


def require_capacity(queue: Queue, user: Identity | None, wanted: int = 1) -> int:
    """Return how many of the `wanted` tasks of the user may be queued.

    Raise a `Refusal` if `max_waiting_per_person` tasks of the user wait in the queue.

    A storage cannot tell tasks of Anonymous from other tasks without a user. So Anonymous is
    refused when that many tasks of all users wait in the queue. Called before the tasks are
    queued; concurrent requests do not see each other, so that a few more may get in.
    """
    limit = queue.settings.max_waiting_per_person
    if not limit:
        return wanted
    counts = queue.counts(user)
    waiting = counts[QUEUED] + counts[SCHEDULED]
    waiting += sum(user in (None, task.user) for task in pending(queue))
    if waiting >= limit:
        whose = "tasks of yours" if user is not None else "tasks"
        raise Refusal(
            429,
            f"{waiting} {whose} wait in the queue, and {limit} may; try again later.",
            **{"Retry-After": str(RETRY_AFTER)},
        )
    return min(wanted, limit - waiting)
