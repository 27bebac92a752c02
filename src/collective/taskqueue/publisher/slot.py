"""The slot of a task: an object that exists if, and only if, an attempt of the task has committed.

A consumer allocates an object id with each reservation, and the storage of the queue keeps it with
the task until an attempt that used it has been reported. The publisher adds the slot at exactly
that id, in the transaction of the task. So

* a consumer that gets the task of a lost process finds out whether that process had committed;
* of two processes that run the task at the same time, only one can commit: for the database, both
  create the same object, and that is a conflict.

An object id alone proves nothing, because a storage may assign the id of an aborted transaction to
another object. So a slot has a uuid, too. No object refers to a slot: a pack removes it, but never
before an older one. So a reference names an older slot as well; if that is missing, too, a pack may
have removed both.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collective.taskqueue.consumer.redelivery import Found
from collective.taskqueue.consumer.redelivery import taken
from collective.taskqueue.publisher.answer import outcome_of_record
from collective.taskqueue.publisher.answer import Record
from collective.taskqueue.publisher.place import MAIN
from collective.taskqueue.publisher.place import may_be_packed
from collective.taskqueue.publisher.place import Place
from collective.taskqueue.publisher.place import writes
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from dataclasses import replace
from itertools import count
from persistent import Persistent
from transaction import TransactionManager
from transaction._transaction import Status
from transaction.interfaces import IDataManagerSavepoint
from transaction.interfaces import ISavepointDataManager
from transaction.interfaces import ISynchronizer
from transaction.interfaces import ITransaction
from typing import Any
from typing import NamedTuple
from uuid import uuid4
from weakref import WeakKeyDictionary
from ZODB.Connection import Connection
from ZODB.DB import DB
from ZODB.POSException import POSKeyError
from ZODB.utils import z64
from zodbpickle.pickle import dumps
from zope.interface import implementer
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds between two tries to commit a slot of no task.
PAUSE = 60.0


class Slot(Persistent):
    """The record of the answer of an attempt, as far as it was known when the attempt committed.

    The record is None if the view has committed by itself: then the rest of the view may not have
    run. A person who looks at the object finds the task by its id.
    """

    def __init__(self, uuid: str, task_id: str, attempt: int, record: Record | None) -> None:
        self.uuid = uuid
        self.task_id = task_id
        self.attempt = attempt
        self.record = record


#: The protocol of the pickles in a data record.
_PROTOCOL = 3

#: The beginning of the data record of a slot: ZODB stores the class, and then the state.
_CLASS = dumps(Slot, _PROTOCOL)


class Reference(NamedTuple):
    """What a storage keeps with a task: the places of its slot and of an older one, if known."""

    slot: Place
    older: Place | None

    def __str__(self) -> str:
        return "".join((*self.slot, *(self.older or UNKNOWN)))

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference of that text; raises `ValueError` for anything else."""
        if len(bytes.fromhex(text)) != 2 * (8 + 16):
            raise ValueError("no reference to a slot")
        older = Place(text[48:64], text[64:])
        return cls(Place(text[:16], text[16:48]), None if older == UNKNOWN else older)


#: The place of no object: the root object of a database has this id.
UNKNOWN = Place("0" * 16, "0" * 32)


class Slots:
    """Allocates slots in a database, and finds them again; a consumer has one.

    `classify` adds the verdict of the queue to an outcome that was found.
    """

    def __init__(
        self, database: DB, classify: Callable[[Outcome], Outcome] = lambda outcome: outcome
    ) -> None:
        self._database = database
        self._classify = classify
        self._lock = threading.Lock()
        #: The object id and the uuid of each.
        self._free: list[str] = []
        #: No other process has this beginning of a uuid; the rest is a number.
        self._prefix = uuid4().hex[:20]
        self._numbers = count(1)
        #: Monotonic time of the next try to commit a slot of no task.
        self._next = 0.0

    def take(self, number: int) -> list[str]:
        """Return references to `number` slots that no task has."""
        free: list[str] = []
        if self._free:
            with self._lock:
                free, self._free = self._free[:number], self._free[number:]
        free += [self._new() for _ in range(number - len(free))]
        older = "".join(_last_committed.get(self._database) or self._leave_one() or UNKNOWN)
        return [slot + older for slot in free]

    def put_back(self, references: Collection[str]) -> None:
        """Take back references that no task was given."""
        with self._lock:
            self._free += [reference[:48] for reference in references]

    def _new(self) -> str:
        oid: bytes = self._database.new_oid()
        return f"{oid.hex()}{self._prefix}{next(self._numbers):012x}"

    def _leave_one(self) -> Place | None:
        now = time.monotonic()
        if now < self._next:
            return None
        # A database that is read-only, or unavailable, is not asked each time.
        self._next = now + PAUSE
        return _leave_one(self._database)

    def find(self, reference: str, task: Task) -> Found:
        """Return what is at the object id of the slot of a task.

        Raises `ValueError` for a reference or a slot that cannot be read, and what an unavailable
        database raises.
        """
        found = find(self._database, Reference.parse(reference), task)
        if found.outcome is None:
            return found
        return found._replace(outcome=self._classify(found.outcome))


def find(database: DB, reference: Reference, task: Task) -> Found:
    """Return what is at the object id of the slot of a task, as the database has it now.

    Raises `ValueError` for a slot that this version cannot read.
    """
    _catch_up(database)
    slot = reference.slot
    connection = database.open(transaction_manager=TransactionManager())
    try:
        record, _ = connection._storage.load(bytes.fromhex(slot.oid))
        if slot.holds(record, Slot):
            state = _state(connection, record)
            if state["task_id"] == task.id:
                return Found(True, True, _outcome(task, state["record"]))
        return Found(True, may_be_packed=may_be_packed(database, reference.older, Slot))
    except POSKeyError:
        return Found(may_be_packed=may_be_packed(database, reference.older, Slot))
    finally:
        connection.transaction_manager.abort()
        connection.close()


@implementer(ISavepointDataManager, IDataManagerSavepoint, ISynchronizer)
class SlotWriter:
    """Adds the slot of an attempt to the first transaction of its thread that writes.

    The publisher registers it with the transaction manager of the thread. A transaction that only
    reads does not become one that writes; one that adds tasks does.

    It stores the data record of the slot beside the connection, not through it: an object would
    take a place in the cache of the connection, and more time.
    """

    transaction_manager = None

    def __init__(self, reference: str, task: Task, attempt: int) -> None:
        self._reference = reference
        self._task = task
        self._attempt = attempt
        #: Returns the record of the answer, once the view is done; the next commit is the last one.
        self.answer: Callable[[], Record] | None = None
        #: Returns the connection of the request: a transaction that only adds tasks needs it.
        self.connection: Callable[[], Connection] | None = None
        #: Whether a transaction with the slot was committed, and the record that it holds.
        self.is_used = False
        self._committed: Record | None = None
        #: The connection that commits the slot in the current transaction, and the record.
        self._writing: Connection | None = None
        self._record: Record | None = None
        #: The database of the last transaction that had the slot.
        self._database: DB | None = None

    def beforeCompletion(self, current: ITransaction) -> None:
        """See `ISynchronizer`; called before a commit and before an abort."""
        # A transaction that has failed is only aborted, and nothing can join it.
        if self.is_used or current.status not in (Status.ACTIVE, Status.DOOMED):
            return
        writing = _writing_main(current)
        connection = writing or self._of_request(current)
        if connection is None:
            return
        self._writing = connection
        self._record = None if self.answer is None else self.answer()
        if writing is not None:
            current.join(self)
        else:
            # An object, so that the connection takes part, and the added tasks get a witness.
            slot = Slot(self._reference[16:48], self._task.id, self._attempt, self._record)
            connection._add(slot, bytes.fromhex(self._reference[:16]))

    def commit(self, current: ITransaction) -> None:
        """Store the slot in the transaction of its connection, see `IDataManager`."""
        state = {
            "uuid": self._reference[16:48],
            "task_id": self._task.id,
            "attempt": self._attempt,
            "record": self._record,
        }
        data = _CLASS + dumps(state, _PROTOCOL)
        oid = bytes.fromhex(self._reference[:16])
        # As for each new object: if there is one with this id, that is a conflict.
        connection: Any = self._writing
        connection._normal_storage.store(oid, z64, data, "", current.data(connection))

    def tpc_begin(self, current: ITransaction) -> None:
        """See `IDataManager`: the connection does it, as all below."""

    tpc_vote = tpc_finish = tpc_abort = abort = tpc_begin

    def savepoint(self) -> SlotWriter:
        """See `ISavepointDataManager`; until the commit there is nothing to roll back."""
        return self

    def rollback(self) -> None:
        """See `IDataManagerSavepoint`."""

    def sortKey(self) -> str:
        """See `IDataManager`: the order is of no importance."""
        return "collective.taskqueue.slot"

    def afterCompletion(self, current: ITransaction) -> None:
        """See `ISynchronizer`; called after a commit, and after an abort."""
        # Each transaction has its own: another one may follow, with or without anything to write.
        self.answer = None
        writing, self._writing = self._writing, None
        if writing is None:
            return
        self._database = writing.db()
        if current.status == Status.COMMITTED:
            self.is_used, self._committed = True, self._record
            _last_committed[self._database] = Place(self._reference[:16], self._reference[16:48])

    def newTransaction(self, current: ITransaction) -> None:
        """See `ISynchronizer`."""

    def may_be_retried(self) -> bool:
        """Return whether the request may be made again, after a conflict.

        Not if another process has committed the slot, nor if this attempt has committed all.
        """
        return self._committed is None and self._look() is None

    def result(self, outcome: Outcome) -> Outcome:
        """Return the outcome of the attempt, if its request ended with this one.

        If another process has committed the slot, its outcome is that of the task. What fails
        after the last commit does not undo the commit.
        """
        # It refers to the request, and that to this: without a cycle both are freed at once.
        self.connection = None
        if not outcome.ok:
            outcome = self._look() or _outcome(self._task, self._committed) or outcome
        if outcome.drops_slot or not self.is_used:
            return outcome
        return replace(outcome, drops_slot=True)

    def _of_request(self, current: ITransaction) -> Connection | None:
        """Return the connection of the request, if the transaction adds tasks and nothing else.

        What it adds is not in the database, but it must not be added twice, either.
        """
        if self.connection is None:
            return None
        if not any(getattr(resource, "adds_tasks", False) for resource in current._resources):
            return None
        connection = self.connection()
        return connection if _is_main(connection) else None

    def _look(self) -> Outcome | None:
        """Return the outcome of an attempt that could not commit beside another one; or None.

        A database that is unavailable fences no attempt.
        """
        if self._database is None or self.is_used:
            return None
        try:
            found = find(self._database, Reference.parse(self._reference), self._task)
        except Exception as exc:
            logger.warning("task %s: its slot cannot be read (%s)", self._task.id, exc)
            return None
        if not found.is_there:
            return None
        if not found.is_slot:
            return taken()
        reason = "its lease was lost, and another attempt of the task has committed"
        return found.ended() or Outcome(None, reason, verdict="postpone", started=time.time())


def _leave_one(database: DB) -> Place | None:
    """Commit a slot of no task, so that there is an older one; None if that is not possible."""
    manager = TransactionManager()
    connection = database.open(transaction_manager=manager)
    try:
        slot = Slot(uuid4().hex, "", 0, None)
        connection.add(slot)
        manager.commit()
        found = _last_committed[database] = Place(slot._p_oid.hex(), slot.uuid)
        return found
    except Exception as exc:
        manager.abort()
        logger.debug("no slot can be committed (%s)", exc)
        return None
    finally:
        connection.close()


def _catch_up(database: DB) -> None:
    # A ZEO client learns of other transactions by messages of the server: after the answer to a
    # call it knows all that were committed before the call.
    ping = getattr(database.storage, "ping", None)
    if ping is not None:
        ping()


def _writing_main(current: ITransaction) -> Connection | None:
    """Return the connection to the main database, if the transaction writes with it."""
    for resource in current._resources:
        if isinstance(resource, Connection) and writes(resource) and _is_main(resource):
            return resource
    return None


def _is_main(connection: Connection) -> bool:
    name: str = connection.db().database_name
    return name == MAIN


def _state(connection: Connection, record: bytes) -> dict[str, Any]:
    try:
        state: dict[str, Any] = connection._reader.getState(record)
        return {name: state[name] for name in ("task_id", "record")}
    except Exception as exc:
        raise ValueError(f"its state cannot be read: {type(exc).__name__}") from exc


def _outcome(task: Task, record: Record | None) -> Outcome | None:
    return None if record is None else outcome_of_record(task, record)


#: The last slot of this process that is known to be committed, by database.
_last_committed: WeakKeyDictionary[DB, Place] = WeakKeyDictionary()
