"""The statements by which a SQL queue completes attempts: one by one, or many at once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.storages.sql.schema import NUMBERS
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.states import entering
from collective.taskqueue.storages.sql.states import name_of
from collective.taskqueue.storages.sql.states import quoted
from collective.taskqueue.storages.sql.states import sane
from collective.taskqueue.storages.sql.states import seconds
from collective.taskqueue.storages.sql.states import weight
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from sqlalchemy import and_
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import case
from sqlalchemy import cast
from sqlalchemy import ColumnElement
from sqlalchemy import CTE
from sqlalchemy import Double
from sqlalchemy import false
from sqlalchemy import func
from sqlalchemy import Integer
from sqlalchemy import LargeBinary
from sqlalchemy import literal_column
from sqlalchemy import null
from sqlalchemy import or_
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import true
from sqlalchemy import Update
from sqlalchemy import update
from sqlalchemy.dialects.postgresql import JSON
from typing import Any


#: The parameters of a completion, and the type of each. `place_` is for many at once only.
GIVEN: dict[str, Any] = {
    "id_": Text,
    "token_": Text,
    "done_": Text,
    "state_": Text,
    "reason_": Text,
    "attempt": Text,
    "due_": Double,
    "counts_": Integer,
    "drops_slot_": Integer,
    "status_": Integer,
    "last_": LargeBinary,
    "place_": BigInteger,
}

#: The expressions that stand for them in a statement.
Given = Mapping[str, ColumnElement[Any]]


class Completion:
    """See the module. `now` and `number` are expressions: the time, and the next number."""

    def __init__(self, now: ColumnElement[float], number: ColumnElement[int]) -> None:
        self._now = now
        self._number = number

    def one(self, *held: ColumnElement[bool]) -> Update:
        """Return the statement that completes the attempt for which all conditions are true."""
        return self._finish(_single(), *held)

    def many(self, many: Any, given: Given) -> Update:
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
        finish = self.many(many, _numbered(many.given()))
        ended = _ended(finish)
        return _both(ended, claim([_once(ended)]))

    def _finish(self, given: Given, *held: ColumnElement[bool]) -> Update:
        """Return the update that completes attempts; as cancelled if that was asked for."""
        # A damaged value of `cancel` counts as not asked for.
        cancelled = TASK.c.cancel.is_(true())
        asked = given["state_"]
        state = case((cancelled, name_of(CANCELLED)), else_=asked)
        again = and_(TASK.c.cancel.is_not(true()), asked == name_of(SCHEDULED))
        succeeded = and_(TASK.c.cancel.is_not(true()), asked == name_of(SUCCEEDED))
        keep = case((succeeded, seconds("keep_succeeded")), else_=seconds("keep_failed"))
        drops = or_(succeeded, given["drops_slot_"] == literal_column("1"))
        reason = case((cancelled, quoted("cancelled while running")), else_=given["reason_"])
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
                token=null(),
                done=given["done_"],
                place=given.get("place_", self._number),
                due=case((again, cast(given["due_"], Double)), else_=null()),
                expires=null(),
                counted=sane(TASK.c.counted) + given["counts_"],
                status=given["status_"],
                last=given["last_"],
                payload=payload,
                forgotten=false(),
                # An attempt that has committed nothing leaves its slot to the next one: the
                # process of an earlier delivery may be alive, and must not commit beside it.
                slot=case((drops, null()), else_=TASK.c.slot),
                forget_at=case((again, null()), else_=self._now + func.coalesce(TASK.c.keep, keep)),
                ended=self._now,
                size=weight(history, given["last_"], payload),
            )
        )


def _single() -> dict[str, ColumnElement[Any]]:
    """Return the parameters of a statement that completes one attempt."""
    return {name: bindparam(name, type_=kind) for name, kind in GIVEN.items() if name != "place_"}


def _numbered(given: Given) -> Given:
    """Return the same rows in their order, each with a new, larger number as its place."""
    rows = select(*(value.label(name) for name, value in given.items()))
    ordered = rows.order_by(given["place_"]).subquery("ordered").c
    values = [ordered[name] for name in GIVEN if name != "place_"]
    found = select(*values, NUMBERS.next_value().label("place_")).cte("given")
    return dict(found.prefix_with("MATERIALIZED", dialect="postgresql").c)


def _ended(finish: Update) -> CTE:
    """Return the statement that completes many attempts as a CTE, a part of another statement."""
    return finish.returning(TASK.c.done).cte("ended")


def _once(ending: CTE) -> ColumnElement[bool]:
    """Return a condition that is true once `ending` has completed the attempts.

    So the completion locks its rows before the claim does.
    """
    return select(func.count()).select_from(ending).scalar_subquery() >= literal_column("0")


def _both(ending: CTE, claim: Update) -> Select[Any]:
    """Return the statement that does both; it returns a row at least.

    Each row has `done` of all completed attempts, or NULL if all were completed. NULL keeps the
    answer small: it comes in one piece, and each row would repeat them.
    """
    every = func.count() == bindparam("count_", type_=Integer)
    some = func.coalesce(func.json_agg(ending.c.done), cast(quoted("[]"), JSON))
    found = case((every, null()), else_=some)
    tokens = select(found.label("ended")).select_from(ending).subquery("tokens")
    claimed = claim.cte("claimed")
    both = select(tokens.c.ended, claimed).select_from(tokens.outerjoin(claimed, true()))
    # Sorted, no row is sent before the last one is there.
    return both.order_by(claimed.c.place)
