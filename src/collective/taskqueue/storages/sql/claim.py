"""Consumers of a SQL queue claim tasks: in one statement, unless other work comes first.

Other work: tasks that are due, leases that have expired, keys that have to be locked.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.damage import in_order
from collective.taskqueue.storages.sql.damage import moment
from collective.taskqueue.storages.sql.damage import whole
from collective.taskqueue.storages.sql.session import Conflict
from collective.taskqueue.storages.sql.session import Session
from contextlib import contextmanager
from sqlalchemy import Connection
from typing import Any
from typing import TypeVar
from uuid import uuid4
import threading


T = TypeVar("T")

#: Characters of changes and of history; the oldest are dropped when there are more.
LONG_CHANGES, LONG_HISTORY = 4000, 40_000

#: Seconds until the next try for tasks that another transaction has locked.
LOCKED = 0.5


class Claims:
    """See the module. `recover` puts tasks whose leases have expired back into the queue."""

    def __init__(self, session: Session, process: str, recover: Callable[[], object]) -> None:
        self._session = session
        self._statements = session.statements
        self._process = process
        self._recover = recover
        self._local = threading.local()
        #: Whether the queue was paused at the last look.
        self._paused = False

    def take(
        self, consumer: str, limit: int, seconds: float, together: bool = True
    ) -> tuple[list[Any], float, float]:
        """Claim up to `limit` tasks for `seconds`; return their rows, the time, and a delay.

        The rows are oldest first. The delay is in seconds: after it the caller has to look
        again, even without a wake-up. `together=False`: a redelivered task is claimed alone.
        """
        # In a paused queue SQLite would scan all waiting tasks to find that none may run.
        rows = []
        if not self._is_in_vain():
            rows = self._claim(self._statements.claim, consumer, limit, seconds, together)
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
            rows = self._claim(statement, consumer, limit, seconds, together)
        moments = [when - look.now for when in _moments(look)]
        soonest = LOCKED if late else max(min(moments, default=float("inf")), 0.001)
        return rows, look.now, soonest

    def _is_in_vain(self) -> bool:
        """Return whether the queue is paused, and no answer to a claim of this thread was lost."""
        return self._paused and not hasattr(self._local, "nonce")

    def _look(self) -> Any:
        return self._session.read(
            lambda connection: self._session.execute(connection, self._statements.look).one()
        )

    def _put_in_line(self, look: Any) -> None:
        due, expires = moment(look.due), moment(look.expires)
        if expires is not None and expires <= look.now:
            self._recover()
        if due is not None and due <= look.now:
            self._session.write(
                lambda connection, again: transitions.ripen(self._session, connection)
            )

    def take_after(
        self,
        work: Callable[[Connection, bool], T],
        consumer: str,
        limit: int,
        seconds: float,
        at_once: Callable[[dict[str, Any]], tuple[T, list[Any]] | None] | None = None,
    ) -> tuple[T, list[Any]]:
        """Call `work`, and claim tasks in the same transaction; return both results.

        Claims nothing if other work comes first, a key has to be locked, or the queue was paused
        at the last look: `take` looks again. A redelivered task is claimed alone. `at_once` does
        both in one statement, given the values of a claim; it returns None if it is unknown
        whether the statement was executed.
        """
        if not limit or self._is_in_vain():
            return self._session.write(work), []
        with self._asking() as (nonce, asked):
            values = self._values(nonce, consumer, limit, seconds, False)
            if at_once is not None and not asked:
                found = at_once(values)
                if found is not None:
                    long = [row for row in found[1] if _is_long(row)]
                    if long:
                        self._session.write(
                            lambda connection, again: self._shorten(connection, long)
                        )
                    return found[0], _in_order(found[1])
                asked = True
            claim = self._claiming(self._statements.claim_next, values, asked)

            def both(connection: Connection, again: bool) -> tuple[T, list[Any]]:
                result = work(connection, again)
                return result, claim(connection, again)

            result, rows = self._session.write(both)
        return result, _in_order(rows)

    def _claim(
        self, statement: Any, consumer: str, limit: int, seconds: float, together: bool
    ) -> list[Any]:
        with self._asking() as (nonce, asked):
            values = self._values(nonce, consumer, limit, seconds, together)
            work = self._claiming(statement, values, asked)
            single = statement is self._statements.claim
            try:
                rows = self._session.single(work) if single else self._session.write(work)
            except Conflict:
                # Another transaction queues very many tasks with keys; a wake-up follows it.
                return []
        return _in_order(rows)

    @contextmanager
    def _asking(self) -> Iterator[tuple[str, bool]]:
        # A claim whose answer was lost may have reserved tasks. The next claim of this thread
        # uses the same nonce and finds them; otherwise they would wait for their leases to expire.
        asked = hasattr(self._local, "nonce")
        if not asked:
            self._local.nonce = uuid4().hex
        yield self._local.nonce, asked
        del self._local.nonce

    def _values(
        self, nonce: str, consumer: str, limit: int, seconds: float, together: bool
    ) -> dict[str, Any]:
        return {
            "nonce": nonce,
            "consumer_": consumer,
            "process_": self._process,
            "limit_": limit,
            "lease": seconds,
            "together": together,
        }

    def _claiming(
        self, statement: Any, values: dict[str, Any], asked: bool
    ) -> Callable[[Connection, bool], list[Any]]:
        nonce = values["nonce"]

        def work(connection: Connection, again: bool) -> list[Any]:
            rows = self._reserved(connection, values) if again or asked else []
            if rows:
                return rows
            rows = self._session.execute(connection, statement, **values).all()
            self._shorten(connection, rows)
            if statement in (self._statements.claim_keyed, self._statements.claim_others):
                self._lock_keys(connection, nonce, {row.key for row in rows if row.key is not None})
            return rows

        return work

    def _shorten(self, connection: Connection, rows: list[Any]) -> None:
        for row in rows:
            if _is_long(row):
                transitions.shorten(self._session, connection, row.id)

    def _reserved(self, connection: Connection, values: dict[str, Any]) -> list[Any]:
        mine = {name: values[name] for name in ("nonce", "consumer_", "lease")}
        return list(self._session.execute(connection, self._statements.reserved, **mine).all())

    def _lock_keys(self, connection: Connection, nonce: str, keys: set[str]) -> None:
        """Raise `Conflict` if another task of these keys was claimed at the same moment."""
        if keys and not self._session.dialect.try_keys(connection, keys):
            # Do not wait: the transaction that holds the key may wait for the rows just claimed.
            raise Conflict("a key is locked by another transaction")
        overtaken = self._statements.overtaken
        if keys and self._session.execute(connection, overtaken, nonce=nonce).first():
            raise Conflict("another task of a key was started")


def _late(look: Any) -> list[float]:
    """Return when the first due task became due and the first expired lease expired, if any."""
    return [when for when in _moments(look) if when <= look.now]


def _moments(look: Any) -> list[float]:
    moments = moment(look.due), moment(look.expires)
    return [when for when in moments if when is not None]


def _is_long(row: Any) -> bool:
    return whole(row.changed) > LONG_CHANGES or whole(row.past) > LONG_HISTORY


def _in_order(rows: list[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: in_order(row.place))
