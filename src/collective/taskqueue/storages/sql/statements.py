"""The statements of the hot path of a SQL queue, built once.

`Statements` is the same for all databases; `now` and `number` are expressions of the
dialect. States stand in the text and not in parameters, so that a planner can match partial
indexes. Each statement has its name here as a comment in its text, for a log of the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from collective.taskqueue.storages.sql.complete import Completion
from collective.taskqueue.storages.sql.dialects.dialect import Dialect
from collective.taskqueue.storages.sql.pages import BRIEF
from collective.taskqueue.storages.sql.pages import LARGE
from collective.taskqueue.storages.sql.pages import Pages
from collective.taskqueue.storages.sql.schema import ALIAS
from collective.taskqueue.storages.sql.schema import BATCH
from collective.taskqueue.storages.sql.schema import PROMOTED
from collective.taskqueue.storages.sql.schema import QUEUE
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.states import ACTIVE
from collective.taskqueue.storages.sql.states import any_row
from collective.taskqueue.storages.sql.states import entering
from collective.taskqueue.storages.sql.states import fresh
from collective.taskqueue.storages.sql.states import HERE
from collective.taskqueue.storages.sql.states import HOUR
from collective.taskqueue.storages.sql.states import name_of
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.states import quoted
from collective.taskqueue.storages.sql.states import sane
from collective.taskqueue.storages.sql.states import seconds
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from sqlalchemy import and_
from sqlalchemy import bindparam
from sqlalchemy import Boolean
from sqlalchemy import cast
from sqlalchemy import ColumnElement
from sqlalchemy import Delete
from sqlalchemy import delete
from sqlalchemy import exists
from sqlalchemy import func
from sqlalchemy import Integer
from sqlalchemy import literal_column
from sqlalchemy import null
from sqlalchemy import or_
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import true
from sqlalchemy import Update
from sqlalchemy import update
from typing import Any


#: Most tasks that one statement deletes, so that other transactions run in between.
PORTION = 1000

#: Most batches in doubt that one statement returns.
DOUBTS = 100

#: All numbers of claims are smaller, unless they are damaged.
CLAIMS = "4000000000000000000"

_LEASE = (
    *("id", "key", "place", "token", "attempts", "counted", "expires", "tid", "slot", "lost"),
    *("body", "payload"),
)

#: Characters of a reference to a slot.
SLOT = 96

#: Characters of changes and of history; the oldest are dropped when there are more.
LONG_CHANGES, LONG_HISTORY = 4000, 40_000

#: The columns that a lease is made of.
LEASED = tuple(TASK.c[name] for name in _LEASE)

#: Whether the history of a task, or its changes, have to be shortened.
_LONG = or_(
    func.length(TASK.c.changes) > literal_column(str(LONG_CHANGES)),
    func.length(TASK.c.history) > literal_column(str(LONG_HISTORY)),
).label("long")

_PAUSED = exists().where(QUEUE.c.name == bindparam("queue_", type_=Text), QUEUE.c.paused)

#: The conditions that a token is still valid.
_HELD = (
    HERE,
    TASK.c.id == bindparam("id_"),
    one_of(RUNNING),
    TASK.c.token == bindparam("token_"),
)


class Statements:
    """See the module. `now` is an expression for the time."""

    def __init__(self, now: ColumnElement[float], dialect: Dialect) -> None:
        self.now = now
        self._number = dialect.number
        self._relaxed = dialect.relaxed
        self._awaited = dialect.awaited
        self.time = select(self.now)
        self._of_batches(dialect.insert)
        self._of_consumers(dialect.serial, dialect.many)
        self._of_people()
        for name, statement in list(vars(self).items()):
            if isinstance(statement, Select | Update | Delete):
                setattr(self, name, statement.prefix_with(f"/* taskqueue: {name} */"))

    def _of_batches(self, insert: Any) -> None:
        mine = BATCH.c.queue == bindparam("queue_")
        age = self.now - BATCH.c.staged
        # Store a batch, or replace it.
        self.stage = self._stage(insert)
        # Delete a batch, and return it.
        self.unstage = (
            delete(BATCH)
            .where(mine, BATCH.c.id == bindparam("batch"))
            .returning(BATCH.c.tasks, self.now)
        )
        # The batches that were staged long ago, a page of them.
        # A batch that was staged in the future, or at no possible time, is damaged: it is old.
        old = or_(age >= seconds("age"), BATCH.c.staged > self.now + HOUR)
        self.in_doubt = (
            select(BATCH.c.id, BATCH.c.witness, age.label("age"), BATCH.c.tasks, BATCH.c.number)
            .where(mine, old, BATCH.c.number > bindparam("after"))
            .order_by(BATCH.c.number)
            .limit(DOUBTS)
        )
        # Record that a batch was promoted or failed; no row if that was recorded before.
        self.mark = self._mark(insert)
        # Delete old records of that.
        self.forget_marks = delete(PROMOTED).where(
            PROMOTED.c.queue == bindparam("queue_"),
            or_(
                PROMOTED.c.since < self.now - seconds("remember"),
                PROMOTED.c.since > self.now + HOUR,
            ),
        )

    def _of_consumers(self, serial: bool, many: Any) -> None:
        # Claim the oldest tasks, unless other work comes first, or a key has to be locked.
        self.claim = self._claim(serial, *self._relaxed)
        # The same after a completion.
        # Not relaxed: it shares its transaction with a completion, which has to be durable.
        self.claim_next = self._claim(serial)
        # The same within a transaction that locks the keys; then also while other work is stuck.
        self.claim_keyed = self._claim(True)
        self.claim_others = self._claim(True, first=False)
        # A task just claimed whose key another running task has.
        self.overtaken = self._overtaken()
        # What this call has claimed before, when its answer was lost.
        self.reserved = self._reserved()
        # What comes next, and when.
        self.look = self._look()
        # Extend a lease.
        self.renew = (
            update(TASK)
            .where(*_HELD)
            .values(expires=self.now + seconds("lease"))
            .returning(TASK.c.consumer, self.now.label("now"))
        )
        # Whether a running task is to be cancelled.
        self.asked = select(TASK.c.cancel).where(*_HELD)
        # Store the progress of a running task.
        self.report = (
            update(TASK)
            .where(*_HELD)
            .values(progress=bindparam("progress_", type_=Text))
            .returning(TASK.c.cancel)
        )
        ends = Completion(self.now, self._number)
        # Complete one attempt.
        self.finish = ends.one(*_HELD).returning(TASK.c.state, self.now.label("now"))
        # Complete many attempts.
        self.complete_many = ends.many(many, many.given())
        # Complete many attempts, then claim tasks.
        self.complete_and_reserve = None
        if many.at_once:
            self.complete_and_reserve = ends.complete_and_reserve(
                many, lambda after: self._claim(serial, after=after)
            )
        several = HERE, TASK.c.id.in_(bindparam("ids", expanding=True))
        done = TASK.c.done, TASK.c.state, self.now.label("now")
        # What tasks have come to by their last completed attempts.
        self.completed = select(*done).where(*several)
        # Lock tasks that are to be released.
        # All transactions lock the rows in the same order, against deadlocks.
        names = ("id", "token", "done", "state", "key", "mode", "cancel", "tid")
        held = select(*(TASK.c[name] for name in names)).where(*several)
        self.held = held.order_by(TASK.c.id).with_for_update()

    def _of_people(self) -> None:
        known = HERE, TASK.c.id == _known(), fresh(self.now)
        # One task; the same without its large columns.
        self.get = select(*BRIEF, *LARGE).where(*known)
        self.get_brief = select(*BRIEF).where(*known)
        responded = TASK.c.last.is_not(None).label("responded")
        columns = TASK.c.id, TASK.c.key, TASK.c.mode, TASK.c.state, responded
        # What is needed to change a task, without and with a lock of its row.
        self.known = select(*columns).where(*known)
        self.lock = self.known.with_for_update()
        self.pages = Pages(self.now)

    def _claim(
        self,
        keyed: bool,
        *relaxed: Any,
        first: bool = True,
        after: Sequence[ColumnElement[bool]] = (),
    ) -> Update:
        """Return the statement that moves the oldest tasks that may run to running.

        With `first` it claims nothing while tasks are due or leases have expired: these come
        first. Unless `keyed`, it claims nothing either if one of the tasks has a key, which has
        to be locked.
        """
        chosen = (
            select(TASK.c.id, TASK.c.key, TASK.c.place, TASK.c.lost)
            .where(*self._may_run(first), *after)
            .order_by(TASK.c.place)
            .limit(bindparam("limit_", type_=Integer))
            .with_for_update(skip_locked=True, of=TASK)
            .cte("chosen")
            .prefix_with("MATERIALIZED", dialect="postgresql")
        )
        wanted = [HERE, TASK.c.id.in_(select(chosen.c.id).where(_harmless(chosen)))]
        if not keyed:
            wanted.append(~exists(select(literal_column("1")).where(chosen.c.key.is_not(None))))
        return (
            update(TASK)
            .where(*wanted)
            .values(
                state=name_of(RUNNING),
                reason=quoted(""),
                changes=TASK.c.changes + entering(RUNNING, self.now),
                due=null(),
                token=bindparam("call", type_=Text) + TASK.c.id,
                consumer=bindparam("consumer_"),
                process=bindparam("process_"),
                claim=_next_claim(),
                started=self.now,
                expires=self.now + seconds("lease"),
                attempts=sane(TASK.c.attempts) + literal_column("1"),
                progress=null(),
                slot=func.coalesce(TASK.c.slot, _slot_of(chosen)),
            )
            .returning(*LEASED, _LONG, *relaxed)
        )

    def _may_run(self, first: bool) -> list[ColumnElement[bool]]:
        conditions = [
            HERE,
            one_of(QUEUED),
            ~_PAUSED,
            *self._awaited,
            or_(TASK.c.key.is_(None), TASK.c.mode != quoted("after_running"), ~_blocked()),
        ]
        if first:
            conditions += [~self._due(TASK.alias("due")), ~self._expired(TASK.alias("running"))]
        return conditions

    def _reserved(self) -> Update:
        """Return the statement that renews the leases of a claim whose answer was lost.

        Tasks that were reserved by another claim since then have another token.
        """
        return (
            update(TASK)
            .where(
                HERE,
                one_of(RUNNING),
                TASK.c.consumer == bindparam("consumer_"),
                TASK.c.token == bindparam("call", type_=Text) + TASK.c.id,
            )
            .values(expires=self.now + seconds("lease"))
            .returning(*LEASED)
        )

    def _overtaken(self) -> Select[Any]:
        """Return the query for a task just claimed that may not run: another of its key does."""
        other = TASK.alias("other")
        return (
            select(TASK.c.id)
            .where(
                HERE,
                one_of(RUNNING),
                TASK.c.token == bindparam("call", type_=Text) + TASK.c.id,
                TASK.c.mode == quoted("after_running"),
                exists().where(
                    other.c.queue == TASK.c.queue,
                    other.c.key == TASK.c.key,
                    one_of(RUNNING, table=other),
                    # Tasks of one claim do not block each other: `_blocked` has checked them.
                    other.c.token != bindparam("call", type_=Text) + other.c.id,
                ),
            )
            .limit(1)
        )

    def _due(self, table: Any) -> ColumnElement[bool]:
        return exists().where(
            table.c.queue == bindparam("queue_", type_=Text),
            one_of(SCHEDULED, table=table),
            table.c.due <= self.now,
        )

    def _expired(self, table: Any) -> ColumnElement[bool]:
        return exists().where(
            table.c.queue == bindparam("queue_", type_=Text),
            one_of(RUNNING, table=table),
            table.c.expires <= self.now,
        )

    def _look(self) -> Select[Any]:
        """Return the query of a consumer that could claim nothing: what comes next, and when."""

        def soonest(state: State, column: str) -> Any:
            table = TASK.alias(column)
            # ORDER BY and LIMIT instead of min(): without statistics of the table a planner
            # might scan all rows for that.
            return (
                select(table.c[column])
                .where(table.c.queue == bindparam("queue_"), one_of(state, table=table))
                .order_by(table.c[column])
                .limit(literal_column("1"))
                .scalar_subquery()
            )

        waits = any_row(TASK.c.place, HERE, one_of(QUEUED))
        return select(
            self.now.label("now"),
            soonest(SCHEDULED, "due").label("due"),
            soonest(RUNNING, "expires").label("expires"),
            waits.label("waits"),
            _PAUSED.label("paused"),
        )

    def _stage(self, insert: Any) -> Any:
        statement = insert(BATCH).values(
            queue=bindparam("queue_"),
            id=bindparam("batch"),
            staged=self.now,
            number=self._number,
            witness=bindparam("witness_"),
            tasks=bindparam("tasks_"),
        )
        # The batch may be staged already, by a call whose answer was lost.
        columns = ("staged", "number", "witness", "tasks")
        return statement.on_conflict_do_update(
            index_elements=[BATCH.c.queue, BATCH.c.id],
            set_={name: statement.excluded[name] for name in columns},
        )

    def _mark(self, insert: Any) -> Any:
        values = {"queue": bindparam("queue_"), "id": bindparam("batch"), "since": self.now}
        return insert(PROMOTED).values(values).on_conflict_do_nothing().returning(PROMOTED.c.id)


def _blocked() -> ColumnElement[bool]:
    """Return the condition that a queued task has to wait for another one of its key."""
    keys = TASK.alias("keys")
    # Of two tasks that one claim would take, the later one waits.
    earlier = and_(keys.c.state == name_of(QUEUED), keys.c.place < TASK.c.place)
    other = exists().where(
        keys.c.queue == TASK.c.queue,
        keys.c.key == TASK.c.key,
        one_of(*ACTIVE, table=keys),
        or_(keys.c.state == name_of(RUNNING), earlier),
    )
    serial = TASK.c.mode == quoted("after_running")
    return and_(TASK.c.key.is_not(None), serial, other)


def _harmless(chosen: Any) -> ColumnElement[bool]:
    """Return the condition that a chosen task may be claimed with the others.

    It comes before the first redelivered task, or is that task and the oldest, or `together`.
    """
    lost = (
        select(func.min(chosen.c.place))
        .where(chosen.c.lost > literal_column("0"))
        .scalar_subquery()
    )
    oldest = select(func.min(chosen.c.place)).scalar_subquery()
    return or_(
        bindparam("together", type_=Boolean) == true(),
        lost.is_(None),
        chosen.c.place < lost,
        chosen.c.place == oldest,
    )


def _slot_of(chosen: Any) -> ColumnElement[str | None]:
    """Return an expression: the slot of a task that has none; the oldest gets the first one."""
    earlier = select(func.count()).where(chosen.c.place < TASK.c.place).scalar_subquery()
    length: ColumnElement[int] = literal_column(str(SLOT))
    start = cast(earlier * length + literal_column("1"), Integer)
    return func.nullif(func.substr(bindparam("slots", type_=Text), start, length), quoted(""))


def _next_claim() -> Any:
    """Return an expression: one more than the largest claim number of the running tasks."""
    others = TASK.alias("others")
    newest = select(
        func.coalesce(func.max(others.c.claim), literal_column("0")) + literal_column("1")
    )
    return newest.where(
        others.c.queue == bindparam("queue_", type_=Text),
        one_of(RUNNING, table=others),
        # After a damaged number there may be no larger one.
        others.c.claim < literal_column(CLAIMS),
    ).scalar_subquery()


def _known() -> ColumnElement[str]:
    """Return the id a task is stored under: its own, or that of the task it is an alias of."""
    alias = select(ALIAS.c.task).where(
        ALIAS.c.queue == bindparam("queue_"), ALIAS.c.id == bindparam("id")
    )
    return func.coalesce(alias.scalar_subquery(), bindparam("id", type_=Text))
