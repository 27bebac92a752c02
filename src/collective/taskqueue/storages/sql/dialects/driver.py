"""Connections to PostgreSQL with a deadline: each thread sets how long it waits for answers."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.storages.sql.wakeup import Notifier
from contextlib import contextmanager
from typing import Any
import psycopg
import threading
import time


#: Seconds between two checks whether to stop listening.
SLICE = 0.2


class _BusyTimeout(threading.local):
    deadline: float | None = None
    seconds = 0.0


_busy_timeout = _BusyTimeout()


@contextmanager
def busy_timeout(seconds: float) -> Iterator[None]:
    """Let all requests of this thread in the block be answered within `seconds`, or fail.

    The server may be up and yet never answer: it is stopped, or the network drops all packets.
    No setting of the server ends that wait.
    """
    before = _busy_timeout.deadline, _busy_timeout.seconds
    _busy_timeout.deadline, _busy_timeout.seconds = time.monotonic() + seconds, seconds
    try:
        yield
    finally:
        _busy_timeout.deadline, _busy_timeout.seconds = before


def resume(seconds: float | None = None) -> None:
    """Restart the deadline of this thread, for a large transaction that makes progress.

    The new deadline is `seconds` from now; without them, as many as `busy_timeout` was given.
    """
    if _busy_timeout.deadline is not None:
        seconds = _busy_timeout.seconds if seconds is None else seconds
        _busy_timeout.deadline = time.monotonic() + seconds


def rest() -> float:
    """Return the seconds until the deadline of this thread."""
    return max(0.0, (_busy_timeout.deadline or 0.0) - time.monotonic())


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed when the deadline of its thread passes without an answer."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """See `psycopg.Connection.wait`."""
        deadline = _busy_timeout.deadline
        if deadline is None or timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, max(0.0, deadline - time.monotonic()))
        except psycopg.Error as exc:
            if time.monotonic() < deadline:
                raise
            # Close it: a late answer would be taken for the answer to the next request.
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer in time") from exc


def connect(*args: Any, **options: Any) -> psycopg.Connection[Any]:
    """Return a new connection, whose statements have the server's own placeholders.

    Called by the pool. The driver would look for its own placeholders in each statement each
    time: that takes as long as the call itself.
    """
    if _busy_timeout.deadline is not None:
        # libpq treats less than two seconds as two seconds.
        options["connect_timeout"] = max(2, min(options["connect_timeout"], int(rest())))
    return _Connection.connect(*args, cursor_factory=psycopg.RawCursor, **options)


def options() -> set[str]:
    """Return the names of the options that a connection may have, to check those of the url."""
    return {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}


def listen(
    connection: psycopg.Connection[Any],
    channel: str,
    notifier: Notifier,
    poll: float,
) -> None:
    """Ring at once, on each notification, and after `poll` seconds without one, until stopped."""
    connection.autocommit = True
    if _is_pooled(connection):
        # Poll: the pooler soon gives the session that listens to another client. No notification
        # would arrive here, and that client, of any application, would get notifications that it
        # never reads.
        while not notifier.rest(poll):
            notifier.ring()
        return
    connection.execute(f'LISTEN "{channel}"')
    # Notifications before LISTEN did not arrive here.
    notifier.ring()
    seen = time.monotonic()
    # Take notifications even while no thread sleeps: those not taken fill the server's memory.
    while not notifier.stopped.is_set():
        if list(connection.notifies(timeout=SLICE, stop_after=1)) or time.monotonic() > seen + poll:
            seen = time.monotonic()
            notifier.ring()


def _is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Return whether a pooler is in between: another session than that of the handshake answers."""
    found = connection.execute("SELECT pg_backend_pid()").fetchone()
    return found != (connection.info.backend_pid,)
