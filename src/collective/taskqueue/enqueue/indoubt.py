"""Batches in doubt: the witness shows whether their transaction has committed.

With each staged batch one tiny object, the witness, is written to the database in the very
same transaction. No object refers to it. If it exists, the transaction has committed, and the
serial of the witness is the transaction id. So if a process died between the commit and the
promotion, its batch is promoted later; if the transaction was aborted, the batch is discarded.

An object id alone proves nothing: a storage assigns ids from memory, and after a restart it
assigns the ids of an aborted transaction to other objects. So a witness has a uuid, which the
batch stores, too, and only the object with that uuid is this witness.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collective.taskqueue.errors import LostTransaction
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.publisher.place import MAIN
from collective.taskqueue.publisher.place import may_be_packed
from collective.taskqueue.publisher.place import Place
from collective.taskqueue.publisher.place import writes
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import StagedBatch
from contextlib import AbstractContextManager
from contextlib import nullcontext
from dataclasses import dataclass
from persistent import Persistent
from persistent.timestamp import TimeStamp
from transaction import TransactionManager
from transaction.interfaces import ITransaction
from typing import NamedTuple
from uuid import uuid4
from ZODB.Connection import Connection
from ZODB.DB import DB
from ZODB.POSException import POSKeyError
from ZODB.utils import z64
import logging
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds after staging before another process may resolve a batch.
GRACE = 60.0

#: Seconds by which the clocks of the machines that commit may differ.
SKEW = 60.0

#: Seconds after which a transaction without its witness is taken to be aborted.
LONGEST_COMMIT = 3600.0


#: How a transaction can end.
COMMITTED = "committed"
ABORTED = "aborted"
UNKNOWN = "unknown"

#: The reason of tasks that are failed because the end of their transaction is unknown.
UNDECIDABLE = "it is unknown whether its transaction was committed"

#: All databases of the process, by name.
Databases = Mapping[str, DB]

#: The type of `ITaskQueue.promoting`.
Promoting = Callable[[Collection[str]], AbstractContextManager[None]]


@dataclass(frozen=True)
class Verdict:
    """How a transaction ended; `end` is None as long as it may still commit.

    `tid` is its id, if it has committed and consumers can wait for it.
    """

    end: str | None
    tid: bytes | None = None


def _without_events(task_ids: Collection[str]) -> AbstractContextManager[None]:
    return nullcontext()


class Witness(Persistent):
    """An object that exists if, and only if, the transaction that wrote it committed."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid


class _Reference(NamedTuple):
    """What a staged batch stores: a database, its witness, and an older one to detect a pack."""

    database: str
    witness: Place
    older: Place | None

    def __str__(self) -> str:
        return ":".join((self.database, *self.witness, *(self.older or ("", ""))))

    @classmethod
    def parse(cls, text: str) -> _Reference:
        """Return the reference of that text; raises `ValueError` for anything else."""
        database, oid, uuid, older_oid, older_uuid = text.rsplit(":", 4)
        for digits in (oid, uuid, older_oid, older_uuid):
            bytes.fromhex(digits)
        if len(oid) != 16 or len(uuid) != 32:
            raise ValueError("no object id, or no uuid")
        return cls(database, Place(oid, uuid), Place(older_oid, older_uuid) if older_oid else None)


class StoredWitness:
    """A witness on its way into the database, and how to find it again."""

    def __init__(self, connection: Connection) -> None:
        self._witness = Witness(uuid4().hex)
        self._database = connection.db()
        self._name = self._database.database_name
        connection.add(self._witness)
        self._known = Place(self._witness._p_oid.hex(), self._witness.uuid)
        #: The text of a `_Reference`.
        self.reference = str(_Reference(self._name, self._known, _last_seen.get(self._name)))

    @property
    def databases(self) -> Databases:
        """All databases of the process, by name."""
        return self._database.databases

    def confirm(self) -> bytes | None:
        """Called when the database has finished; return the transaction id if it is usable."""
        _last_seen[self._name] = self._known
        if self._name != MAIN:
            return None
        serial: bytes = self._witness._p_serial
        # After a savepoint the witness is a ghost without a serial; the last transaction is
        # this one, or a later one that includes it.
        return serial if serial != z64 else self._database.lastTransaction()


def add_witness(current: ITransaction) -> StoredWitness | None:
    """Add a witness to the transaction that is about to commit; None if it writes nothing.

    A transaction that only reads does not become one that writes. Called by the data
    manager before any storage begins to commit.
    """
    try:
        stored: StoredWitness = current.data(Witness)
        return stored
    except KeyError:
        pass
    connections = [
        resource
        for resource in current._resources
        if isinstance(resource, Connection) and writes(resource)
    ]
    if not connections:
        return None
    # Prefer the main database if it takes part: others may be memory only.
    connections.sort(key=lambda connection: connection.db().database_name != MAIN)
    stored = StoredWitness(connections[0])
    # One witness is enough, however many queues the transaction adds to.
    current.set_data(Witness, stored)
    return stored


def verdict_of(databases: Databases, reference: str, age: float) -> Verdict:
    """Return how the transaction with this witness has ended, if that is known yet.

    `age` is the number of seconds since the batch was staged. Raises `KeyError` for a database
    that is not configured any more, and what an unavailable database raises.
    """
    try:
        found = _Reference.parse(reference)
    except ValueError:
        return Verdict(UNKNOWN)
    database = databases[found.database]
    tid = _serial(database, found.witness)
    if tid is not None:
        # Consumers can check only for the main database which transactions they see.
        return Verdict(COMMITTED, tid if found.database == MAIN else None)
    if age < LONGEST_COMMIT:
        return Verdict(None)
    return Verdict(UNKNOWN if may_be_packed(database, found.older, Witness) else ABORTED)


def resolve(
    storage: Storage,
    databases: Databases,
    grace: float = GRACE,
    promoting: Promoting = _without_events,
) -> list[str]:
    """Resolve batches that were staged at least `grace` seconds ago.

    `promoting` is that of the queue. Returns the ids of the batches that were resolved. Called
    by consumers.
    """
    found = storage.admin.in_doubt(grace)
    return [batch.id for batch in found if _settled(storage, databases, batch, promoting)]


def _settled(
    storage: Storage, databases: Databases, batch: StagedBatch, promoting: Promoting
) -> bool:
    try:
        return _resolved(storage, databases, batch, promoting)
    except TaskDecodeError as exc:
        # The batch would be unreadable later, too, and would be tried for ever.
        storage.discard(batch.id)
        logger.error("batch %s: cannot be read (%s), discarded", batch.id, exc)
        return True
    except StorageUnavailable:
        raise
    except Exception as exc:
        # Its database may be missing in this process; the other batches can be resolved.
        logger.warning("batch %s: stays in doubt (%s: %s)", batch.id, type(exc).__name__, exc)
        return False


def reached(database: DB, tid: bytes) -> bool:
    """Return whether connections that are opened now see the transaction.

    Another process may have committed it, and this process may not know yet. Called before a
    task starts.
    """
    if database.lastTransaction() >= tid:
        return True
    # Some storages update their last transaction only when a connection syncs.
    connection = database.open(transaction_manager=TransactionManager())
    try:
        connection.sync()
        return bool(connection._storage.lastTransaction() >= tid)
    finally:
        connection.close()


class Restored:
    """Detects transactions that are missing because the database was restored from a backup.

    A transaction that is later than the last one of the database, but was committed well
    before the database was opened, cannot arrive any more: it was lost when the database was
    restored from an older backup, unless the clocks of the machines differ by more than
    `SKEW`.
    """

    def __init__(self, database: DB, now: float) -> None:
        self._last = _last_transaction(database)
        self._opened = _tid_at(now - SKEW)

    def check(self, tid: bytes) -> None:
        """Raise `LostTransaction` for a transaction that was lost."""
        if self._last != z64 and self._last < tid < self._opened:
            raise LostTransaction(
                "its transaction is not in the database, which was restored from an older backup"
            )


def _last_transaction(database: DB) -> bytes:
    connection = database.open(transaction_manager=TransactionManager())
    try:
        connection.sync()
        return connection._storage.lastTransaction() or z64
    finally:
        connection.close()


def _tid_at(when: float) -> bytes:
    seconds = time.gmtime(when)
    stamp: bytes = TimeStamp(*seconds[:5], seconds[5] + when % 1).raw()
    return stamp


def _resolved(
    storage: Storage, databases: Databases, batch: StagedBatch, promoting: Promoting
) -> bool:
    if batch.witness is None:
        # Only tasks were written. Their client may have been told that they are queued: the
        # storage may have been unavailable from then on until the process was gone.
        storage.fail_batch(batch.id, UNDECIDABLE)
        return True
    verdict = verdict_of(databases, batch.witness, batch.age)
    if verdict.end == COMMITTED:
        with promoting(batch.tasks):
            storage.promote(batch.id, verdict.tid)
        for task_id in batch.tasks:
            logger.warning("task %s: its transaction was committed, queued late", task_id)
    elif verdict.end == ABORTED:
        _discard(storage, batch, "its transaction was not committed")
    elif verdict.end == UNKNOWN:
        storage.fail_batch(batch.id, UNDECIDABLE)
    return verdict.end is not None


def _discard(storage: Storage, batch: StagedBatch, cause: str) -> None:
    storage.discard(batch.id)
    for task_id in batch.tasks:
        logger.warning("task %s: %s, discarded", task_id, cause)


def _serial(database: DB, witness: Place) -> bytes | None:
    """Return the id of the transaction that wrote the witness; None if it is not there."""
    # A new connection sees what is committed now; the thread's own may see an older state.
    connection = database.open(transaction_manager=TransactionManager())
    try:
        record, serial = connection._storage.load(bytes.fromhex(witness.oid))
        return serial if witness.holds(record, Witness) else None
    except POSKeyError:
        return None
    finally:
        connection.close()


#: The last witness of this process that is known to be committed, by database.
_last_seen: dict[str, Place] = {}
