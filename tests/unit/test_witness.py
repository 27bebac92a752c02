"""Which record of a database is a witness: any other record under its oid is none."""

from collective.taskqueue.enqueue.indoubt import COMMITTED
from collective.taskqueue.enqueue.indoubt import LONGEST_COMMIT
from collective.taskqueue.enqueue.indoubt import UNKNOWN
from collective.taskqueue.enqueue.indoubt import Verdict
from collective.taskqueue.enqueue.indoubt import verdict_of
from collective.taskqueue.enqueue.indoubt import Witness
from contextlib import closing
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import z64
import pytest
import transaction
import ZODB


OTHERS = {
    "nothing": b"",
    "cut off": b"cfoo\n",
    "no class": b"\x80\x04).",
    "not UTF-8": b"\x80\x03cf\xff\nb\n.",
}


@pytest.mark.parametrize("record", OTHERS.values(), ids=OTHERS)
def test_a_record_of_another_object(record):
    """Its batch can be decided, and does not stay in doubt for ever."""
    with closing(ZODB.DB(MappingStorage(), database_name="main")) as database:
        with database.transaction() as connection:
            connection.add(witness := Witness("ab" * 16))
            oid = witness._p_oid
        reference = f"main:{oid.hex()}:{witness.uuid}::"
        assert verdict_of(database.databases, reference, 0.0).end == COMMITTED
        _put(database.storage, oid, record)
        assert verdict_of(database.databases, reference, 0.0) == Verdict(None)
        assert verdict_of(database.databases, reference, LONGEST_COMMIT) == Verdict(UNKNOWN)


def _put(storage, oid, record):
    current = transaction.begin()
    storage.tpc_begin(current)
    serial = storage.loadBefore(oid, b"\x7f" + b"\xff" * 7)[1]
    assert serial != z64
    storage.store(oid, serial, record, "", current)
    storage.tpc_vote(current)
    storage.tpc_finish(current)
    transaction.abort()
