"""Completion of attempts of a SQL queue: one by one, or a batch together with a claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.claim import Claims
from collective.taskqueue.storages.sql.damage import storable
from collective.taskqueue.storages.sql.retention import Retention
from collective.taskqueue.storages.sql.schema import indexed
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.statements import Statements
from collective.taskqueue.storages.sql.states import WEIGHT
from collective.taskqueue.storages.sql.statistics import Statistics
from collective.taskqueue.storages.sql.wakeup import Debounced
from collective.taskqueue.storages.sql.wakeup import Notifier
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import LINGER
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import Transition
from contextlib import contextmanager
from sqlalchemy import Connection
from typing import Any
import threading


Ends = Sequence[tuple[Lease, Transition]]


class Completions:
    """The part of the storage by which consumers complete or release attempts."""

    settings: QueueSettings
    _session: Session
    _statements: Statements
    _claims: Claims
    _retention: Retention
    _statistics: Statistics
    _notifier: Notifier
    _notify_others: Debounced
    _local: threading.local

    def complete(self, lease: Lease, transition: Transition) -> State | None:
        with self._repeatable([(lease, transition)]) as repeated:
            work = self._ending(lease.task.id, lease.token, transition, lease, bool(repeated))
            alone = not _needs_key(lease, transition)
            row = (self._session.single if alone else self._session.write)(work)
        state: State | None = None if row is None else row.state
        if row is not None:
            self._ended([(lease, transition)], [state], row.now)
        return state

    def complete_and_reserve(
        self, ends: Ends, consumer: str, limit: int = 1, seconds: float = 30.0
    ) -> tuple[list[State | None], list[Lease]]:
        values = [_values(lease.task.id, lease.token, transition) for lease, transition in ends]
        if limit:
            self._adopt(consumer)
        with self._repeatable(ends) as repeated:
            tokens = {lease.token for lease, _ in ends}
            before = set(repeated)

            def work(connection: Connection, again: bool) -> list[State | None]:
                return self._end_all(connection, ends, values, tokens if again else before)

            def at_once(claim: dict[str, Any]) -> tuple[list[State | None], list[Any]] | None:
                found = self._complete_and_reserve(ends, values, claim)
                if found is None:
                    before.update(tokens)
                return found

            simple = not repeated and self._is_simple(ends)
            states, rows = self._claims.take_after(
                work, consumer, limit, seconds, at_once if simple else None
            )
            if rows:
                now = rows[0].expires - seconds
            elif limit:
                # No task waits, or other work comes first, which `take` does.
                rows, now, _ = self._claims.take(consumer, limit, seconds, together=False)
            else:
                now = self._session.time()
        if limit:
            self._statistics.seen(consumer, now)
            self._retention.look(now)
        self._ended(ends, states, now)
        return states, self._leases(consumer, rows)

    def release(self, leases: Sequence[Lease]) -> list[str]:
        notices: Notices = []

        def work(connection: Connection, again: bool) -> list[str]:
            notices.clear()
            return self._release(connection, leases, again, notices)

        waiting = self._session.write(work) if leases else []
        if waiting or notices:
            self._changed(notices)
        return waiting

    @contextmanager
    def _repeatable(self, ends: Ends) -> Iterator[Collection[str]]:
        """Yield the tokens that this thread has tried to complete before, without an answer."""
        tokens = {lease.token for lease, _ in ends}
        asked: set[str] = getattr(self._local, "unfinished", set())
        self._local.unfinished = asked | tokens
        yield asked & tokens
        self._local.unfinished = asked - tokens

    def _is_simple(self, ends: Ends) -> bool:
        """Return whether one statement can complete them and claim others.

        The claim does not see the completions: they must be final and without a key.
        """
        return (
            self._statements.complete_and_reserve is not None
            and bool(ends)
            and all(lease.task.key is None and end.state in FINISHED for lease, end in ends)
        )

    def _complete_and_reserve(
        self, ends: Ends, values: Sequence[dict[str, Any]], claim: dict[str, Any]
    ) -> tuple[list[State | None], list[Any]] | None:
        """Complete attempts and claim tasks in one statement; None if its answer was lost."""
        rows = [{**row, "place_": number} for number, row in enumerate(values, 1)]
        given = {**self._session.dialect.many.packed(rows), "count_": len(rows)}

        def work(connection: Connection, again: bool) -> Any:
            if again:
                return None
            statement = self._statements.complete_and_reserve
            found = self._session.execute(connection, statement, **given, **claim, **self._keep())
            return found.all()

        found = self._session.single(work)
        if found is None:
            return None
        done = found[0].ended
        rest = []
        if done is not None:
            # Not all attempts were completed.
            rest = [n for n, (lease, _) in enumerate(ends) if lease.token not in done]
        states: list[State | None] = [end.state for _, end in ends]
        if rest:
            # Their tokens are stale, or their tasks are to be cancelled.
            others = self._session.write(
                lambda connection, again: self._end_all(
                    connection,
                    [ends[n] for n in rest],
                    [values[n] for n in rest],
                    [ends[n][0].token for n in rest] if again else (),
                )
            )
            for n, state in zip(rest, others, strict=True):
                states[n] = state
        return states, [row for row in found if row.id is not None]

    def _end_all(
        self,
        connection: Connection,
        ends: Ends,
        values: Sequence[dict[str, Any]],
        before: Collection[str],
    ) -> list[State | None]:
        """Complete all attempts; those with a token in `before` may be completed already."""
        if not ends:
            return []
        # Number them in the order of `ends`: those with a key are completed last.
        numbers = self._session.dialect.numbers(connection, len(ends))
        for row, number in zip(values, numbers, strict=True):
            row["place_"] = number
        keyed = [n for n, (lease, transition) in enumerate(ends) if _needs_key(lease, transition)]
        if keyed:
            # Lock keys before any row, as every transaction does, against deadlocks.
            keys = [indexed(ends[n][0].task.key or "") for n in keyed]
            self._session.dialect.lock_keys(connection, keys)
        together = [row for n, row in enumerate(values) if n not in keyed]
        states = self._end_some(connection, together, before)
        for n in keyed:
            # One by one: if two are to wait again, the first one replaces the second one.
            lease, _ = ends[n]
            replaced = self._replaced(connection, lease)
            states |= self._end_some(connection, [values[n] | replaced], before)
        return [states[lease.token] for lease, _ in ends]

    def _end_some(
        self, connection: Connection, rows: Sequence[dict[str, Any]], before: Collection[str]
    ) -> dict[str, State | None]:
        """Complete attempts; return the state of each task by its token, None if it is stale."""
        states: dict[str, State | None] = {row["token_"]: row["state_"] for row in rows}
        if not rows:
            return states
        statement, keep = self._statements.complete_many, self._keep()
        if self._session.change(connection, statement, rows, **keep) == len(rows):
            return states
        # Some are stale, or are to be cancelled, or were completed by an earlier call whose
        # answer was lost.
        ids = [row["id_"] for row in rows]
        ended = self._session.execute(connection, self._statements.ended, ids=ids)
        found = {row.done: row for row in ended}
        for row in rows:
            token, there = row["token_"], found.get(row["token_"])
            if there is None or not (there.place == row["place_"] or token in before):
                values = {name: row[name] for name in row if name != "place_"}
                finish = self._statements.finish
                there = self._session.execute(connection, finish, **values, **keep).first()
            states[token] = None if there is None else there.state
        return states

    def _ending(
        self,
        task_id: str,
        token: str,
        transition: Transition,
        lease: Lease | None = None,
        repeated: bool = False,
    ) -> Callable[[Connection, bool], Any]:
        values = _values(task_id, token, transition) | self._keep()

        def work(connection: Connection, again: bool) -> Any:
            execute = self._session.execute
            replaced: dict[str, Any] = {}
            if lease is not None and _needs_key(lease, transition):
                self._session.dialect.lock_keys(connection, [indexed(lease.task.key or "")])
                replaced = self._replaced(connection, lease)
            row = execute(connection, self._statements.finish, **values | replaced).first()
            if row is None and (again or repeated):
                # An earlier try may have completed the attempt, and its answer was lost.
                held = {"id_": task_id, "token_": token}
                return execute(connection, self._statements.done, **held).first()
            return row

        return work

    def _keep(self) -> dict[str, float]:
        return {
            "keep_succeeded": max(self.settings.keep_succeeded, LINGER),
            "keep_failed": max(self.settings.keep_failed, LINGER),
        }

    def _replaced(self, connection: Connection, lease: Lease) -> dict[str, Any]:
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

    def _ended(self, ends: Ends, states: Sequence[State | None], now: float) -> None:
        """After the transaction: count what finished, wake a consumer, notify other processes."""
        sizes: Counter[State | None] = Counter()
        for end, state in zip(ends, states, strict=True):
            sizes[state] += _size(*end)
        for state, number in Counter(states).items():
            if state in FINISHED:
                self._statistics.ended(state, now, busy=True, number=number)
                self._retention.after(state, now, number, sizes[state])
        if any(states):
            self._notifier.ring()
        if any(
            state == SCHEDULED or (state is not None and lease.task.key is not None)
            for (lease, _), state in zip(ends, states, strict=True)
        ):
            self._notify_others()

    def _release(
        self, connection: Connection, leases: Sequence[Lease], again: bool, notices: Notices
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
            back = again and row.done == lease.token and row.state == QUEUED
            if row.token == lease.token:
                back = transitions.release(session, connection, row, now, notices)
            if back:
                waiting.insert(0, lease.task.id)
        return waiting

    def _adopt(self, consumer: str) -> None:
        raise NotImplementedError

    def _leases(self, consumer: str, rows: Sequence[Any]) -> list[Lease]:
        raise NotImplementedError

    def _changed(self, notices: Notices | None, *finished: State) -> None:
        raise NotImplementedError


def _needs_key(lease: Lease, transition: Transition) -> bool:
    """Return whether the key of a task has to be locked, since the task is to wait again."""
    return transition.state == SCHEDULED and lease.task.key is not None


def _size(lease: Lease, transition: Transition) -> int:
    """Return about how many bytes the record of a task takes after this transition."""
    large = transition.body, transition.attempt.error, lease.task.payload
    return WEIGHT + sum(len(part) for part in large)


def _values(task_id: str, token: str, transition: Transition) -> dict[str, Any]:
    return {
        "id_": task_id,
        "token_": token,
        "state_": transition.state,
        "reason_": storable(transition.reason),
        "attempt": codec.pack_attempt(transition.attempt) + "\n",
        "due_": transition.due,
        "counts_": int(transition.counts),
        "status_": transition.attempt.status,
        "last_": codec.pack_response(transition),
    }
