"""Batches whose commit has an unknown end: the witness tells.

With each staged batch one tiny object, the witness, is written to the database in the very
same transaction. Nothing refers to it; but if it exists, the transaction has committed,
and its serial is the transaction id. So a batch whose process died between the commit and
the promotion is promoted later, and one whose transaction was aborted is discarded.

An object id proves nothing: a storage hands ids out from memory, and after a restart it gives
those of a transaction that was aborted to the next objects of somebody else. So a witness has
a uuid, which the batch knows, too, and only the object with that uuid is this witness.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collective.taskqueue.errors import LostTransaction
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.task import StagedBatch
from contextlib import AbstractContextManager
from contextlib import nullcontext
from dataclasses import dataclass
from persistent import Persistent
from persistent.timestamp import TimeStamp
from transaction import TransactionManager
from transaction.interfaces import ITransaction
from typing import Any
from typing import NamedTuple
from uuid import uuid4
from ZODB.Connection import Connection
from ZODB.POSException import POSKeyError
from ZODB.utils import get_pickle_metadata
from ZODB.utils import z64
import logging
import time


logger = logging.getLogger("collective.taskqueue")

#: Name of the database whose transactions tasks wait for.
MAIN = "main"

#: Seconds after staging before anybody but its own process looks at a batch.
GRACE = 60.0

#: Seconds by which the clocks of the machines that commit may differ.
SKEW = 60.0

#: Seconds after which a commit that has not arrived is taken to be aborted.
LONGEST_COMMIT = 3600.0


#: Ends of a transaction.
COMMITTED = "committed"
ABORTED = "aborted"
UNKNOWN = "unknown"

#: Why the tasks of a transaction with an unknown end have failed.
NOBODY_KNOWS = "nobody can tell whether its transaction was committed"

#: What `ITaskQueue.arrival` is.
Arrival = Callable[[Collection[str]], AbstractContextManager[None]]


@dataclass(frozen=True)
class Verdict:
    """How a transaction ended; `end` is None as long as it may still commit.

    `tid` is its id, if it has committed and consumers can wait for it.
    """

    end: str | None
    tid: bytes | None = None


def _told_by_nobody(task_ids: Collection[str]) -> AbstractContextManager[None]:
    return nullcontext()


class Witness(Persistent):
    """An object that exists if, and only if, the transaction that wrote it committed."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid


class _Known(NamedTuple):
    """Which object a witness is: its object id in hexadecimal digits, and its uuid."""

    oid: str
    uuid: str

    def is_in(self, record: bytes) -> bool:
        """Return whether a data record of the database is that of this witness."""
        # Of what is another object nothing is parsed: its record may be anything.
        return self.uuid.encode() in record and get_pickle_metadata(record) == (
            Witness.__module__,
            Witness.__qualname__,
        )


class _Reference(NamedTuple):
    """What a staged batch knows: a database, its witness, and an older one that vouches for it."""

    database: str
    witness: _Known
    older: _Known | None

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
        return cls(
            database, _Known(oid, uuid), _Known(older_oid, older_uuid) if older_oid else None
        )


class Testimony:
    """A witness on its way into the database, and how to find it again."""

    def __init__(self, connection: Any) -> None:
        self._witness = Witness(uuid4().hex)
        self._database = connection.db()
        self._name = self._database.database_name
        connection.add(self._witness)
        self._known = _Known(self._witness._p_oid.hex(), self._witness.uuid)
        #: The text of a `_Reference`.
        self.reference = str(_Reference(self._name, self._known, _last_seen.get(self._name)))

    @property
    def databases(self) -> Any:
        """All databases of the process, by name."""
        return self._database.databases

    def confirm(self) -> bytes | None:
        """The database has finished: return the transaction id, if consumers can use it."""
        _last_seen[self._name] = self._known
        if self._name != MAIN:
            return None
        serial: bytes = self._witness._p_serial
        # After a savepoint the object is a ghost that does not know; the last transaction
        # is this one, or a later one that includes it.
        return serial if serial != z64 else self._database.lastTransaction()


def testify(current: ITransaction) -> Testimony | None:
    """Add a witness to the transaction that is about to commit; None if it writes nothing.

    Never turns a transaction that only reads into one that writes. Called by the data
    manager before any storage begins to commit.
    """
    try:
        testimony: Testimony = current.data(Witness)
        return testimony
    except KeyError:
        pass
    connections = [
        resource
        for resource in current._resources
        if isinstance(resource, Connection) and _writes(resource)
    ]
    if not connections:
        return None
    # The main database, if it takes part: others may be memory only.
    connections.sort(key=lambda connection: connection.db().database_name != MAIN)
    testimony = Testimony(connections[0])
    # One is enough, however many queues the transaction adds to.
    current.set_data(Witness, testimony)
    return testimony


def judge(databases: Any, reference: str, age: float) -> Verdict:
    """Return how the transaction with this witness has ended, as far as that is known.

    `age` is the number of seconds since the batch was staged. Raises `KeyError` for a database
    that is not configured any more, and whatever a database that is away raises.
    """
    try:
        found = _Reference.parse(reference)
    except ValueError:
        return Verdict(UNKNOWN)
    database = databases[found.database]
    tid = _serial(database, found.witness)
    if tid is not None:
        # Of other databases consumers do not know how far they have come.
        return Verdict(COMMITTED, tid if found.database == MAIN else None)
    if age < LONGEST_COMMIT:
        return Verdict(None)
    return Verdict(UNKNOWN if _packed(database, found.older) else ABORTED)


def resolve(
    storage: Any, databases: Any, grace: float = GRACE, arrival: Arrival = _told_by_nobody
) -> list[str]:
    """Decide about batches that were staged at least `grace` seconds ago.

    `arrival` is that of the queue. Returns the ids of the batches that are in doubt no
    longer. Called by consumers.
    """
    found = storage.in_doubt(grace)
    return [batch.id for batch in found if _settled(storage, databases, batch, arrival)]


def _settled(storage: Any, databases: Any, batch: StagedBatch, arrival: Arrival) -> bool:
    try:
        return _resolved(storage, databases, batch, arrival)
    except TaskDecodeError as exc:
        # Later it could not be read either, and would be tried for ever.
        storage.discard(batch.id)
        logger.error("batch %s: cannot be read (%s), discarded", batch.id, exc)
        return True
    except StorageUnavailable:
        raise
    except Exception as exc:
        # A database that this process does not have, perhaps; the others can be decided.
        logger.warning("batch %s: stays in doubt (%s: %s)", batch.id, type(exc).__name__, exc)
        return False


def reached(database: Any, tid: bytes) -> bool:
    """Return whether connections that are opened now see the transaction.

    Another process may have committed it, and word of it travels. Called before a task
    starts.
    """
    if database.lastTransaction() >= tid:
        return True
    # Some storages look only when a connection asks them to.
    connection = database.open(transaction_manager=TransactionManager())
    try:
        connection.sync()
        return bool(connection._storage.lastTransaction() >= tid)
    finally:
        connection.close()


class Restored:
    """What a database that was opened just now must have, and does not have if it was restored.

    A transaction that is later than the last one of the database, and was nevertheless
    committed well before the database was opened, is not on its way: it was lost when the
    database was restored from an older backup, unless the clocks of the machines differ by
    more than `SKEW`.
    """

    def __init__(self, database: Any, now: float) -> None:
        self._last = _last_transaction(database)
        self._opened = _tid_at(now - SKEW)

    def check(self, tid: bytes) -> None:
        """Raises `LostTransaction` for a transaction that was lost."""
        if self._last != z64 and self._last < tid < self._opened:
            raise LostTransaction(
                "its transaction is not in the database, which was restored from an older backup"
            )


def _last_transaction(database: Any) -> bytes:
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


def _resolved(storage: Any, databases: Any, batch: StagedBatch, arrival: Arrival) -> bool:
    if batch.witness is None:
        # Nothing was written but tasks. Whoever queued them may have been told so: the server
        # may have been away from then on until their process was gone.
        storage.condemn(batch.id, NOBODY_KNOWS)
        return True
    verdict = judge(databases, batch.witness, batch.age)
    if verdict.end == COMMITTED:
        with arrival(batch.tasks):
            storage.promote(batch.id, verdict.tid)
        for task_id in batch.tasks:
            logger.warning("task %s: its transaction was committed, queued late", task_id)
    elif verdict.end == ABORTED:
        _discard(storage, batch, "its transaction was not committed")
    elif verdict.end == UNKNOWN:
        storage.condemn(batch.id, NOBODY_KNOWS)
    return verdict.end is not None


def _discard(storage: Any, batch: StagedBatch, cause: str) -> None:
    storage.discard(batch.id)
    for task_id in batch.tasks:
        logger.warning("task %s: %s, discarded", task_id, cause)


def _packed(database: Any, older: _Known | None) -> bool:
    """Return whether a pack may have removed the witness.

    Nothing refers to a witness, so a pack removes it; but never before an older one.
    """
    if older is None:
        return True
    oid = bytes.fromhex(older.oid)
    try:
        # Asks the database itself; caches of connections and clients survive a pack.
        history = database.history(oid)
        return not (history and older.is_in(database.storage.loadSerial(oid, history[0]["tid"])))
    except KeyError:
        return True


def _serial(database: Any, witness: _Known) -> bytes | None:
    """Return the id of the transaction that wrote the witness; None if it is not there."""
    # A connection of its own sees what is committed now, not when the thread last looked.
    connection = database.open(transaction_manager=TransactionManager())
    try:
        record, serial = connection._storage.load(bytes.fromhex(witness.oid))
        return serial if witness.is_in(record) else None
    except POSKeyError:
        return None
    finally:
        connection.close()


def _writes(connection: Any) -> bool:
    return bool(connection._registered_objects or connection._savepoint_storage is not None)


#: The last witness of this process that is known to be committed, by database.
_last_seen: dict[str, _Known] = {}
