"""A redelivered task: an earlier delivery, whose process was lost, may have committed.

The slot of the task shows it, see `publisher.slot`. If the slot is there, the attempt ends as the
lost process would have reported it, and the task does not run again.
"""

from __future__ import annotations

from collections.abc import Collection
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from dataclasses import replace
from typing import NamedTuple
from typing import Protocol
import logging


logger = logging.getLogger("collective.taskqueue")

#: What the history says of an attempt whose outcome was found in its slot.
COMMITTED = "committed by a worker that was lost"


class Found(NamedTuple):
    """What is at the object id of a slot: nothing, the slot with its outcome, or another object.

    The slot has no outcome if the view has committed by itself: the rest may not have run.
    """

    is_there: bool = False
    is_slot: bool = False
    outcome: Outcome | None = None
    #: Nothing is there, but a pack may have removed it.
    may_be_packed: bool = False

    def ended(self) -> Outcome | None:
        """Return the outcome with which the attempt has committed; None if that is unknown."""
        if self.outcome is None:
            return None
        return replace(self.outcome, committed=True, note=COMMITTED)


class Slots(Protocol):
    """The slots of one database."""

    def take(self, number: int) -> list[str]:
        """Return references to as many slots that no task has."""

    def put_back(self, references: Collection[str]) -> None:
        """Take back references that no task was given."""

    def find(self, reference: str, task_id: str) -> Found:
        """Return what is at the object id of the slot of a task."""


def look(slots: Slots | None, lease: Lease) -> tuple[Outcome | None, str | None]:
    """Return how an attempt ends without being run, or None; and the slot that it may use.

    Called before each attempt.
    """
    if slots is None or lease.slot is None or lease.task.is_hook:
        return None, None
    if lease.attempt == 1:
        return None, lease.slot
    try:
        found = slots.find(lease.slot, lease.task.id)
    except ValueError as exc:
        logger.warning("task %s: its slot is damaged (%s), it runs at least once", _id(lease), exc)
        return None, None
    except Exception as exc:
        reason = f"the database with its slot cannot be read ({type(exc).__name__})"
        return Outcome(None, reason, verdict="postpone"), None
    if not found.is_there:
        if found.may_be_packed:
            logger.warning(
                "task %s: a pack may have removed its slot, it may run twice", _id(lease)
            )
        return None, lease.slot
    ended = found.ended()
    if ended is not None:
        logger.warning("task %s: %s, not run again", _id(lease), COMMITTED)
        return ended, None
    why = (
        "its view had committed by itself before its process was lost"
        if found.is_slot
        else "another object has the place of its slot"
    )
    logger.warning("task %s: %s, it may run twice", _id(lease), why)
    return None, None


def _id(lease: Lease) -> str:
    return lease.task.id
