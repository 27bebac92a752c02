"""The consumer: threads that take tasks from one queue, run them and report the results.

`step` is one iteration and needs no thread; `run` is the loop of a thread until `stop`.
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import policy
from collective.taskqueue.consumer import redelivery
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.batcher import Batcher
from collective.taskqueue.consumer.calls import Completion
from collective.taskqueue.consumer.calls import StorageCalls
from collective.taskqueue.consumer.ending import log_end
from collective.taskqueue.consumer.ending import storable
from collective.taskqueue.consumer.heartbeat import Heartbeat
from collective.taskqueue.consumer.order import Turn
from collective.taskqueue.consumer.pulse import Pulse
from collective.taskqueue.consumer.redelivery import Before
from collective.taskqueue.consumer.redelivery import Slots
from collective.taskqueue.consumer.shutdown import pause
from collective.taskqueue.consumer.shutdown import Shutdown
from collective.taskqueue.consumer.tally import tally
from collective.taskqueue.errors import described
from collective.taskqueue.errors import LostTransaction
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.storages.protocols import RemoteStorage
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from contextlib import AbstractContextManager
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from math import inf
from typing import cast
import logging
import threading
import time
import traceback


logger = logging.getLogger("collective.taskqueue")

#: Seconds a task waits for the transaction that queued it, before it is postponed.
BARRIER = 30.0

#: Seconds between two checks whether that transaction has arrived.
BARRIER_INTERVAL = 0.005

#: Seconds between two runs of the maintenance of a consumer.
MAINTENANCE_INTERVAL = 30.0

#: Seconds that `stop` waits for the heartbeat thread, which may be in a round trip.
HEARTBEAT_TIMEOUT = 1.0


class Consumer:
    """Runs the tasks of one storage.

    `perform` makes the request of an attempt and returns its outcome. `notify` is called
    with a state and a task id after each change. `clock` gives seconds since the epoch.
    `ready` tells whether a transaction is visible in this process; `maintenance` is called at
    intervals, between tasks.
    """

    def __init__(
        self,
        storage: Storage,
        perform: Callable[[Attempt], Outcome],
        settings: ServerSettings,
        notify: Callable[[str, str], None] = lambda state, task_id: None,
        clock: Callable[[], float] = time.time,
        ready: Callable[[bytes], bool] = lambda tid: True,
        maintenance: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings
        self._storage = storage
        self._outage = outage_of(storage)
        self._perform = perform
        self._notify = notify
        self._clock = clock
        self._ready = ready
        self._maintenance = maintenance
        self._next_maintenance = time.monotonic()
        self._label = f"taskqueue-{settings.queue}-{settings.name}"
        self._heartbeat = Heartbeat(storage, settings.lease, f"{self._label}-heartbeat")
        self._shutdown = Shutdown()
        self._calls = StorageCalls(storage, settings, self._shutdown, self._stored)
        #: What the threads of `run` use.
        self._batcher: StorageCalls | Batcher = self._calls
        if IRemoteStorage.providedBy(storage):
            self._batcher = Batcher(self._calls, cast(RemoteStorage, storage))
        #: Set by `use_turn`.
        self._turn: Turn | None = None
        #: Set by `use_slots`.
        self._max_deliveries: float = inf
        self._threads: list[threading.Thread] = []
        self._extra: set[threading.Thread] = set()
        self._pulse = Pulse()

    def use_slots(self, slots: Slots, max_deliveries: int) -> None:
        """Run no attempt again that has committed its slot; called before `start`.

        A task that was lost `max_deliveries` times runs no more: its slot is looked for, once.
        """
        self._calls.slots, self._max_deliveries = slots, max_deliveries

    def use_turn(self, turn: Turn) -> None:
        """Let tasks begin in the order of several queues; called before `start`."""
        self._turn = turn

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
        """Take no more tasks, and wait up to `grace` seconds for running tasks.

        A task that still runs then is logged and left alone: its transaction may yet commit,
        so its lease is not released before it expires.
        """
        self.begin_stop(grace)
        self.end_stop()
        self._heartbeat.join(HEARTBEAT_TIMEOUT)

    def begin_stop(self, grace: float | None = None) -> None:
        """The first half of `stop`: begin the grace period, and do not wait."""
        self._shutdown.begin(self.settings.grace if grace is None else grace)
        self._wake()
        logger.info(
            "consumer %s of queue %s: stopping, %d tasks running",
            self.settings.name,
            self.settings.queue,
            len(self._heartbeat.running()),
        )

    def end_stop(self) -> None:
        """The second half of `stop`: wait until the grace period that has begun is over."""
        for thread in self._threads:
            self._shutdown.join(thread, self._wake)
        # Only now: until they have ended, the threads may start more.
        for thread in list(self._extra):
            self._shutdown.join(thread, self._wake)
        self._batcher.close()
        for attempt in self._heartbeat.running():
            logger.error(
                "task %s: still running after the grace period, left unfinished", attempt.task.id
            )
        self._heartbeat.stop()
        self._unregister()
        logger.info("consumer %s of queue %s: stopped", self.settings.name, self.settings.queue)

    def stop_waiting(self) -> None:
        """End the wait of a `stop` for running tasks."""
        self._shutdown.stop_waiting()

    def rest(self) -> bool:
        """Take no more tasks until `resume`; return whether none runs any more.

        Call it until it returns True: a thread may have been about to wait for a task.
        """
        self._shutdown.rest()
        if not self._pulse.all_rest(self._threads):
            self._wake()
            return False
        return not self._extra and not self._heartbeat.running()

    def resume(self) -> None:
        """Take tasks again, after `rest`."""
        self._shutdown.resume()

    def stuck(self) -> list[str]:
        """Return the names of the threads that do not work any more; makes no call.

        In a local storage, and during an outage, threads may wait for long.
        """
        if self._shutdown.begun.is_set():
            return []
        busy = {watched.thread for watched in self._heartbeat.watched()}
        waits = self._outage.lasts() or not IRemoteStorage.providedBy(self._storage)
        return self._pulse.stuck(self._threads, busy, waits)

    def _unregister(self) -> None:
        if self._outage.lasts():
            # The call would fail after a wait. The storage drops a consumer that is silent.
            return
        try:
            self._outage.call(self._storage.admin.forget_consumer, self.settings.name)
        except Exception as exc:
            logger.debug("consumer %s: not unregistered (%s)", self.settings.name, exc)

    def _wake(self) -> None:
        self._batcher.wake()
        try:
            self._storage.wake()
        except Exception:
            logger.exception("consumer %s: cannot be woken, stopping", self.settings.name)

    def run(self) -> None:
        """Take and run tasks until `stop`; no error ends the thread."""
        errors = 0
        while not self._shutdown.begun.is_set():
            rests = not self._shutdown.takes
            self._pulse.beat(rests)
            if rests:
                self._shutdown.wait_while_resting()
                continue
            try:
                if self._turn is None:
                    self._run_next(self._batcher, None)
                else:
                    self._run_in_turn(self._batcher, self._turn)
                with self._idle():
                    self._maintain()
                errors = 0
            except StorageUnavailable:
                # The outage is logged once for all threads.
                errors += 1
            except BaseException:
                errors += 1
                logger.exception(
                    "consumer %s of queue %s: unexpected error, going on",
                    self.settings.name,
                    self.settings.queue,
                )
            if errors:
                with self._idle():
                    self._shutdown.begun.wait(pause(errors))

    def step(self, timeout: float | None = 0.0) -> int:
        """Wait up to `timeout` seconds (None: without limit) for a task, and run it.

        Returns how many tasks were taken: 1, or 0 if none came.
        """
        return self._run_next(self._calls, timeout)

    def _run_next(self, calls: StorageCalls | Batcher, timeout: float | None) -> int:
        leases = calls.take(timeout)
        for lease in leases:
            if self.settings.concurrent_limit:
                self._work(lease, calls)
            else:
                self._work_in_own_thread(lease, calls)
        return len(leases)

    def _run_in_turn(self, calls: StorageCalls | Batcher, turn: Turn) -> None:
        if not turn.wait(self._shutdown.begun):
            return
        with turn.idle():
            leases = calls.take(None)
        for lease in leases:
            if not turn.begin(self._shutdown.begun):
                calls.drop(lease)
                calls.release([lease])
                continue
            try:
                self._work(lease, calls)
            finally:
                turn.end()

    def _idle(self) -> AbstractContextManager[None]:
        """Let tasks of later queues begin while this thread does something else."""
        return nullcontext() if self._turn is None else self._turn.idle()

    def work(self, lease: Lease) -> Outcome | None:
        """Run one reserved task in this thread, finish it, and return its outcome.

        None if the task was released: the consumer stops, and the task could not begin yet.
        """
        return self._work(lease, self._calls)

    def _work(self, lease: Lease, calls: StorageCalls | Batcher) -> Outcome | None:
        try:
            return self._attempt(lease, calls)
        except _Stopped:
            calls.drop(lease)
            calls.release([lease])
            return None
        except BaseException:
            calls.drop(lease)
            raise

    def _attempt(self, lease: Lease, calls: StorageCalls | Batcher) -> Outcome:
        attempt = Attempt(lease, self._storage, self.settings.retry_max_count)
        since = self._since(lease.task)
        before = self._before(attempt)
        attempt.slot = before.slot
        undispatched = before.outcome or self._outcome_without_dispatch(attempt, since)
        self._notify("running", lease.task.id)
        watched = self._heartbeat.watch(attempt)
        release = partial(self._heartbeat.end, watched)
        try:
            self._heartbeat.begin(watched)
            outcome = storable(undispatched or self._outcome(attempt))
            if before.drops_slot:
                outcome = replace(outcome, drops_slot=True)
            transition = policy.next_transition(lease, outcome, self._clock(), since=since)
            calls.complete(Completion(lease, transition, release))
        except BaseException:
            # Otherwise its lease would be renewed for ever.
            release()
            raise
        return outcome

    def _before(self, attempt: Attempt) -> Before:
        """Return what earlier deliveries have left."""
        lease = attempt.lease
        if lease.attempt == 1:
            return Before(slot=lease.slot)
        # The database may take longer to answer than the lease lasts.
        with self._heartbeat.watch(attempt, timed=False):
            return redelivery.look(self._calls.slots, lease, self._max_deliveries)

    def _stored(self, completion: Completion, state: State | None) -> None:
        log_end(completion.lease, completion.transition, state)
        tally.add(state)
        if state is not None:
            self._notify(state, completion.lease.task.id)

    def _maintain(self) -> None:
        now = time.monotonic()
        if now >= self._next_maintenance:
            self._next_maintenance = now + MAINTENANCE_INTERVAL
            self._outage.call(self._maintenance)

    def _work_in_own_thread(self, lease: Lease, calls: StorageCalls | Batcher) -> None:
        def work() -> None:
            try:
                self._work(lease, calls)
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
                "task %s: no thread can be started (%s), other tasks wait for it",
                lease.task.id,
                exc,
            )
            self._extra.discard(thread)
            self._work(lease, calls)

    def _since(self, task: Task) -> float:
        """Return when the `max_age` of the task began to count."""
        if task.max_age is not None:
            try:
                status: TaskStatus = self._outage.call(self._storage.admin.get, task.id, brief=True)
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

    def _outcome_without_dispatch(self, attempt: Attempt, since: float) -> Outcome | None:
        """Return the outcome of a task that cannot be dispatched; None if it can be.

        Raises `_Stopped` if the consumer stops before that is known.
        """
        task = attempt.task
        now = self._clock()
        if task.max_age is not None and now > since + task.max_age:
            reason = f"older than its max_age of {task.max_age:g} s"
            return Outcome(None, reason, verdict="discard", started=now)
        try:
            visible = self._visible(attempt)
        except LostTransaction as exc:
            # A person decides: the objects that the task is about may be lost as well.
            return Outcome(None, str(exc), verdict="discard", started=now)
        if not visible:
            if self._shutdown.begun.is_set():
                raise _Stopped
            reason = f"its transaction did not arrive within {BARRIER:g} s"
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
        with self._heartbeat.watch(attempt, timed=False):
            while not self._is_ready(tid):
                if time.monotonic() > deadline or self._shutdown.begun.wait(BARRIER_INTERVAL):
                    return False
        return True

    def _is_ready(self, tid: bytes) -> bool:
        try:
            return self._ready(tid)
        except LostTransaction:
            raise
        except Exception as exc:
            # Its database is unavailable; the task waits, as for a transaction on its way.
            logger.debug("cannot tell whether a transaction has arrived (%s)", exc)
            return False


class _Stopped(Exception):
    """The consumer stops before the task could begin."""
