"""Consumers of a SQL queue claim tasks: in one statement, unless other work comes first.

Other work: tasks that are due, leases that have expired, keys that have to be locked.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.calls import Call
from collective.taskqueue.storages.sql.calls import Calls
from collective.taskqueue.storages.sql.damage import in_order
from collective.taskqueue.storages.sql.damage import MANY
from collective.taskqueue.storages.sql.damage import moment
from collective.taskqueue.storages.sql.damage import whole
from collective.taskqueue.storages.sql.recover import Recovery
from collective.taskqueue.storages.sql.session import Conflict
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.task import Lease
from functools import partial
from operator import attrgetter
from sqlalchemy import Connection
from typing import Any
from typing import TypeVar
import time


T = TypeVar("T")

#: The name of a claim among the calls of a thread.
CLAIM = "claim"

#: Seconds until the next try for tasks that another transaction has locked.
LOCKED = 0.5


class Claims:
    """See the module. `process` is the identity of this process.

    `fail` is called with a consumer, the row of a task that it claimed, and the reason why that
    task cannot be decoded.
    """

    def __init__(
        self,
        session: Session,
        process: str,
        calls: Calls,
        recovery: Recovery,
        fail: Callable[[str, Any, str], None],
    ) -> None:
        self._session = session
        self._statements = session.statements
        self._process = process
        self._calls = calls
        self._recovery = recovery
        self._fail = fail
        #: Seconds; a claim that takes longer may have claimed nothing although tasks wait.
        self._patience = session.settings.stage_timeout / 4
        #: The consumers of this process that have adopted tasks of dead processes.
        self._adopted: set[str] = set()
        #: Whether the queue was paused at the last look.
        self._paused = False

    def take(
        self,
        consumer: str,
        limit: int,
        seconds: float,
        slots: Sequence[str],
        together: bool = True,
    ) -> tuple[list[Any], float, float]:
        """Claim up to `limit` tasks for `seconds`; return their rows, the time, and a delay.

        The rows are oldest first. The delay is in seconds: after it the caller has to look
        again, even without a wake-up. `together=False`: a redelivered task is claimed alone.
        """
        self._adopt(consumer)
        # In a paused queue SQLite would scan all waiting tasks to find that none may run.
        rows = []
        if not self._is_in_vain():
            rows = self._claim(self._statements.claim, consumer, limit, seconds, slots, together)
        if rows:
            return rows, rows[0].expires - seconds, 0.0
        look = self._look()
        tried: list[float] = []
        while (late := _late(look)) and late != tried:
            tried = late
            self._put_in_line(look)
            look = self._look()
        # Tasks that are still late are locked by another session, perhaps for ever: by a frozen
        # process, or by an administrator. The other tasks must not wait for them.
        self._paused = bool(look.paused)
        statement = self._statements.claim_others if late else self._statements.claim_keyed
        if look.waits and not look.paused:
            # Some of them have keys, or were queued after the first claim.
            began = time.monotonic()
            rows = self._claim(statement, consumer, limit, seconds, slots, together)
            if not rows and time.monotonic() - began > self._patience:
                # The database may have thought that its consumer had given up, see `awaited`:
                # this process stood still, or the database did.
                rows = self._claim(statement, consumer, limit, seconds, slots, together)
        moments = [when - look.now for when in _moments(look)]
        soonest = LOCKED if late else max(min(moments, default=float("inf")), 0.001)
        return rows, look.now, soonest

    def take_after(
        self,
        work: Callable[[Connection], T],
        consumer: str,
        limit: int,
        seconds: float,
        slots: Sequence[str],
        at_once: Callable[[dict[str, Any]], tuple[T, list[Any]] | None] | None = None,
    ) -> tuple[T, list[Any]]:
        """Call `work`, and claim tasks in the same transaction; return both results.

        Claims nothing if other work comes first, a key has to be locked, or the queue was paused
        at the last look: `take` looks again. A redelivered task is claimed alone. `at_once` does
        both in one statement, given the values of a claim; it returns None if its answer was lost.
        """
        if limit:
            self._adopt(consumer)
        if not limit or self._is_in_vain():
            return self._session.write(work), []
        with self._calls.call(CLAIM) as call:
            values = self._values(call, consumer, limit, seconds, slots, False)
            found = None
            if at_once is not None and not call.sent:
                call.sent = True
                found = at_once(values)
            if found is not None:
                self._shorten(found[1])
            else:
                found = self._session.write(
                    lambda connection: (
                        work(connection),
                        self._execute(connection, self._statements.claim_next, values, call),
                    )
                )
        return found[0], _in_order(found[1])

    def leases(self, consumer: str, rows: Sequence[Any]) -> list[Lease]:
        """Return the leases of claimed rows; fail the tasks that cannot be decoded."""
        leases = []
        for row in rows:
            try:
                task = codec.decode(row.id, row.body, row.payload)
                if row.tid is not None and not isinstance(row.tid, bytes):
                    raise TaskDecodeError("its transaction is damaged")
                if type(row.counted) is not int or not 0 <= row.counted <= MANY:
                    raise TaskDecodeError("the number of its attempts is damaged")
            except TaskDecodeError as exc:
                self._fail(consumer, row, f"cannot be decoded: {exc}")
                continue
            leases.append(
                Lease(
                    task,
                    row.token,
                    consumer,
                    row.attempts,
                    row.counted,
                    row.expires,
                    row.tid,
                    row.slot if isinstance(row.slot, str) else None,
                    whole(row.lost),
                )
            )
        return leases

    def _adopt(self, consumer: str) -> None:
        if consumer not in self._adopted:
            self._recovery.adopt(consumer)
            self._adopted.add(consumer)

    def _is_in_vain(self) -> bool:
        """Return whether the queue is paused, and this thread waits for no answer to a claim."""
        return self._paused and not self._calls.got_no_answer(CLAIM)

    def _look(self) -> Any:
        return self._session.read(
            lambda connection: self._session.execute(connection, self._statements.look).one()
        )

    def _put_in_line(self, look: Any) -> None:
        due, expires = moment(look.due), moment(look.expires)
        if expires is not None and expires <= look.now:
            self._recovery.recover()
        if due is not None and due <= look.now:
            self._session.write(lambda connection: transitions.ripen(self._session, connection))

    def _claim(
        self,
        statement: Any,
        consumer: str,
        limit: int,
        seconds: float,
        slots: Sequence[str],
        together: bool,
    ) -> list[Any]:
        with self._calls.call(CLAIM) as call:
            values = self._values(call, consumer, limit, seconds, slots, together)
            single = statement is self._statements.claim
            run = self._session.single if single else self._session.write
            try:
                rows = run(lambda connection: self._execute(connection, statement, values, call))
            except Conflict:
                # Another transaction queues very many tasks with keys; a wake-up follows it.
                return []
        return _in_order(rows)

    def _values(
        self,
        call: Call,
        consumer: str,
        limit: int,
        seconds: float,
        slots: Sequence[str],
        together: bool,
    ) -> dict[str, Any]:
        return {
            "call": call.ids[CLAIM],
            "consumer_": consumer,
            "process_": self._process,
            "limit_": limit,
            "lease": seconds,
            "slots": "".join(slots),
            "together": together,
        }

    def _execute(
        self, connection: Connection, statement: Any, values: dict[str, Any], call: Call
    ) -> list[Any]:
        if call.sent:
            # Otherwise the tasks that it may have claimed would wait for their leases to expire.
            mine = {name: values[name] for name in ("call", "consumer_", "lease")}
            rows = self._session.execute(connection, self._statements.reserved, **mine).all()
            if rows:
                return list(rows)
        call.sent = True
        rows = self._session.execute(connection, statement, **values).all()
        self._shorten(rows, connection)
        if statement in (self._statements.claim_keyed, self._statements.claim_others):
            self._lock_keys(connection, call, {row.key for row in rows if row.key is not None})
        return list(rows)

    def _shorten(self, rows: Sequence[Any], connection: Connection | None = None) -> None:
        """Shorten what has become long, in a transaction of its own without a `connection`."""
        for row in rows:
            if row.long:
                work = partial(transitions.shorten, self._session, task_id=row.id)
                work(connection) if connection is not None else self._session.write(work)

    def _lock_keys(self, connection: Connection, call: Call, keys: set[str]) -> None:
        """Raise `Conflict` if another task of these keys was claimed at the same moment."""
        if keys and not self._session.dialect.try_keys(connection, keys):
            # Do not wait: the transaction that holds the key may wait for the rows just claimed.
            raise Conflict("a key is locked by another transaction")
        overtaken = self._statements.overtaken
        if keys and self._session.execute(connection, overtaken, call=call.ids[CLAIM]).first():
            raise Conflict("another task of a key was started")


def _late(look: Any) -> list[float]:
    """Return when the first due task became due and the first expired lease expired, if any."""
    return [when for when in _moments(look) if when <= look.now]


def _moments(look: Any) -> list[float]:
    moments = moment(look.due), moment(look.expires)
    return [when for when in moments if when is not None]


def _in_order(rows: list[Any]) -> list[Any]:
    try:
        return sorted(rows, key=attrgetter("place"))
    except TypeError:
        # A place is damaged.
        return sorted(rows, key=lambda row: in_order(row.place))
