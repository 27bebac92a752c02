"""The slot of a task: of two transactions that create it, one commits, in every database."""

from collective.taskqueue.consumer.redelivery import COMMITTED
from collective.taskqueue.consumer.redelivery import Found
from collective.taskqueue.publisher.slot import find
from collective.taskqueue.publisher.slot import Reference
from collective.taskqueue.publisher.slot import Slots
from collective.taskqueue.publisher.slot import SlotWriter
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from contextlib import contextmanager
from dataclasses import replace
from persistent.mapping import PersistentMapping
from transaction import TransactionManager
from ZODB.POSException import ConflictError
import pytest


TASK = Task(id="task", queue="default", url="/view")
RECORD = 200, (), b"done", False, (), 1.0, 2.0
OUTCOME = Outcome(200, body=b"done", started=1.0, seconds=2.0)


@contextmanager
def attempt(database, reference):
    """A connection whose transactions get the slot of an attempt."""
    manager = TransactionManager()
    writer = SlotWriter(reference, TASK, 1)
    manager.registerSynch(writer)
    connection = database.open(transaction_manager=manager)
    manager.begin()
    connection.writer = writer
    try:
        yield connection
    finally:
        manager.abort()
        connection.close()


def commit(connection, record=RECORD):
    """Commit what the view has written; with a record if the view is done."""
    connection.writer.answer = record and (lambda: record)
    connection.transaction_manager.commit()


def write(connection, name):
    connection.root()[name] = PersistentMapping()


@pytest.fixture
def reference(database):
    with database.transaction() as connection:
        write(connection, "first")
    (found,) = Slots(database).take(1)
    return found


def test_the_slot_is_there_once_its_transaction_has_committed(database, reference):
    slots = Slots(database)
    assert slots.find(reference, TASK) == Found()
    with attempt(database, reference) as connection:
        write(connection, "object")
        assert slots.find(reference, TASK) == Found()
        commit(connection)
        assert connection.writer.is_used
    assert slots.find(reference, TASK) == Found(True, True, OUTCOME)


def test_of_two_attempts_one_commits(database, reference):
    """They write different objects: without the slot, both would commit."""
    with attempt(database, reference) as lost, attempt(database, reference) as other:
        with database.transaction() as connection:
            connection.root()["second"] = PersistentMapping()
        lost.transaction_manager.begin()
        other.transaction_manager.begin()
        lost.root()["first"]["by"] = "lost"
        other.root()["second"]["by"] = "other"
        commit(other)
        with pytest.raises(ConflictError):
            commit(lost)
        lost.transaction_manager.abort()
        assert not lost.writer.may_be_retried()
        ended = replace(OUTCOME, drops_slot=True, note=COMMITTED)
        assert lost.writer.result(Outcome(500)) == ended
        assert not lost.writer.is_used
    with database.transaction() as connection:
        root = connection.root()
        assert (dict(root["first"]), dict(root["second"])) == ({}, {"by": "other"})


def test_a_transaction_that_only_reads_gets_none(database, reference):
    before = database.lastTransaction()
    with attempt(database, reference) as connection:
        connection.root()["first"].keys()
        commit(connection)
        assert not connection.writer.is_used
    assert database.lastTransaction() == before


def test_an_aborted_transaction_leaves_none(database, reference):
    with attempt(database, reference) as connection:
        write(connection, "object")
        connection.transaction_manager.abort()
        assert not connection.writer.is_used
        # The next one gets it.
        write(connection, "object")
        commit(connection)
        assert connection.writer.is_used
    assert find(database, Reference.parse(reference), TASK).is_slot


def test_after_a_savepoint(database, reference):
    with attempt(database, reference) as connection:
        write(connection, "object")
        connection.transaction_manager.savepoint()
        commit(connection)
        assert connection.writer.is_used
    assert find(database, Reference.parse(reference), TASK).is_slot


def test_only_the_first_commit_gets_it(database, reference):
    with attempt(database, reference) as connection:
        write(connection, "early")
        commit(connection, None)
        write(connection, "late")
        commit(connection)
    assert Slots(database).find(reference, TASK) == Found(True, True, None)


def test_another_object_at_its_id(database, reference):
    """As after a restart: the storage assigns the ids of aborted transactions again."""
    oid = bytes.fromhex(Reference.parse(reference).slot.oid)
    with database.transaction() as connection:
        connection._add(PersistentMapping(), oid)
    assert Slots(database).find(reference, TASK) == Found(is_there=True)


def test_after_a_pack_it_may_have_been_there(database, reference):
    """A pack removes slots, and never one that is older than another that it leaves."""
    slots = Slots(database)
    assert slots.find(reference, TASK) == Found()
    with attempt(database, reference) as connection:
        write(connection, "object")
        commit(connection)
    database.pack()
    found = slots.find(reference, TASK)
    # The cache of a ZEO client may still have it.
    assert found.is_slot or found == Found(may_be_packed=True)
