"""The statements by which a SQL queue completes attempts: one by one, or many at once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.storages.sql import bulk
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.states import entering
from collective.taskqueue.storages.sql.states import sane
from collective.taskqueue.storages.sql.states import seconds
from collective.taskqueue.storages.sql.states import weight
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from sqlalchemy import and_
from sqlalchemy import case
from sqlalchemy import cast
from sqlalchemy import ColumnElement
from sqlalchemy import Double
from sqlalchemy import false
from sqlalchemy import func
from sqlalchemy import literal
from sqlalchemy import null
from sqlalchemy import Select
from sqlalchemy import Text
from sqlalchemy import true
from sqlalchemy import Update
from sqlalchemy import update
from typing import Any


class Completion:
    """See the module. `now` and `number` are expressions: the time, and the next number."""

    def __init__(self, now: ColumnElement[float], number: ColumnElement[int]) -> None:
        self._now = now
        self._number = number

    def one(self, *held: ColumnElement[bool]) -> Update:
        """Return the statement that completes the attempt for which all conditions are true."""
        return self._finish(bulk.single(), *held)

    def many(self, many: Any, given: Mapping[str, Any]) -> Update:
        """Return the statement that completes many attempts, except those asked to be cancelled.

        Its number of changed rows does not tell which ones were left out.
        """
        # A task that has a token is running.
        held = *many.of(given), TASK.c.token == given["token_"]
        return self._finish(given, *held, TASK.c.cancel.is_not(true()))

    def complete_and_reserve(
        self, many: Any, claim: Callable[[Sequence[ColumnElement[bool]]], Update]
    ) -> Select[Any]:
        """Return the statement that completes many attempts, then claims tasks.

        `claim` returns the claim, given the conditions that make it come second. The claim does
        not see the completions: these have no key.
        """
        finish = self.many(many, bulk.numbered(many.given()))
        ended = bulk.ended(finish)
        return bulk.complete_and_reserve(ended, claim([bulk.once(ended)]))

    def _finish(self, given: Mapping[str, Any], *held: ColumnElement[bool]) -> Update:
        """Return the update that completes attempts; as cancelled if that was asked for."""
        # A damaged value of `cancel` counts as not asked for.
        cancelled = TASK.c.cancel.is_(true())
        asked = given["state_"]
        state = case((cancelled, literal(CANCELLED, Text)), else_=asked)
        again = and_(TASK.c.cancel.is_not(true()), asked == SCHEDULED)
        succeeded = and_(TASK.c.cancel.is_not(true()), asked == SUCCEEDED)
        keep = case((succeeded, seconds("keep_succeeded")), else_=seconds("keep_failed"))
        reason = case((cancelled, literal("cancelled while running", Text)), else_=given["reason_"])
        history = TASK.c.history + given["attempt"]
        # A succeeded task cannot be retried: it needs no payload.
        payload = case((succeeded, null()), else_=TASK.c.payload)
        return (
            update(TASK)
            .where(*held)
            .values(
                state=state,
                reason=reason,
                changes=TASK.c.changes + entering(state, self._now),
                history=history,
                token=None,
                done=given["done_"],
                place=given.get("place_", self._number),
                due=case((again, cast(given["due_"], Double)), else_=null()),
                expires=None,
                counted=sane(TASK.c.counted) + given["counts_"],
                status=given["status_"],
                last=given["last_"],
                payload=payload,
                forgotten=false(),
                forget_at=case((again, null()), else_=self._now + func.coalesce(TASK.c.keep, keep)),
                ended=self._now,
                size=weight(history, given["last_"], payload),
            )
        )
