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
from collective.taskqueue.task import Outcome
from dataclasses import replace
from persistent import Persistent
from transaction import TransactionManager
from transaction.interfaces import ISynchronizer
from transaction.interfaces import ITransaction
from typing import Any
from typing import NamedTuple
from uuid import uuid4
from weakref import WeakKeyDictionary
from ZODB.Connection import Connection
from ZODB.DB import DB
from ZODB.POSException import POSKeyError
from ZODB.utils import get_pickle_metadata
from zope.interface import implementer
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Name of the database in which slots are.
MAIN = "main"

#: Most bytes of a body that a slot keeps.
MAX_BODY = 1024

#: Seconds between two tries to commit a slot of no task.
PAUSE = 60.0


class Slot(Persistent):
    """What an attempt knew of its outcome when it committed.

    `outcome` has fields of `Outcome`; None if the view has committed by itself, because then the
    rest of the view may not have run.
    """

    def __init__(self, uuid: str, task_id: str, attempt: int, outcome: Outcome | None) -> None:
        self.uuid = uuid
        self.task_id = task_id
        self.attempt = attempt
        self.outcome = None if outcome is None else _fields(outcome)


class Place(NamedTuple):
    """An object id and a uuid, in hexadecimal digits."""

    oid: str
    uuid: str

    def holds(self, record: bytes) -> bool:
        """Return whether the data record at this object id is that of this slot."""
        # The record of another object is not parsed: it may contain anything.
        mine = Slot.__module__, Slot.__qualname__
        return self.uuid.encode() in record and get_pickle_metadata(record) == mine


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
        self._free: list[Place] = []
        #: Monotonic time of the next try to commit a slot of no task.
        self._next = 0.0

    def take(self, number: int) -> list[str]:
        """Return references to `number` slots that no task has."""
        with self._lock:
            taken = [self._free.pop() for _ in range(min(number, len(self._free)))]
        taken += [_new(self._database) for _ in range(number - len(taken))]
        older = _last_committed.get(self._database) or self._leave_one()
        return [str(Reference(place, older)) for place in taken]

    def _leave_one(self) -> Place | None:
        now = time.monotonic()
        if now < self._next:
            return None
        # A database that is read-only, or unavailable, is not asked each time.
        self._next = now + PAUSE
        return _leave_one(self._database)

    def put_back(self, references: Collection[str]) -> None:
        """Take back references that no task was given."""
        with self._lock:
            self._free += [Reference.parse(reference).slot for reference in references]

    def find(self, reference: str, task_id: str) -> Found:
        """Return what is at the object id of the slot of a task.

        Raises `ValueError` for a reference or a slot that cannot be read, and what an unavailable
        database raises.
        """
        found = find(self._database, Reference.parse(reference), task_id)
        if found.outcome is None:
            return found
        return found._replace(outcome=self._classify(found.outcome))


def find(database: DB, reference: Reference, task_id: str) -> Found:
    """Return what is at the object id of the slot of a task, as the database has it now.

    Raises `ValueError` for a slot that this version cannot read.
    """
    _catch_up(database)
    slot = reference.slot
    connection = database.open(transaction_manager=TransactionManager())
    try:
        record, _ = connection._storage.load(bytes.fromhex(slot.oid))
        if slot.holds(record):
            state = _state(connection, record)
            if state["task_id"] == task_id:
                return Found(True, True, _outcome(state))
        return Found(True, may_be_packed=_is_packed(database, reference.older))
    except POSKeyError:
        return Found(may_be_packed=_is_packed(database, reference.older))
    finally:
        connection.transaction_manager.abort()
        connection.close()


@implementer(ISynchronizer)
class SlotWriter:
    """Adds the slot of an attempt to the first transaction of its thread that writes.

    The publisher registers it with the transaction manager of the thread. A transaction that only
    reads does not become one that writes; one that adds tasks does.
    """

    def __init__(self, reference: str, task_id: str, attempt: int) -> None:
        self._reference = Reference.parse(reference)
        self._made_of = task_id, attempt
        #: Returns the outcome, once the view is done; the next commit is the last one.
        self.outcome: Callable[[], Outcome] | None = None
        #: The connection of the request; it gets the slot of a transaction that only adds tasks.
        self.connection: Connection | None = None
        #: Whether a transaction with the slot was committed; the outcome that it holds.
        self.is_used = False
        self.committed: Outcome | None = None
        #: The slot in the current transaction; the database of the last one.
        self._slot: Slot | None = None
        self._outcome: Outcome | None = None
        self._database: DB | None = None

    def beforeCompletion(self, current: ITransaction) -> None:
        """See `ISynchronizer`; called before a commit and before an abort."""
        connection = None if self.is_used else self._connection(current)
        if connection is None:
            return
        self._database = connection.db()
        outcome = None if self.outcome is None else self.outcome()
        slot = Slot(self._reference.slot.uuid, *self._made_of, outcome)
        connection._add(slot, bytes.fromhex(self._reference.slot.oid))
        self._slot, self._outcome = slot, outcome

    def afterCompletion(self, current: ITransaction) -> None:
        """See `ISynchronizer`; called after a commit, and after an abort."""
        # Each transaction has its own: another one may follow, with or without anything to write.
        slot, self._slot, self.outcome = self._slot, None, None
        if slot is not None and current.status == "Committed":
            self.is_used, self.committed = True, self._outcome
            _last_committed[self._database] = self._reference.slot

    def newTransaction(self, current: ITransaction) -> None:
        """See `ISynchronizer`."""

    def may_be_retried(self) -> bool:
        """Return whether the request may be made again, after a conflict.

        Not if another process has committed the slot, nor if this attempt has committed all.
        """
        return self.committed is None and self._look() is None

    def result(self, outcome: Outcome) -> Outcome:
        """Return the outcome of the attempt, if its request ended with this one.

        If another process has committed the slot, its outcome is that of the task. What fails
        after the last commit does not undo the commit.
        """
        if not outcome.ok:
            outcome = self._look() or self.committed or outcome
        return replace(outcome, drops_slot=outcome.drops_slot or self.is_used)

    def _connection(self, current: ITransaction) -> Connection | None:
        writing = next(filter(_writes_main, current._resources), None)
        # What it adds is not in the database, but it must not be added twice, either.
        adds = any(getattr(resource, "adds_tasks", False) for resource in current._resources)
        if writing is None and adds and self.connection is not None and _is_main(self.connection):
            return self.connection
        return writing

    def _look(self) -> Outcome | None:
        """Return the outcome of an attempt that could not commit beside another one; or None.

        A database that is unavailable fences no attempt.
        """
        if self._database is None or self.is_used:
            return None
        task_id = self._made_of[0]
        try:
            found = find(self._database, self._reference, task_id)
        except Exception as exc:
            logger.warning("task %s: its slot cannot be read (%s)", task_id, exc)
            return None
        if not found.is_there:
            return None
        if not found.is_slot:
            return taken()
        reason = "its lease was lost, and another attempt of the task has committed"
        return found.ended() or Outcome(None, reason, verdict="postpone", started=time.time())


def _new(database: DB) -> Place:
    oid: bytes = database.new_oid()
    return Place(oid.hex(), uuid4().hex)


def _leave_one(database: DB) -> Place | None:
    """Commit a slot of no task, so that there is an older one; None if that is not possible."""
    manager = TransactionManager()
    connection = database.open(transaction_manager=manager)
    try:
        slot = Slot(uuid4().hex, "", 0, None)
        connection.add(slot)
        manager.commit()
        place = _last_committed[database] = Place(slot._p_oid.hex(), slot.uuid)
        return place
    except Exception as exc:
        manager.abort()
        logger.debug("no slot can be committed (%s)", exc)
        return None
    finally:
        connection.close()


def _is_packed(database: DB, older: Place | None) -> bool:
    """Return whether a pack may have removed a slot that was committed after the older one."""
    if older is None:
        return True
    oid = bytes.fromhex(older.oid)
    try:
        # Ask the database itself: caches of connections and clients survive a pack.
        history = database.history(oid)
        return not (history and older.holds(database.storage.loadSerial(oid, history[0]["tid"])))
    except KeyError:
        return True


def _catch_up(database: DB) -> None:
    # A ZEO client learns of other transactions by messages of the server: after the answer to a
    # call it knows all that were committed before the call.
    ping = getattr(database.storage, "ping", None)
    if ping is not None:
        ping()


def _writes_main(resource: Any) -> bool:
    return (
        isinstance(resource, Connection)
        and _is_main(resource)
        and bool(resource._registered_objects or resource._savepoint_storage is not None)
    )


def _is_main(connection: Connection) -> bool:
    name: str = connection.db().database_name
    return name == MAIN


def _fields(outcome: Outcome) -> dict[str, Any]:
    body = outcome.body
    fields = {name: getattr(outcome, name) for name in _KEPT}
    return fields | {
        "body": body[:MAX_BODY],
        "truncated": outcome.truncated or len(body) > MAX_BODY,
    }


def _state(connection: Connection, record: bytes) -> dict[str, Any]:
    try:
        state: dict[str, Any] = connection._reader.getState(record)
        return {name: state[name] for name in ("task_id", "outcome")}
    except Exception as exc:
        raise ValueError(f"its state cannot be read: {type(exc).__name__}") from exc


def _outcome(state: dict[str, Any]) -> Outcome | None:
    fields = state["outcome"]
    try:
        return None if fields is None else Outcome(**fields)
    except TypeError as exc:
        raise ValueError("its outcome is of another version") from exc


#: The fields of an outcome that a slot has; the others follow from the place of the slot.
_KEPT = ("status", "reason", "headers", "body", "truncated", "retry_after", "started", "seconds")

#: The last slot of this process that is known to be committed, by database.
_last_committed: WeakKeyDictionary[DB, Place] = WeakKeyDictionary()
