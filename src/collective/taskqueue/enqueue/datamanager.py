"""Committed ⇔ queued: the only module that knows the transaction protocol.

Each transaction has one batch per queue, and each batch a pair of data managers:

* `_Stager` sorts before every storage. It stages the batch when the commit begins, while
  no commit lock is held; if the storage refuses, nothing is committed at all.
* `_Promoter` sorts after every storage. It promotes the batch when all others have
  finished: then the data is visible, and no exception may be raised any more.
"""

from __future__ import annotations

from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.task import Task
from transaction.interfaces import IDataManagerSavepoint
from transaction.interfaces import ISavepointDataManager
from transaction.interfaces import ITransaction
from transaction.interfaces import NoTransaction
from uuid import uuid4
from zope.interface import implementer
import logging
import transaction


def join(queue: Queue, task: Task) -> None:
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


def pending(queue: Queue) -> tuple[Task, ...]:
    """Return the tasks that the current transaction has added to the queue, in add order."""
    try:
        batch = _batch(transaction.get(), queue)
    except NoTransaction:
        # In explicit mode there is no transaction before `begin`.
        return ()
    return () if batch is None else tuple(batch.tasks)


def _batch(current: ITransaction, queue: Queue) -> _Batch | None:
    try:
        batch: _Batch | None = current.data(queue)
    except KeyError:
        return None
    return batch


class _Batch:
    """The tasks that one transaction adds to one queue, in add order."""

    def __init__(self, queue: Queue, current: ITransaction) -> None:
        self.queue = queue
        self.id = str(uuid4())
        self.tasks: list[Task] = []
        self.voted = False
        self._closed = False
        self._refused = False
        self._staged: tuple[Task, ...] = ()
        self._witness: indoubt.StoredWitness | None = None
        self._transaction = current

    def append(self, task: Task) -> None:
        # The transaction still finds this batch after its end, until the transaction is gone.
        if self._closed:
            raise TaskQueueError("the transaction is ending or has ended; the task came too late")
        self.tasks.append(task)

    def forget(self) -> None:
        # After a rollback that unjoins the data managers the transaction goes on: the next
        # `add` must join again instead of finding this batch.
        self.tasks.clear()
        self._transaction.set_data(self.queue, None)

    def stage(self) -> None:
        self._closed = True
        if self.tasks:
            # Set first: if the storage stages the batch and then raises, discard it, too.
            self._staged = tuple(self.tasks)
            self._witness = indoubt.add_witness(self._transaction)
            witness = None if self._witness is None else self._witness.reference
            self._refused = True
            outage_of(self.queue.storage).call(
                self.queue.storage.stage, self.id, self._staged, witness
            )
            self._refused = False

    def promote(self) -> None:
        tasks, self._staged = self._staged, ()
        if not tasks:
            return
        stored, self._witness = self._witness, None
        tid = None if stored is None else stored.confirm()
        if outbox.is_behind(self.queue):
            # Batches of earlier transactions come first, once the storage is available.
            outbox.log(
                tasks, "committed, waits behind earlier ones for its storage", level=logging.WARNING
            )
            outbox.promote_later(self.queue, self.id, tid, tasks)
            return
        try:
            outage_of(self.queue.storage).call(outbox.promote, self.queue, self.id, tid, tasks)
        except Exception as exc:
            # The user's work is committed; an error now would tell the user otherwise.
            outbox.log(
                tasks,
                "committed, but its storage failed (%s); trying again",
                exc,
                level=_level(exc),
            )
            outbox.promote_later(self.queue, self.id, tid, tasks)

    def discard(self) -> None:
        tasks, self._staged = self._staged, ()
        if not tasks:
            return
        stored, self._witness = self._witness, None
        if self.voted and stored is not None:
            # Whether the database has committed is not known here; the witness will show it.
            outbox.log(tasks, "commit failed after the vote, in doubt until its witness is found")
            outbox.resolve_later(self.queue, self.id, stored.databases, stored.reference, tasks)
            return
        if self._refused:
            # The storage may be unavailable: do not wait for it a second time.
            outbox.discard_later(self.queue.storage, self.id)
            return
        try:
            outage_of(self.queue.storage).call(self.queue.storage.discard, self.id)
        except Exception as exc:
            outbox.log(
                tasks,
                "transaction aborted, stays staged because its storage failed (%s)",
                exc,
                level=_level(exc),
            )
            outbox.discard_later(self.queue.storage, self.id)


def _level(exc: Exception) -> int:
    # The outage itself was logged as an error when it began; this is its effect on a task.
    return logging.WARNING if isinstance(exc, StorageUnavailable) else logging.ERROR


class _DataManager:
    """The methods of the protocol in which neither data manager does anything."""

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
    """Runs first: sorts before every storage, whatever the key of the storage."""

    def sortKey(self) -> str:
        """See `IDataManager`."""
        return f"\0collective.taskqueue:{self._batch.queue.name}"

    @property
    def adds_tasks(self) -> bool:
        """Whether the transaction has tasks; the slot of the task that added them has to know."""
        return bool(self._batch.tasks)

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
    """Runs last: sorts after every storage, and after keys that begin with a tilde."""

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
    """Remembers the number of tasks; a rollback drops the tasks that were added later."""

    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks
        self._length = len(tasks)

    def rollback(self) -> None:
        """See `IDataManagerSavepoint`."""
        del self._tasks[self._length :]
