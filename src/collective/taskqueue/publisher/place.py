"""Objects that show whether a transaction has committed: where one is, and whether it is there.

The witness of a batch is one, and the slot of a task. No object refers to them: a pack removes
them, but never before an older one of the same kind.
"""

from __future__ import annotations

from typing import NamedTuple
from ZODB.Connection import Connection
from ZODB.DB import DB
from ZODB.utils import get_pickle_metadata


#: Name of the database of Zope's root: tasks wait for its transactions, and slots are in it.
MAIN = "main"


class Place(NamedTuple):
    """An object id and a uuid, in hexadecimal digits.

    The id alone proves nothing: a storage may assign the id of an aborted transaction again.
    """

    oid: str
    uuid: str

    def holds(self, record: bytes, kind: type) -> bool:
        """Return whether the data record at this object id is that of this object."""
        # The record of another object is not parsed: it may contain anything.
        expected = kind.__module__, kind.__qualname__
        return self.uuid.encode() in record and get_pickle_metadata(record) == expected


def may_be_packed(database: DB, older: Place | None, kind: type) -> bool:
    """Return whether a pack may have removed an object that was committed after the older one."""
    if older is None:
        return True
    oid = bytes.fromhex(older.oid)
    try:
        # Ask the database itself: caches of connections and clients survive a pack.
        history = database.history(oid)
        if not history:
            return True
        record = database.storage.loadSerial(oid, history[0]["tid"])
    except KeyError:
        return True
    return not older.holds(record, kind)


def writes(connection: Connection) -> bool:
    """Return whether the transaction of a connection writes anything."""
    return bool(connection._registered_objects or connection._savepoint_storage is not None)
