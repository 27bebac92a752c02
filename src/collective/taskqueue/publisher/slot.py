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

    def take(self, number: int) -> list[str]:
        """Return references to `number` slots that no task has."""
        with self._lock:
            taken = [self._free.pop() for _ in range(min(number, len(self._free)))]
        taken += [_new(self._database) for _ in range(number - len(taken))]
        older = _last_committed.get(self._database) or _leave_one(self._database)
        return [str(Reference(place, older)) for place in taken]

    def put_back(self, references: Collection[str]) -> None:
        """Take back references that no task was given."""
        with self._lock:
            self._free += [Reference.parse(reference).slot for reference in references]

    def find(self, reference: str, task_id: str) -> Found:
        """Return what is at the object id of the slot of a task.

        Raises `ValueError` for no reference, and what an unavailable database raises.
        """
        found = find(self._database, Reference.parse(reference), task_id)
        if found.outcome is None:
            return found
        return found._replace(outcome=self._classify(found.outcome))


def find(database: DB, reference: Reference, task_id: str) -> Found:
    """Return what is at the object id of the slot of a task, as the database has it now."""
    _catch_up(database)
    slot = reference.slot
    connection = database.open(transaction_manager=TransactionManager())
    try:
        oid = bytes.fromhex(slot.oid)
        record, _ = connection._storage.load(oid)
        if not slot.holds(record):
            return Found(True, may_be_packed=_is_packed(database, reference.older))
        found = connection.get(oid)
        if found.task_id != task_id:
            return Found(is_there=True)
        outcome = found.outcome
        return Found(True, True, None if outcome is None else Outcome(**outcome))
    except POSKeyError:
        return Found(may_be_packed=_is_packed(database, reference.older))
    finally:
        connection.transaction_manager.abort()
        connection.close()


@implementer(ISynchronizer)
class SlotWriter:
    """Adds the slot of an attempt to the first transaction of its thread that writes.

    The publisher registers it with the transaction manager of the thread. A transaction that only
    reads does not become one that writes.
    """

    def __init__(self, reference: str, task_id: str, attempt: int) -> None:
        self._reference = Reference.parse(reference)
        self._made_of = task_id, attempt
        #: The outcome, once the view is done; the next commit is the last one.
        self.outcome: Outcome | None = None
        #: Whether a transaction with the slot was committed.
        self.is_used = False
        #: What was at the object id after the last conflict.
        self.fence = Found()
        self._database: DB | None = None

    def beforeCompletion(self, current: ITransaction) -> None:
        """See `ISynchronizer`; called before a commit and before an abort."""
        if self.is_used:
            return
        connection = next(filter(_writes_main, current._resources), None)
        if connection is not None:
            self._database = connection.db()
            slot = Slot(self._reference.slot.uuid, *self._made_of, self.outcome)
            connection._add(slot, bytes.fromhex(self._reference.slot.oid))

    def afterCompletion(self, current: ITransaction) -> None:
        """See `ISynchronizer`; called after a commit, and after an abort."""
        if self._database is not None and current.status == "Committed":
            self.is_used = True
            _last_committed[self._database] = self._reference.slot

    def newTransaction(self, current: ITransaction) -> None:
        """See `ISynchronizer`."""

    def is_fenced(self) -> bool:
        """Return whether another object is at the object id: this attempt can never commit.

        Called after a conflict; a database that is unavailable fences no attempt.
        """
        if self._database is not None and not self.is_used:
            try:
                self.fence = find(self._database, self._reference, self._made_of[0])
            except Exception as exc:
                logger.warning("task %s: its slot cannot be read (%s)", self._made_of[0], exc)
        return self.fence.is_there

    def fenced(self) -> Outcome | None:
        """Return the outcome of an attempt that could not commit beside another one; or None.

        If its lease is valid, the other one was of a lost process: its outcome is that of the
        task.
        """
        if not self.fence.is_there:
            return None
        if not self.fence.is_slot:
            return taken()
        reason = "its lease was lost, and another attempt of the task has committed"
        return self.fence.ended() or Outcome(None, reason, verdict="postpone", started=time.time())


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
        and resource.db().database_name == MAIN
        and bool(resource._registered_objects or resource._savepoint_storage is not None)
    )


def _fields(outcome: Outcome) -> dict[str, Any]:
    fields = {name: getattr(outcome, name) for name in outcome.__dataclass_fields__}
    body = outcome.body
    return fields | {
        "body": body[:MAX_BODY],
        "truncated": outcome.truncated or len(body) > MAX_BODY,
    }


#: The last slot of this process that is known to be committed, by database.
_last_committed: WeakKeyDictionary[DB, Place] = WeakKeyDictionary()
