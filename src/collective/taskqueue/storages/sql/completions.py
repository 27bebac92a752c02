"""Attempts of a SQL queue are completed: one by one, or many together with a claim; or released."""

from __future__ import annotations

from collections.abc import Sequence
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.aftermath import Aftermath
from collective.taskqueue.storages.sql.calls import Call
from collective.taskqueue.storages.sql.calls import Calls
from collective.taskqueue.storages.sql.claim import Claims
from collective.taskqueue.storages.sql.damage import sound_id
from collective.taskqueue.storages.sql.damage import storable
from collective.taskqueue.storages.sql.damage import whole
from collective.taskqueue.storages.sql.schema import indexed
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import LINGER
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import Transition
from sqlalchemy import Connection
from typing import Any
import logging


logger = logging.getLogger("collective.taskqueue")

Ends = Sequence[tuple[Lease, Transition]]

#: The parameters of one completion, by name.
Row = dict[str, Any]


class Completions:
    """See the module; the methods that storage.py does not describe are for this folder."""

    def __init__(
        self, session: Session, calls: Calls, claims: Claims, aftermath: Aftermath
    ) -> None:
        self._session = session
        self._statements = session.statements
        self._calls = calls
        self._claims = claims
        self._aftermath = aftermath
        self._keep = {
            "keep_succeeded": max(session.settings.keep_succeeded, LINGER),
            "keep_failed": max(session.settings.keep_failed, LINGER),
        }

    def complete(self, lease: Lease, transition: Transition) -> State | None:
        """Complete one attempt; return the state of its task, None if the lease was lost."""

        def work(connection: Connection) -> Any:
            replaced: Row = {}
            if keyed:
                self._session.dialect.lock_keys(connection, [indexed(lease.task.key or "")])
                replaced = self._replaced(connection, lease)
            return self._complete_one(connection, values | replaced)

        keyed = _needs_key(lease, transition)
        with self._calls.call(lease.token) as call:
            values = _values(lease.task.id, lease.token, call, transition)
            row = (self._session.write if keyed else self._session.single)(work)
        state: State | None = None if row is None else row.state
        if row is not None:
            self._aftermath.completed([(lease, transition)], [state], row.now)
        return state

    def complete_and_reserve(
        self, ends: Ends, consumer: str, limit: int, seconds: float, slots: Sequence[str]
    ) -> tuple[list[State | None], list[Lease]]:
        """Complete attempts, and claim up to `limit` tasks for `seconds`, in one transaction."""

        def work(connection: Connection) -> list[State | None]:
            return self._complete_all(connection, ends, values)

        def at_once(claim: Row) -> tuple[list[State | None], list[Any]] | None:
            return self._complete_and_claim(ends, values, call, claim)

        with self._calls.call(*[lease.token for lease, _ in ends]) as call:
            values = [_values(lease.task.id, lease.token, call, end) for lease, end in ends]
            simple = not call.sent and self._is_simple(ends)
            states, rows = self._claims.take_after(
                work, consumer, limit, seconds, slots, at_once if simple else None
            )
            if rows:
                now = rows[0].expires - seconds
            elif limit:
                # No task waits, or other work comes first, which `take` does.
                rows, now, _ = self._claims.take(consumer, limit, seconds, slots, together=False)
            else:
                now = self._session.time()
        if limit:
            self._aftermath.reserved(consumer, now)
        self._aftermath.completed(ends, states, now)
        return states, self._claims.leases(consumer, rows)

    def release(self, leases: Sequence[Lease]) -> list[str]:
        """Release tasks that have not begun to the front; return the ids of those that wait."""
        notices: Notices = []

        def work(connection: Connection) -> list[str]:
            notices.clear()
            return self._release(connection, leases, call, notices)

        # Not the names of completions: a released task was not completed.
        with self._calls.call(*[_release_of(lease) for lease in leases]) as call:
            waiting = self._session.write(work) if leases else []
        if waiting or notices:
            self._aftermath.changed(notices)
        return waiting

    def fail(self, consumer: str, row: Any, reason: str) -> None:
        """Fail a reserved task that cannot be decoded, so that no consumer can run it."""

        def work(connection: Connection) -> tuple[str, Any]:
            task_id = sound_id(self._session, connection, row.id)
            values = _values(task_id, row.token, call, Transition(FAILED, attempt, reason))
            return task_id, self._complete_one(connection, values)

        attempt = AttemptRecord(whole(row.attempts), consumer, 0.0, 0.0, None, reason)
        try:
            with self._calls.call(row.token) as call:
                task_id, failed = self._session.write(work)
        except StorageUnavailable as exc:
            # Its lease will expire, and the task is redelivered. Do not raise: other tasks were
            # reserved with it.
            logger.warning("task %s: %s, cannot be failed now (%s)", row.id, reason, exc)
            return
        if failed is not None:
            self._aftermath.changed([(FAILED, task_id, reason)], now=failed.now)

    def _complete_one(self, connection: Connection, values: Row) -> Any:
        """Complete an attempt; return a row with the state of its task, None if it is stale."""
        execute = self._session.execute
        values = values | self._keep | self._session.dialect.numbered(connection)
        row = execute(connection, self._statements.finish, **values).first()
        if row is None:
            # It is stale, or this call has completed it before, and that answer was lost.
            found = execute(connection, self._statements.completed, ids=[values["id_"]])
            row = next((row for row in found if row.done == values["done_"]), None)
        return row

    def _is_simple(self, ends: Ends) -> bool:
        """Return whether one statement can complete them and claim others.

        The claim does not see the completions: they must be final and without a key.
        """
        return (
            self._statements.complete_and_reserve is not None
            and bool(ends)
            and all(lease.task.key is None and end.state in FINISHED for lease, end in ends)
        )

    def _complete_and_claim(
        self, ends: Ends, values: Sequence[Row], call: Call, claim: Row
    ) -> tuple[list[State | None], list[Any]] | None:
        """Complete attempts and claim tasks in one statement; None if its answer was lost."""
        rows = [{**row, "place_": number} for number, row in enumerate(values, 1)]
        given = {**self._session.dialect.many.packed(rows), "count_": len(rows)}

        def work(connection: Connection) -> Any:
            if call.sent:
                return None
            call.sent = True
            statement = self._statements.complete_and_reserve
            found = self._session.execute(connection, statement, **given, **claim, **self._keep)
            return found.all()

        found = self._session.single(work)
        if found is None:
            return None
        done = found[0].ended
        states: list[State | None] = [end.state for _, end in ends]
        if done is not None:
            # Not all were completed: their tokens are stale, or their tasks are to be cancelled.
            rest = [n for n, row in enumerate(values) if row["done_"] not in done]
            others = self._session.write(
                lambda connection: self._complete_all(
                    connection, [ends[n] for n in rest], [values[n] for n in rest]
                )
            )
            for n, state in zip(rest, others, strict=True):
                states[n] = state
        return states, [row for row in found if row.id is not None]

    def _complete_all(
        self, connection: Connection, ends: Ends, values: Sequence[Row]
    ) -> list[State | None]:
        if not ends:
            return []
        # Number them in the order of `ends`: those with a key are completed last.
        numbers = self._session.dialect.numbers(connection, len(ends))
        together, keyed = [], []
        for end, row, number in zip(ends, values, numbers, strict=True):
            row["place_"] = number
            if _needs_key(*end):
                keyed.append((end[0], row))
            else:
                together.append(row)
        if keyed:
            # Lock keys before any row, as every transaction does, against deadlocks.
            keys = [indexed(lease.task.key or "") for lease, _ in keyed]
            self._session.dialect.lock_keys(connection, keys)
        states = self._complete_rows(connection, together)
        for lease, row in keyed:
            # One by one: if two are to wait again, the first one replaces the second one.
            replaced = self._replaced(connection, lease)
            states |= self._complete_rows(connection, [row | replaced])
        return [states[row["done_"]] for row in values]

    def _complete_rows(self, connection: Connection, rows: list[Row]) -> dict[str, State | None]:
        """Complete attempts; return the state of each task by `done_`, None if it is stale."""
        states: dict[str, State | None] = {row["done_"]: row["state_"] for row in rows}
        if not rows:
            return states
        given = self._session.dialect.many.packed(rows) | self._keep
        many = self._session.execute(connection, self._statements.complete_many, **given)
        if many.rowcount == len(rows):
            return states
        # Some are stale, or are to be cancelled, or this call has completed them before, and that
        # answer was lost.
        ids = [row["id_"] for row in rows]
        found = self._session.execute(connection, self._statements.completed, ids=ids)
        done = {row.done: row.state for row in found}
        for row in rows:
            name = row["done_"]
            if name not in done:
                single = {key: row[key] for key in row if key != "place_"}
                one = self._complete_one(connection, single)
                done[name] = None if one is None else one.state
            states[name] = done[name]
        return states

    def _replaced(self, connection: Connection, lease: Lease) -> Row:
        """Return the values that cancel a task instead of a retry, if a newer one of its key waits.

        Otherwise return no values.
        """
        task = lease.task
        key = task.key and indexed(task.key)
        newer = transitions.newer(self._session, connection, key, task.on_conflict)
        if newer is None:
            return {}
        transitions.see(self._session, connection, newer, lease.tid)
        return {"state_": CANCELLED, "reason_": f"replaced by {newer}"}

    def _release(
        self, connection: Connection, leases: Sequence[Lease], call: Call, notices: Notices
    ) -> list[str]:
        session = self._session
        keys = {indexed(lease.task.key) for lease in leases if lease.task.key is not None}
        session.dialect.lock_keys(connection, keys)
        ids = [lease.task.id for lease in leases]
        now = session.now(connection)
        found = session.execute(connection, self._statements.held, ids=ids)
        rows = {row.id: row for row in found}
        waiting: list[str] = []
        # Begin with the last lease, so that the first one ends up at the very front.
        for lease in reversed(leases):
            row = rows.get(lease.task.id)
            if row is None:
                continue
            done = call.ids[_release_of(lease)]
            # This call may have released it before, and that answer was lost.
            back = row.done == done and row.state == QUEUED
            if row.token == lease.token:
                back = transitions.release(session, connection, row, done, now, notices)
            if back:
                waiting.insert(0, lease.task.id)
        return waiting


def _release_of(lease: Lease) -> str:
    """Return the name of the release of a lease among the calls of a thread."""
    return f"release {lease.token}"


def _needs_key(lease: Lease, transition: Transition) -> bool:
    """Return whether the key of a task has to be locked, since the task is to wait again."""
    return transition.state == SCHEDULED and lease.task.key is not None


def _values(task_id: str, token: str, call: Call, transition: Transition) -> Row:
    attempt, reason = transition.attempt, transition.reason
    return {
        "id_": task_id,
        "token_": token,
        "done_": call.ids[token],
        "state_": transition.state,
        "reason_": reason and storable(reason),
        "attempt": codec.pack_attempt(attempt) + "\n",
        "due_": transition.due,
        "counts_": int(transition.counts),
        "drops_slot_": int(transition.drops_slot),
        "status_": attempt.status,
        "last_": codec.pack_response(transition),
    }
