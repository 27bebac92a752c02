"""The outbox relay: finishes batches that their transaction could not finish at its end.

The storage was unavailable when a batch was to be promoted or discarded, or the database failed
in the last phase of a commit. Such a job is tried again in the background until it is done. One
thread does all jobs, and only while there are any: a long outage of a storage leaves many. Jobs
are done in the order in which they were added, so that batches are promoted in the order of their
commits.

If this process dies first, consumers find the batches that are still staged; see `indoubt`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.errors import described
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from dataclasses import dataclass
import logging
import random
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Most jobs that are kept; batches that do not fit are left to consumers.
MAX_WAITING = 10_000

#: Seconds between two log lines about a job that fails for the same reason, if that is no outage
#: of its storage.
REMINDER_INTERVAL = 60.0

#: Tasks of a user that are read at once.
PAGE = 100

#: Longest pause in seconds between two rounds of tries.
MAX_PAUSE = 5.0


@dataclass(eq=False)
class _Job:
    """A job that is left to do; `act` returns whether it is done, or raises."""

    storage: Storage
    #: The subject in the log: a batch or a user.
    subject: str
    act: Callable[[], bool]
    tasks: Sequence[Task] = ()
    #: Later batches of the queue have to wait for this one: it has committed, and only an
    #: outage keeps it from being promoted.
    leads: bool = False
    #: The last error that was logged, and the monotonic time at which it was logged.
    error: str = ""
    logged: float = float("-inf")


def promote(queue: Queue, batch_id: str, tid: bytes | None, tasks: Sequence[Task]) -> None:
    """Promote a committed batch, and publish `ITaskQueued` for its tasks.

    Raises `StorageUnavailable`. Called by the data manager, and by the jobs here.
    """
    with queue.promoting([task.id for task in tasks]):
        queue.storage.promote(batch_id, tid, tasks)


def is_behind(queue: Queue) -> bool:
    """Return whether batches of the queue wait to be promoted; later ones have to wait, too."""
    return _relay.is_behind(queue.storage)


def promote_later(queue: Queue, batch_id: str, tid: bytes | None, tasks: Sequence[Task]) -> None:
    """Promote a batch whose transaction has committed once its storage is available."""

    def act() -> bool:
        promote(queue, batch_id, tid, tasks)
        log(tasks, "promoted after all", level=logging.INFO)
        return True

    _relay.add(_Job(queue.storage, f"batch {batch_id}", act, tasks, leads=True))


def resolve_later(
    queue: Queue, batch_id: str, databases: indoubt.Databases, witness: str, tasks: Sequence[Task]
) -> None:
    """Promote a batch once its witness is found, or discard it once there cannot be one."""
    begun = time.monotonic()

    def act() -> bool:
        try:
            verdict = indoubt.verdict_of(databases, witness, time.monotonic() - begun)
        except Exception as exc:
            # The database is unavailable and not the storage: do not hold up other jobs.
            logger.debug("batch %s: its database cannot be asked (%s)", batch_id, exc)
            return False
        if verdict.end == indoubt.COMMITTED:
            promote(queue, batch_id, verdict.tid, tasks)
            log(tasks, "was committed after all, queued", level=logging.WARNING)
        elif verdict.end == indoubt.ABORTED:
            queue.storage.discard(batch_id)
            log(tasks, "was not committed, discarded", level=logging.WARNING)
        elif verdict.end == indoubt.UNKNOWN:
            queue.storage.fail_batch(batch_id, indoubt.UNDECIDABLE)
        return verdict.end is not None

    _relay.add(_Job(queue.storage, f"batch {batch_id}", act, tasks))


def discard_later(storage: Storage, batch_id: str) -> None:
    """Discard the batch of an aborted transaction once its storage is available."""

    def act() -> bool:
        storage.discard(batch_id)
        return True

    _relay.add(_Job(storage, f"batch {batch_id}", act))


def cancel_later(queue: Queue, user: Identity, reason: str) -> None:
    """Cancel all waiting tasks of a user as soon as possible, and ask running ones to stop.

    Called when a user was deleted: there may be very many tasks, and the storage may be
    unavailable.
    """

    def act() -> bool:
        for state in (RUNNING, SCHEDULED, QUEUED):
            _cancel_all(queue, state, user, reason)
        return True

    _relay.add(_Job(queue.storage, f"user {user.id} of {user.folder}", act))


def _cancel_all(queue: Queue, state: State, user: Identity, reason: str) -> None:
    start = 0
    while page := queue.tasks(state, user, start, PAGE):
        for status in page:
            try:
                left = queue.cancel(status.id, reason) == state
            except (UnknownTask, ForbiddenTransition) as exc:
                logger.debug("task %s: not cancelled (%s)", status.id, exc)
                left = True
            # A running task stays in the list until it stops, a cancelled one does not.
            start += left


def flush(timeout: float) -> bool:
    """Wait up to `timeout` seconds until no job is left; return whether that is so."""
    return _relay.flush(timeout)


def close(timeout: float) -> None:
    """Flush, and log the jobs that are left then; called when the process ends."""
    if not flush(timeout):
        _relay.report()


def after_fork() -> None:
    """Called in a forked child: drop the thread and its jobs, which are the parent's."""
    global _relay
    _relay = Relay()


def log(tasks: Sequence[Task], message: str, *args: object, level: int = logging.ERROR) -> None:
    """Log the message once for each task, with its id."""
    for task in tasks:
        logger.log(level, "task %s: %s", task.id, message % args)


class Relay:
    """The jobs that are left, and the thread that does them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._busy = False

    def add(self, job: _Job) -> None:
        """Do the job soon. Never raises, because a transaction may be in its last phase."""
        with self._changed:
            if len(self._jobs) < MAX_WAITING:
                self._jobs.append(job)
                self._changed.notify_all()
                if not self._busy:
                    self._busy = self._start()
                return
        _leave(job, "too much waits to be done")

    def is_behind(self, storage: Storage) -> bool:
        """See the function `is_behind`."""
        with self._changed:
            return any(job.leads and job.storage is storage for job in self._jobs)

    def flush(self, timeout: float) -> bool:
        """See the function `flush`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout)

    def report(self) -> None:
        """Log the jobs that are left."""
        with self._changed:
            jobs = list(self._jobs)
        for job in jobs:
            _leave(job, "this process ends")

    def _start(self) -> bool:
        try:
            threading.Thread(target=self._work, name="taskqueue-batch", daemon=True).start()
        except RuntimeError as exc:
            # No thread can be started, at exit or at a limit. The next job tries again.
            logger.error("no thread for background work (%s), consumers resolve these batches", exc)
            return False
        return True

    def _work(self) -> None:
        tries = 0
        while True:
            with self._changed:
                jobs = list(self._jobs)
            done = _done(jobs)
            with self._changed:
                self._jobs = [job for job in self._jobs if job not in done]
                self._changed.notify_all()
                if not self._jobs:
                    self._busy = False
                    return
                tries = 0 if done else tries + 1
                self._changed.wait(_pause(tries))


def _done(jobs: list[_Job]) -> set[_Job]:
    """Try each job once; the jobs of an unavailable storage have to wait for the next round."""
    done: set[_Job] = set()
    away: list[Storage] = []
    for job in jobs:
        if any(job.storage is storage for storage in away):
            continue
        outage, begun = outage_of(job.storage), time.monotonic()
        try:
            # A job that is not done may not have called the storage at all.
            if job.act():
                done.add(job)
                outage.succeeded(begun)
        except StorageUnavailable as exc:
            # What the outage means for the tasks was logged when the job was added.
            outage.failed(exc)
            away.append(job.storage)
        except BaseException as exc:
            # A problem of this batch alone: the others must not wait for it.
            _complain(job, described(exc))
            job.leads = False
    return done


def _leave(job: _Job, cause: str) -> None:
    if job.tasks:
        log(job.tasks, "its %s is left to consumers, %s", job.subject, cause)
    else:
        logger.error("%s: left to consumers, %s", job.subject, cause)


def _complain(job: _Job, error: str) -> None:
    now = time.monotonic()
    if error != job.error or now - job.logged >= REMINDER_INTERVAL:
        job.error, job.logged = error, now
        logger.warning("%s: still not done (%s), trying again", job.subject, error)


def _pause(tries: int) -> float:
    return random.uniform(0.5, 1.0) * float(min(0.1 * 2.0 ** min(tries, 10), MAX_PAUSE))


_relay = Relay()
