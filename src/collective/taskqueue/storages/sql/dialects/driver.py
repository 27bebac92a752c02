"""Connections to PostgreSQL that are waited for no longer than somebody has patience."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.storages.sql.wakeup import Alarm
from contextlib import contextmanager
from typing import Any
import psycopg
import threading
import time


#: Seconds between two looks whether to stop listening.
SLICE = 0.2


class _Patience(threading.local):
    deadline: float | None = None
    seconds = 0.0


_patience = _Patience()


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Everything this thread asks in the block is answered within so many seconds, or fails.

    The server may be there and yet never answer: stopped, or behind a network that swallows
    everything. No setting of the server ends that wait.
    """
    before = _patience.deadline, _patience.seconds
    _patience.deadline, _patience.seconds = time.monotonic() + seconds, seconds
    try:
        yield
    finally:
        _patience.deadline, _patience.seconds = before


def go_on(seconds: float | None = None) -> None:
    """Let the patience of this thread begin anew: what it does is large, and comes along.

    Or let it last so many seconds from now.
    """
    if _patience.deadline is not None:
        seconds = _patience.seconds if seconds is None else seconds
        _patience.deadline = time.monotonic() + seconds


def rest() -> float:
    """Return the seconds that are left of the patience of this thread."""
    return max(0.0, (_patience.deadline or 0.0) - time.monotonic())


class _Connection(psycopg.Connection[Any]):
    """A connection that is given up when the patience of its thread ends."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """See `psycopg.Connection.wait`."""
        deadline = _patience.deadline
        if deadline is None or timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, max(0.0, deadline - time.monotonic()))
        except psycopg.Error as exc:
            if time.monotonic() < deadline:
                raise
            # Its answer may come yet, and would be taken for that to the next question.
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer in time") from exc


def connect(*args: Any, **options: Any) -> psycopg.Connection[Any]:
    """Return a new connection, whose statements have the server's own placeholders.

    Called by the pool. The driver would look for its own in each statement each time: that
    takes as long as the call itself.
    """
    if _patience.deadline is not None:
        # Less than two seconds are two seconds, says libpq.
        options["connect_timeout"] = max(2, min(options["connect_timeout"], int(rest())))
    return _Connection.connect(*args, cursor_factory=psycopg.RawCursor, **options)


def options() -> set[str]:
    """Return the names of the options that a connection may have; called for the url."""
    return {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}


def listen(
    connection: psycopg.Connection[Any],
    channel: str,
    alarm: Alarm,
    poll: float,
) -> None:
    """Ring at once, for each notification, and after `poll` seconds without, until stopped."""
    connection.autocommit = True
    if _is_pooled(connection):
        # The session that would listen is somebody else's in a moment: who waits here hears
        # nothing, and they, whatever they use the database for, are told what they never read.
        while not alarm.rest(poll):
            alarm.ring()
        return
    connection.execute(f'LISTEN "{channel}"')
    # Of what was announced until now nobody here was told.
    alarm.ring()
    heard = time.monotonic()
    # While nobody sleeps, too: what was not taken fills the memory of the server.
    while not alarm.stopped.is_set():
        if (
            list(connection.notifies(timeout=SLICE, stop_after=1))
            or time.monotonic() > heard + poll
        ):
            heard = time.monotonic()
            alarm.ring()


def _is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Whether a pooler is between here and the server: who answers is not who said hello."""
    found = connection.execute("SELECT pg_backend_pid()").fetchone()
    return found != (connection.info.backend_pid,)
