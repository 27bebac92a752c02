"""A redelivered task: an earlier delivery, whose process was lost, may have committed.

The slot of the task shows it, see `publisher.slot`. If the slot is there, the attempt ends as the
lost process would have reported it, and the task does not run again.
"""

from __future__ import annotations

from collections.abc import Collection
from collective.taskqueue.task import Lease
from collective.taskqueue.task import NO_SLOT
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
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
    #: The slot is not there, but a pack may have removed it.
    may_be_packed: bool = False

    def ended(self) -> Outcome | None:
        """Return the outcome with which the attempt has committed; None if that is unknown."""
        if self.outcome is None:
            return None
        return replace(self.outcome, drops_slot=True, note=COMMITTED)


class Slots(Protocol):
    """The slots of one database."""

    def take(self, number: int) -> list[str]:
        """Return references to as many slots that no task has."""

    def put_back(self, references: Collection[str]) -> None:
        """Take back references that no task was given."""

    def find(self, reference: str, task: Task) -> Found:
        """Return what is at the object id of the slot of a task."""


class Before(NamedTuple):
    """What earlier deliveries of an attempt have left.

    `outcome` ends the attempt without a run; None lets it run, with `slot` if it has one. With
    `drops_slot` the storage is to forget the slot: it is used up, or of no use.
    """

    outcome: Outcome | None = None
    slot: str | None = None
    drops_slot: bool = False


def look(slots: Slots | None, lease: Lease, max_deliveries: float) -> Before:
    """Return what earlier deliveries have left; called before each attempt but the first.

    A task that was lost `max_deliveries` times is delivered for this alone: it does not run.
    """
    before = _before(slots, lease)
    if before.outcome is None and lease.lost >= max_deliveries:
        reason = f"its process was lost {lease.lost} times"
        return before._replace(outcome=Outcome(None, reason, verdict="discard"))
    return before


def _before(slots: Slots | None, lease: Lease) -> Before:
    if lease.task.is_hook:
        # A web hook may be called twice. Its receiver recognises the task by its id.
        return Before()
    if slots is None:
        in_doubt = lease.is_redelivered and lease.task.once
        return Before(_in_doubt(lease, "its consumer has no slots") if in_doubt else None)
    if lease.slot is None:
        return Before()
    if lease.slot == NO_SLOT:
        why = "it had no slot when its process was lost"
        return Before(_in_doubt(lease, why), drops_slot=True)
    try:
        found = slots.find(lease.slot, lease.task)
    except ValueError as exc:
        return Before(_in_doubt(lease, f"its slot is damaged ({exc})"), drops_slot=True)
    except Exception as exc:
        reason = f"the database with its slot cannot be read ({type(exc).__name__})"
        return Before(Outcome(None, reason, verdict="postpone"))
    return _after(lease, found)


def taken() -> Outcome:
    """Return the outcome of an attempt that cannot commit: another object has its place.

    The next attempt gets another slot. That happens if the process, or the server of the
    database, was restarted after it had allocated the object id, and before the commit.
    """
    reason = "another object has the place of its slot, it gets another one"
    return Outcome(None, reason, verdict="postpone", retry_after=0.0, drops_slot=True)


def _after(lease: Lease, found: Found) -> Before:
    """Return what the earlier deliveries have left, by what is at the object id of the slot."""
    ended = found.ended()
    if ended is not None:
        logger.warning("task %s: %s, not run again", lease.task.id, COMMITTED)
        return Before(ended, drops_slot=True)
    if found.is_slot:
        why = "its view had committed by itself before its process was lost"
        return Before(_in_doubt(lease, why), drops_slot=True)
    if found.may_be_packed and lease.is_redelivered:
        in_doubt = _in_doubt(lease, "a pack may have removed its slot")
        if in_doubt is not None:
            return Before(in_doubt, drops_slot=True)
    if found.is_there:
        return Before(taken(), drops_slot=True)
    return Before(slot=lease.slot)


def _in_doubt(lease: Lease, why: str) -> Outcome | None:
    """Return the outcome of a task that must not run twice; None for others: these may."""
    if lease.task.once:
        reason = f"{why}, so it may have been done; a person has to decide"
        return Outcome(None, reason, verdict="discard")
    logger.warning("task %s: %s, it runs again and may be done twice", lease.task.id, why)
    return None
