"""One dispatch of a task, for the code that runs it: progress, cancellation, interruption."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.consumer.interrupt import raise_in
from collective.taskqueue.consumer.interrupt import raise_pending
from collective.taskqueue.consumer.interrupt import short_switch_interval
from collective.taskqueue.consumer.response import MAX_REASON
from collective.taskqueue.consumer.text import one_line
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import Task
from contextlib import contextmanager
from contextlib import suppress
from types import TracebackType
from typing import Any
import logging
import random
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds between two writes of progress, and between two checks for cancellation.
REPORT_INTERVAL = 0.5

#: How often `interrupt` checks whether the task can be interrupted, and the longest pause in
#: seconds between two checks.
LOOKS = 40
LONGEST_PAUSE = 0.001


class Attempt:
    """A lease in use: it reports the progress of the task, and can interrupt the task.

    The consumer makes one for every dispatch; the publisher attaches it to the request.
    """

    def __init__(self, lease: Lease, storage: Storage, retry_max_count: int = 0) -> None:
        self.lease = lease
        self.task: Task = lease.task
        self.retry_max_count = retry_max_count
        #: The slot that it may use, set by the consumer.
        self.slot: str | None = None
        #: The exception that ended the last execution, set by the publisher.
        self.failure: BaseException | None = None
        self.started = time.time()
        #: The task has ended, whatever happens to its outcome.
        self.ended = False
        self._storage = storage
        self._reported = 0.0
        self._asked = 0.0
        self._cancelled = False
        #: The last report has failed, and that was logged.
        self._report_failed = False
        self._pending: Progress | None = None
        self._gate = threading.RLock()
        self._thread: int | None = None
        self._overdue = False
        self._cut: Callable[[], None] | None = None

    @property
    def number(self) -> int:
        """Number of this attempt; the first is 1."""
        return self.lease.attempt

    def report(self, done: float, total: float | None, message: str) -> None:
        """Store the progress of the task, at most twice a second.

        A value that is held back is stored by the next call or by `flush`. Raises `TypeError`
        or `ValueError` if `done` or `total` is no number.
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
        """Return whether cancellation was requested; asks the storage at most twice a second.

        With `fresh` it asks the storage in any case: for a single check at the end.
        """
        now = time.time()
        if not self._cancelled and (fresh or not 0 <= now - self._asked < REPORT_INTERVAL):
            self._ask(now)
        return self._cancelled

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the function; `interrupt` raises within this call, and nowhere else.

        Raises `TaskTimeout` also if `interrupt` could not raise in time, or if the task has
        swallowed it. The publisher calls traversal and view with it, but not the commit.
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
        view, and not before traversal: traversal changes what all threads share.
        """
        with self._gate:
            if self._overdue:
                raise TaskTimeout(self._timeout_message())
            self._thread = threading.get_ident()

    @contextmanager
    def cut_by(self, cut: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `interrupt` calls `cut` and raises nothing.

        For a task that waits for a remote server: another thread can end the wait by `cut`.
        `cut` is also called once cancellation is requested.
        """
        with self._gate:
            self._cut = cut
        try:
            yield
        finally:
            with self._gate:
                self._cut = None

    def cut_if_cancelled(self) -> None:
        """Call `cut`, if set, when cancellation was requested; called by the watchdog."""
        if self._cut is not None and self.cancelled():
            self.interrupt()

    def interrupt(self) -> bool:
        """Raise `TaskTimeout` in the thread that runs the task; called by the watchdog.

        Returns False if that is not possible at this moment: the task has not started, is
        committing, or runs code that must not be interrupted. Then, and if the task has
        swallowed the exception, it may be called again.
        """
        with self._gate:
            if self._cut is not None:
                self._cut()
                return True
        with short_switch_interval():
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
                # Otherwise a pending exception would be raised after the task, in other code.
                raise_pending()
                return overdue
            except TaskTimeout:
                # The exception was raised just here; the next round is undisturbed. Since Python
                # 3.14, it may have been raised when the gate was taken and no block was entered.
                with suppress(RuntimeError):
                    self._gate.release()

    def _ask(self, now: float, progress: Progress | None = None) -> None:
        self._asked = now
        try:
            call = outage_of(self._storage).call
            self._cancelled = bool(call(self._storage.report, self.lease, progress))
            self._report_failed = False
        except Exception as exc:
            # The task can run without: a failing storage must not make the task fail.
            if not (self._report_failed and isinstance(exc, StorageUnavailable)):
                logger.warning("task %s: progress not stored (%s), going on", self.task.id, exc)
            self._report_failed = True

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


#: `interrupt` raises only in code that is called from this function.
_CALL = Attempt.call.__code__
