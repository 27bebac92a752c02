"""Committed ⇔ queued: the only room that knows the transaction protocol.

Each transaction has one batch per queue, and each batch a pair of data managers:

* `_Stager` sorts before every storage. It stages the batch when the commit begins, while
  no commit lock is held; if the storage refuses, nothing at all is committed.
* `_Promoter` sorts after every storage. It promotes the batch when all others have
  finished; by then the data is visible, and nothing may be raised any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collective.taskqueue import indoubt
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.task import Task
from itertools import count
from transaction.interfaces import IDataManagerSavepoint
from transaction.interfaces import ISavepointDataManager
from transaction.interfaces import ITransaction
from typing import Any
from uuid import uuid4
from zope.interface import implementer
import logging
import random
import threading
import time
import transaction


logger = logging.getLogger("collective.taskqueue")

#: Batches to discard that are remembered at most.
MAX_LEFTOVERS = 1000

#: Longest pause in seconds between two tries to promote or resolve a batch.
MAX_PAUSE = 5.0


def join(queue: Any, task: Task) -> None:
    """Add the task to the batch of the current transaction for its queue.

    Raises whatever `transaction.join` raises for a transaction that has failed, and
    `TaskQueueError` if the transaction is already being committed. Called by `add`.
    """
    current = transaction.get()
    batch = _batch(current, queue)
    if batch is None:
        batch = _Batch(queue, current)
        current.join(_Stager(batch))
        current.join(_Promoter(batch))
        current.set_data(queue, batch)
    batch.append(task)


def pending(queue: Any) -> tuple[Task, ...]:
    """Return the tasks that the current transaction has added to the queue, in add order."""
    batch = _batch(transaction.get(), queue)
    return () if batch is None else tuple(batch.tasks)


def _batch(current: ITransaction, queue: Any) -> _Batch | None:
    try:
        batch: _Batch | None = current.data(queue)
    except KeyError:
        return None
    return batch


class _Batch:
    """The tasks that one transaction adds to one queue, in add order."""

    def __init__(self, queue: Any, current: ITransaction) -> None:
        self.queue = queue
        self.id = str(uuid4())
        self.tasks: list[Task] = []
        self.voted = False
        self._closed = False
        self._refused = False
        self._staged: tuple[Task, ...] = ()
        self._testimony: indoubt.Testimony | None = None
        self._transaction = current

    def append(self, task: Task) -> None:
        # Until the transaction is gone it still finds this batch, after its end, too.
        if self._closed:
            raise TaskQueueError("the transaction is ending or has ended; the task came too late")
        self.tasks.append(task)

    def forget(self) -> None:
        # After a rollback that unjoins the data managers the transaction goes on: the
        # next `add` must join again instead of finding this batch.
        self.tasks.clear()
        self._transaction.set_data(self.queue, None)

    def stage(self) -> None:
        self._closed = True
        if self.tasks:
            # Set first: a storage that stores and then fails to say so is discarded, too.
            self._staged = tuple(self.tasks)
            self._testimony = indoubt.testify(self._transaction)
            witness = None if self._testimony is None else self._testimony.reference
            self._refused = True
            self.queue.storage.stage(self.id, self._staged, witness)
            self._refused = False

    def promote(self) -> None:
        tasks, self._staged = self._staged, ()
        if not tasks:
            return
        testimony, self._testimony = self._testimony, None
        tid = None if testimony is None else testimony.confirm()
        try:
            _promote(self.queue, self.id, tid, tasks)
        except Exception as exc:
            # The user's work is saved; an error now would tell them otherwise.
            _log(tasks, "committed, but its storage failed (%s); trying again", exc)
            _in_background(_promote_until_done, self.queue, self.id, tid, tasks)

    def discard(self) -> None:
        tasks, self._staged = self._staged, ()
        if not tasks:
            return
        testimony, self._testimony = self._testimony, None
        if self.voted and testimony is not None:
            # Whether the database has committed is not known here; its witness knows.
            _log(tasks, "commit failed after the vote, in doubt until its witness is found")
            _in_background(
                _resolve_until_done,
                self.queue,
                self.id,
                testimony.databases,
                testimony.reference,
                tasks,
            )
            return
        if self._refused:
            # The storage may well be away; nobody needs to wait for it a second time.
            _leftovers.add(self.queue.storage, self.id)
            return
        try:
            self.queue.storage.discard(self.id)
        except Exception as exc:
            _log(tasks, "transaction aborted, stays staged because its storage failed (%s)", exc)
            _leftovers.add(self.queue.storage, self.id)


def _in_background(target: Callable[..., None], *args: Any) -> bool:
    try:
        threading.Thread(target=target, args=args, name="taskqueue-batch", daemon=True).start()
    except RuntimeError as exc:
        # No thread can be had, at exit or at a limit. The batch stays staged, and consumers
        # resolve it; nothing may be raised here.
        logger.error("nothing can be done in the background (%s), left to consumers", exc)
        return False
    return True


def _promote_until_done(
    queue: Any, batch_id: str, tid: bytes | None, tasks: tuple[Task, ...]
) -> None:
    for tries in count():
        time.sleep(_pause(tries))
        try:
            _promote(queue, batch_id, tid, tasks)
        except Exception as exc:
            logger.debug("task %s: still not promoted (%s)", tasks[0].id, exc)
        else:
            _log(tasks, "promoted after %s more tries", tries + 1, level=logging.INFO)
            return


def _resolve_until_done(
    queue: Any, batch_id: str, databases: Any, reference: str, tasks: tuple[Task, ...]
) -> None:
    deadline = time.monotonic() + indoubt.LONGEST_COMMIT
    for tries in count():
        try:
            tid = indoubt.committed(databases, reference)
            if tid is not None:
                _promote(queue, batch_id, tid, tasks)
                _log(tasks, "was committed after all, queued", level=logging.WARNING)
                return
            if time.monotonic() > deadline:
                queue.storage.discard(batch_id)
                _log(tasks, "was not committed, discarded", level=logging.WARNING)
                return
        except Exception as exc:
            logger.debug("task %s: still in doubt (%s)", tasks[0].id, exc)
        time.sleep(_pause(tries))


class _Leftovers:
    """Batches of aborted transactions that their storage could not discard at once.

    One thread for all of them, and only while there are any: a storage that is away for
    long refuses many. Those that do not fit are discarded by consumers, later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Any, str]] = deque(maxlen=MAX_LEFTOVERS)
        self._busy = False

    def add(self, storage: Any, batch_id: str) -> None:
        with self._lock:
            self._waiting.append((storage, batch_id))
            if not self._busy:
                self._busy = _in_background(self._work)

    def _work(self) -> None:
        tries = 0
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy = False
                    return
                storage, batch_id = self._waiting.popleft()
            try:
                storage.discard(batch_id)
                tries = 0
            except Exception as exc:
                logger.debug("batch %s: still not discarded (%s)", batch_id, exc)
                with self._lock:
                    self._waiting.append((storage, batch_id))
                time.sleep(_pause(tries))
                tries += 1


def _pause(tries: int) -> float:
    return random.uniform(0.5, 1.0) * float(min(0.1 * 2.0 ** min(tries, 10), MAX_PAUSE))


def _promote(queue: Any, batch_id: str, tid: bytes | None, tasks: tuple[Task, ...]) -> None:
    with queue.arrival([task.id for task in tasks]):
        queue.storage.promote(batch_id, tid, tasks)


def _log(tasks: tuple[Task, ...], message: str, *args: object, level: int = logging.ERROR) -> None:
    for task in tasks:
        logger.log(level, "task %s: %s", task.id, message % args)


class _DataManager:
    """The parts of the protocol in which neither of the two has anything to do."""

    transaction_manager = transaction.manager

    def __init__(self, batch: _Batch) -> None:
        self._batch = batch

    def abort(self, current: ITransaction) -> None:
        """See `IDataManager`."""

    def tpc_begin(self, current: ITransaction) -> None:
        """See `IDataManager`."""

    def commit(self, current: ITransaction) -> None:
        """See `IDataManager`."""

    def tpc_vote(self, current: ITransaction) -> None:
        """See `IDataManager`."""

    def tpc_finish(self, current: ITransaction) -> None:
        """See `IDataManager`."""

    def tpc_abort(self, current: ITransaction) -> None:
        """See `IDataManager`."""


@implementer(ISavepointDataManager)
class _Stager(_DataManager):
    """First of all: sorts before every storage, whatever its key."""

    def sortKey(self) -> str:
        """See `IDataManager`."""
        return f"\0collective.taskqueue:{self._batch.queue.name}"

    def savepoint(self) -> _Savepoint:
        """See `ISavepointDataManager`."""
        return _Savepoint(self._batch.tasks)

    def abort(self, current: ITransaction) -> None:
        """See `IDataManager`."""
        self._batch.forget()

    def tpc_begin(self, current: ITransaction) -> None:
        """See `IDataManager`."""
        self._batch.stage()


@implementer(ISavepointDataManager)
class _Promoter(_DataManager):
    """Last of all: sorts after every storage, and after those that put a tilde in front."""

    def sortKey(self) -> str:
        """See `IDataManager`."""
        return f"~~collective.taskqueue:{self._batch.queue.name}"

    def savepoint(self) -> _Savepoint:
        """See `ISavepointDataManager`."""
        return _Savepoint([])

    def tpc_vote(self, current: ITransaction) -> None:
        """See `IDataManager`."""
        self._batch.voted = True

    def tpc_finish(self, current: ITransaction) -> None:
        """See `IDataManager`."""
        self._batch.promote()

    def tpc_abort(self, current: ITransaction) -> None:
        """See `IDataManager`."""
        self._batch.discard()


@implementer(IDataManagerSavepoint)
class _Savepoint:
    """Remembers how many tasks there were; rollback drops those that came later."""

    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks
        self._length = len(tasks)

    def rollback(self) -> None:
        """See `IDataManagerSavepoint`."""
        del self._tasks[self._length :]


_leftovers = _Leftovers()
