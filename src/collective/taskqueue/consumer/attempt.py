"""One dispatch of a task, as the code that runs it sees it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.consumer.interrupt import let_strike
from collective.taskqueue.consumer.interrupt import raise_in
from collective.taskqueue.consumer.interrupt import short_turns
from collective.taskqueue.consumer.response import MAX_REASON
from collective.taskqueue.consumer.text import one_line
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import Task
from contextlib import contextmanager
from types import TracebackType
from typing import Any
import logging
import random
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds between two writes of progress, and between two questions for cancellation.
REPORT_INTERVAL = 0.5

#: How often `interrupt` looks whether the task is where it can be interrupted, and the
#: longest pause in seconds between two looks.
LOOKS = 40
LONGEST_PAUSE = 0.001


class Attempt:
    """A lease in use: how the running task reports, and how it can be interrupted.

    The consumer makes one for every dispatch; the publisher hands it to the request.
    """

    def __init__(self, lease: Lease, storage: Any, retry_max_count: int = 0) -> None:
        self.lease = lease
        self.task: Task = lease.task
        self.retry_max_count = retry_max_count
        #: The exception that ended the last execution, set by the publisher.
        self.failure: BaseException | None = None
        self.started = time.time()
        #: The task is done, whatever becomes of its outcome.
        self.ended = False
        self._storage = storage
        self._reported = 0.0
        self._asked = 0.0
        self._cancelled = False
        #: The last report has failed, and that was logged.
        self._unheard = False
        self._pending: Progress | None = None
        self._gate = threading.Lock()
        self._thread: int | None = None
        self._overdue = False
        self._cut: Callable[[], None] | None = None

    @property
    def number(self) -> int:
        """Number of this attempt; the first is 1."""
        return self.lease.attempt

    def report(self, done: float, total: float | None, message: str) -> None:
        """Store how far the task has come, at most twice a second.

        What is held back is stored by the next call or by `flush`. Raises `TypeError` or
        `ValueError` for what is no number.
        """
        now = time.time()
        done, total = float(done), None if total is None else float(total)
        self._pending = Progress(done, total, one_line(str(message), MAX_REASON), now)
        complete = total is not None and done >= total
        if complete or not 0 <= now - self._reported < REPORT_INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Store the last progress if it was held back."""
        progress, self._pending = self._pending, None
        if progress is not None:
            self._reported = progress.time
            self._ask(progress.time, progress)

    def cancelled(self, fresh: bool = False) -> bool:
        """Return whether cancellation was asked for; asks the storage twice a second.

        With `fresh` it is asked in any case: for whoever asks once, at the end.
        """
        now = time.time()
        if not self._cancelled and (fresh or not 0 <= now - self._asked < REPORT_INTERVAL):
            self._ask(now)
        return self._cancelled

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the function; `interrupt` raises in what it does, and nowhere else.

        Raises `TaskTimeout` also if that could not be raised in time, or was swallowed.
        Called by the publisher around traversal and view, and not around the commit.
        """
        try:
            result = function(*args)
        finally:
            overdue = self._close()
        if overdue:
            raise TaskTimeout(self._timeout_message())
        return result

    def interruptible(self) -> None:
        """Let `interrupt` raise in this thread; until then, and after `call`, it does not.

        Raises `TaskTimeout` if the time is already up. Called by the publisher before the
        view, and not before traversal: that works for all, on what all threads share.
        """
        with self._gate:
            if self._overdue:
                raise TaskTimeout(self._timeout_message())
            self._thread = threading.get_ident()

    @contextmanager
    def cut_by(self, cut: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `interrupt` calls `cut` and raises nothing.

        For a task that waits for somebody else, and can be told to stop waiting from another
        thread. It is cut as well as soon as cancellation is asked for.
        """
        with self._gate:
            self._cut = cut
        try:
            yield
        finally:
            with self._gate:
                self._cut = None

    def cut_if_cancelled(self) -> None:
        """Cut what waits if cancellation was asked for; called by the watchdog."""
        if self._cut is not None and self.cancelled():
            self.interrupt()

    def interrupt(self) -> bool:
        """Raise `TaskTimeout` in the thread that runs the task; called by the watchdog.

        Returns False if that is not possible at this moment: not started, committing, or
        in code that must not be torn apart. Then, and if the task has swallowed the
        exception, it may be called again.
        """
        with self._gate:
            if self._cut is not None:
                self._cut()
                return True
        with short_turns():
            for _ in range(LOOKS):
                with self._gate:
                    self._overdue = True
                    if self._thread is None:
                        return False
                    if raise_in(self._thread, TaskTimeout, _CALL):
                        return True
                time.sleep(random.uniform(0, LONGEST_PAUSE))
        return False

    def _close(self) -> bool:
        while True:
            try:
                with self._gate:
                    self._thread = None
                    overdue = self._overdue
                # Else it would strike after the task, in somebody else's code.
                let_strike()
                return overdue
            except TaskTimeout:
                # It struck just here; the next round is undisturbed.
                continue

    def _ask(self, now: float, progress: Progress | None = None) -> None:
        self._asked = now
        try:
            call = outage_of(self._storage).call
            self._cancelled = bool(call(self._storage.report, self.lease, progress))
            self._unheard = False
        except Exception as exc:
            # The task can do without; it must not fail for want of an audience.
            if not (self._unheard and isinstance(exc, StorageUnavailable)):
                logger.warning("task %s: progress not stored (%s), going on", self.task.id, exc)
            self._unheard = True

    def _timeout_message(self) -> str:
        return f"the task took more than {self.task.timeout:g} s"

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ended = True
        self.flush()


#: Only what is called from here is ever interrupted.
_CALL = Attempt.call.__code__
