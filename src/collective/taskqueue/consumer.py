"""The consumer: threads that take tasks from one queue, run them and finish them.

`step` is one iteration and needs no thread; `run` is what a thread does until `stop`.
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue import policy
from collective.taskqueue.attempt import Attempt
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.errors import described
from collective.taskqueue.errors import LostTransaction
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.keeper import Keeper
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from dataclasses import replace
from itertools import chain
from typing import Any
import logging
import random
import threading
import time
import traceback


logger = logging.getLogger("collective.taskqueue")

#: Longest pause in seconds after errors that follow one another: five seconds after a storage
#: is back, however long it was away, its consumers are.
MAX_PAUSE = 4.0

#: Seconds a task waits for the transaction that queued it, before it is postponed.
BARRIER = 30.0

#: Seconds between two looks whether that transaction has arrived.
BARRIER_INTERVAL = 0.005

#: Seconds between two times that a consumer does its chores.
CHORES_INTERVAL = 30.0

#: Seconds between two looks at a thread that has been told to stop.
STOP_INTERVAL = 0.25


class Consumer:
    """Runs the tasks of one storage.

    `perform` makes the request of an attempt and returns its outcome. `notify` is called
    with a state and a task id after each change. `clock` gives seconds since the epoch.
    `ready` tells whether a transaction is visible in this process; `chores` is called now
    and then, between tasks.
    """

    def __init__(
        self,
        storage: Any,
        perform: Callable[[Attempt], Outcome],
        settings: ServerSettings,
        notify: Callable[[str, str], None] = lambda state, task_id: None,
        clock: Callable[[], float] = time.time,
        ready: Callable[[bytes], bool] = lambda tid: True,
        chores: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings
        self._storage = storage
        self._perform = perform
        self._notify = notify
        self._clock = clock
        self._ready = ready
        self._chores = chores
        self._next_chores = time.monotonic()
        self._in_one = hasattr(storage, "finish_and_reserve")
        self._label = f"taskqueue-{settings.queue}-{settings.name}"
        self._keeper = Keeper(storage, settings.lease, f"{self._label}-keeper")
        #: What a thread has reserved ahead, and whether it may.
        self._thread = threading.local()
        self._stopping = threading.Event()
        self._hurried = threading.Event()
        #: Monotonic time at which running tasks are waited for no longer.
        self._deadline = float("inf")
        self._threads: list[threading.Thread] = []
        self._extra: set[threading.Thread] = set()

    def start(self) -> None:
        """Start the threads; called once, when the process starts."""
        for number in range(self.settings.concurrent_limit or 1):
            thread = threading.Thread(
                target=self.run, name=f"{self._label}-{number + 1}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        logger.info(
            "consumer %s of queue %s: started, concurrent limit %s",
            self.settings.name,
            self.settings.queue,
            self.settings.concurrent_limit or "none",
        )

    def stop(self, grace: float | None = None) -> None:
        """Take no more tasks, and wait up to `grace` seconds for those that run.

        What still runs then is logged and left alone: its transaction may yet commit, so
        its lease is not given away before it expires.
        """
        self.begin_stop(grace)
        self.end_stop()

    def begin_stop(self, grace: float | None = None) -> None:
        """The first half of `stop`, which does not wait."""
        self._deadline = time.monotonic() + (self.settings.grace if grace is None else grace)
        self._stopping.set()
        self._wake()
        logger.info(
            "consumer %s of queue %s: stopping, %d tasks running",
            self.settings.name,
            self.settings.queue,
            len(self._keeper.running()),
        )

    def end_stop(self) -> None:
        """The second half: it waits until the grace period that has begun is over."""
        self._join(self._threads)
        # Not before: until they have ended, these may start more.
        self._join(list(self._extra))
        for attempt in self._keeper.running():
            logger.error(
                "task %s: still running after the grace period, left unfinished", attempt.task.id
            )
        self._keeper.stop()
        logger.info("consumer %s of queue %s: stopped", self.settings.name, self.settings.queue)

    def hurry(self) -> None:
        """Let a `stop` that waits for running tasks wait no longer."""
        self._hurried.set()

    def _wake(self) -> None:
        try:
            self._storage.wake()
        except Exception:
            logger.exception("consumer %s: cannot be woken, stopping", self.settings.name)

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            while self._waits_for(thread):
                left = max(0.0, self._deadline - time.monotonic())
                thread.join(min(STOP_INTERVAL, left))
                # Once more: the thread may have been on its way into `reserve`.
                self._wake()

    def _waits_for(self, thread: threading.Thread) -> bool:
        in_time = time.monotonic() < self._deadline and not self._hurried.is_set()
        return in_time and thread.is_alive()

    def run(self) -> None:
        """Take and run tasks until `stop`; whatever happens, the thread lives on."""
        errors = 0
        while not self._stopping.is_set() or self._reserved():
            try:
                self.step(timeout=None, ahead=True)
                self._do_chores()
                errors = 0
            except StorageUnavailable as exc:
                errors += 1
                logger.error(
                    "consumer %s of queue %s: storage unavailable (%s), trying again",
                    self.settings.name,
                    self.settings.queue,
                    exc,
                )
            except BaseException:
                errors += 1
                logger.exception(
                    "consumer %s of queue %s: unexpected error, going on",
                    self.settings.name,
                    self.settings.queue,
                )
            if errors:
                self._stopping.wait(_pause(errors))

    def step(self, timeout: float | None = 0.0, ahead: bool = False) -> int:
        """Wait up to `timeout` seconds (None: without limit) for a task, and run it.

        `ahead` reserves the next one with the end of this one, if the storage can do that;
        the caller must come again at once. Returns how many tasks were taken: 1, or 0 if
        none came.
        """
        leases = self._reserved()
        self._thread.leases = []
        if not leases:
            leases = self._storage.reserve(
                self.settings.name, limit=1, timeout=timeout, lease=self.settings.lease
            )
        for lease in leases:
            if self.settings.concurrent_limit:
                self._thread.ahead = ahead
                self.work(lease)
            else:
                self._work_aside(lease)
        return len(leases)

    def work(self, lease: Lease) -> Outcome:
        """Run one reserved task in this thread, finish it, and return its outcome."""
        attempt = Attempt(lease, self._storage, self.settings.retry_max_count)
        self._notify("running", lease.task.id)
        since = self._since(lease.task)
        hindrance = self._hindrance(attempt, since)
        with self._keeper.watch(attempt):
            outcome = _storable(hindrance or self._outcome(attempt))
            transition = policy.decide(lease, outcome, self._clock(), since=since)
            state = self._finish(lease, transition)
        if state is not None:
            self._notify(state, lease.task.id)
        return outcome

    def _reserved(self) -> list[Lease]:
        """The task that this thread has reserved with the end of another, and not begun."""
        leases: list[Lease] = getattr(self._thread, "leases", [])
        return leases

    def _do_chores(self) -> None:
        now = time.monotonic()
        # What is reserved does not wait for them.
        if now >= self._next_chores and not self._reserved():
            self._next_chores = now + CHORES_INTERVAL
            self._chores()

    def _work_aside(self, lease: Lease) -> None:
        def work() -> None:
            try:
                self.work(lease)
            except BaseException:
                logger.exception("task %s: unexpected error, its lease expires", lease.task.id)
            finally:
                self._extra.discard(threading.current_thread())

        thread = threading.Thread(target=work, name=f"{self._label}-{lease.task.id}", daemon=True)
        self._extra.add(thread)
        try:
            thread.start()
        except RuntimeError as exc:
            logger.warning(
                "task %s: no thread can be had (%s), other tasks wait for it", lease.task.id, exc
            )
            self._extra.discard(thread)
            self.work(lease)

    def _since(self, task: Task) -> float:
        """Return when the `max_age` of the task began to count."""
        if task.max_age is not None:
            try:
                status: TaskStatus = self._storage.get(task.id)
            except Exception as exc:
                logger.warning(
                    "task %s: its history cannot be read (%s), its max_age counts from when it"
                    " was added",
                    task.id,
                    exc,
                )
            else:
                return status.since
        return task.created

    def _hindrance(self, attempt: Attempt, since: float) -> Outcome | None:
        """Return why the task cannot be dispatched; None if it can."""
        task = attempt.task
        now = self._clock()
        if task.max_age is not None and now > since + task.max_age:
            reason = f"older than its max_age of {task.max_age:g} s"
            return Outcome(None, reason, verdict="discard", started=now)
        try:
            visible = self._visible(attempt)
        except LostTransaction as exc:
            # A person decides: whatever it is about may not be there any more.
            return Outcome(None, str(exc), verdict="discard", started=now)
        if not visible:
            reason = f"its transaction did not arrive within {BARRIER:g} s"
            if self._stopping.is_set():
                reason = "its consumer stopped before its transaction arrived"
            return Outcome(None, reason, verdict="postpone", started=now)
        return None

    def _outcome(self, attempt: Attempt) -> Outcome:
        task = attempt.task
        now = self._clock()
        try:
            with attempt:
                return self._perform(attempt)
        except BaseException as exc:
            logger.exception("task %s: could not be dispatched", task.id)
            seconds = self._clock() - now
            error = traceback.format_exc()
            return Outcome(None, described(exc), error=error, started=now, seconds=seconds)

    def _visible(self, attempt: Attempt) -> bool:
        """Wait until the database of this process has the transaction that queued the task."""
        tid = attempt.lease.tid
        if tid is None or self._is_ready(tid):
            return True
        deadline = time.monotonic() + BARRIER
        # The lease is renewed, but the timeout of the task has not begun.
        with self._keeper.watch(attempt, timed=False):
            while not self._is_ready(tid):
                if time.monotonic() > deadline or self._stopping.wait(BARRIER_INTERVAL):
                    return False
        return True

    def _is_ready(self, tid: bytes) -> bool:
        try:
            return self._ready(tid)
        except LostTransaction:
            raise
        except Exception as exc:
            # Its database is away; the task waits, as for a transaction that is on its way.
            logger.debug("cannot tell whether a transaction has arrived (%s)", exc)
            return False

    def _finish(self, lease: Lease, transition: Transition) -> State | None:
        errors = 0
        # Decided once: what a try has reserved of which nobody has heard is found by the next.
        ahead = self._may_reserve_ahead()
        while True:
            try:
                state = self._finish_once(lease, transition, ahead)
            except Exception as exc:
                errors += 1
                away = isinstance(exc, StorageUnavailable)
                logger.error(
                    "task %s: %s, but its storage failed (%s), trying again",
                    lease.task.id,
                    transition.state,
                    exc,
                    exc_info=not away,
                )
                if not away:
                    # It may be something in the response that this storage cannot hold.
                    transition = _without_response(transition)
            else:
                _log_end(lease, transition, state)
                return state
            if not self._may_try_again(_pause(errors)):
                logger.error(
                    "task %s: %s, but stopped before its storage knew; it will run again",
                    lease.task.id,
                    transition.state,
                )
                return None

    def _may_try_again(self, pause: float) -> bool:
        """Wait; return False once the consumer has stopped and its grace period is over."""
        if not self._stopping.wait(pause):
            return True
        left = self._deadline - time.monotonic()
        return left > 0 and not self._hurried.wait(min(pause, left))

    def _may_reserve_ahead(self) -> bool:
        wanted = self._in_one and getattr(self._thread, "ahead", False)
        return wanted and not self._stopping.is_set() and time.monotonic() < self._next_chores

    def _finish_once(self, lease: Lease, transition: Transition, ahead: bool) -> State | None:
        if not ahead:
            state: State | None = self._storage.finish(lease, transition)
            return state
        state, self._thread.leases = self._storage.finish_and_reserve(
            lease, transition, self.settings.name, self.settings.lease
        )
        return state


def _without_response(transition: Transition) -> Transition:
    attempt = replace(transition.attempt, error="")
    return replace(transition, attempt=attempt, headers=(), body=b"", truncated=True)


def _storable(outcome: Outcome) -> Outcome:
    """The outcome without what no storage can hold: halves of surrogate pairs in a text."""
    texts = [outcome.reason, outcome.error, *chain.from_iterable(outcome.headers)]
    if "".join(texts).isascii():
        return outcome
    headers = tuple((_encodable(name), _encodable(value)) for name, value in outcome.headers)
    reason, error = _encodable(outcome.reason), _encodable(outcome.error)
    return replace(outcome, reason=reason, error=error, headers=headers)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _pause(errors: int) -> float:
    return random.uniform(0.5, 1.0) * min(0.1 * 2.0 ** min(errors, 10), MAX_PAUSE)


def _log_end(lease: Lease, transition: Transition, state: State | None) -> None:
    task_id = lease.task.id
    # A view's exception may have many lines, and whoever it quotes could forge one.
    reason = " ".join(transition.reason.split())
    if state is None:
        logger.warning("task %s: finished after its lease was lost, result dropped", task_id)
    elif state == CANCELLED:
        logger.info("task %s: cancelled while running", task_id)
    elif state == FAILED:
        logger.error("task %s: %s, failed", task_id, reason)
    elif state == SCHEDULED:
        logger.warning(
            "task %s: %s, attempt %d failed, next one in %.1f s",
            task_id,
            reason,
            lease.attempt,
            (transition.due or 0.0) - transition.attempt.started - transition.attempt.seconds,
        )
