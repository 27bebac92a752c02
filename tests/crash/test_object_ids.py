"""Object ids that a database gives away again, to somebody else: they prove nothing."""

from __future__ import annotations

from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.task import Task
from crash.databases import commit_objects
from crash.databases import file_storage
from crash.databases import ZEOServer
from crash.dying import add
from crash.dying import add_and_die
from crash.dying import make_storage
from crash.dying import pack
from crash.dying import PATIENCE
from crash.dying import urls
from uuid import uuid4
from ZODB.DB import DB
from ZODB.POSException import ConflictError
import pytest
import time


pytestmark = pytest.mark.usefixtures("no_older_witness")


#: Databases that outlive their process.
DURABLE = ["FileStorage", "ZEO", "RelStorage", "RelStorage, history-free"]

#: The batch is staged, and nothing is written yet; all have voted for the commit.
POINTS = ["_Promoter.tpc_begin", "_Promoter.tpc_vote"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("opener", DURABLE, indirect=True)
def test_the_object_id_of_a_witness_goes_to_somebody_else(
    opener, queue, server, later, monkeypatch, point
):
    """Guarantee 1: what stands there after a restart is no proof that the transaction committed."""
    database = opener()
    add(database, queue, "/older")
    add_and_die(database, queue, "/a", monkeypatch, committed=False, point=point)
    database.close()
    opener.restart()
    database = opener()
    commit_objects(database)
    soon = make_storage(server, indoubt.GRACE + 1)
    assert indoubt.resolve(soon, database.databases) == []
    # Nor does it prove that nothing was packed since, and the older witness is still there.
    assert len(indoubt.resolve(later, database.databases)) == 1
    assert (urls(later), later.admin.in_doubt(), later.admin.counts()["failed"]) == (
        ["/older"],
        [],
        0,
    )
    database.close()


def test_the_object_id_of_the_older_witness_goes_to_somebody_else(
    tmp_path, queue, later, monkeypatch
):
    """Guarantee 1: a pack may have removed both; nobody knows, so a person decides."""
    with file_storage(tmp_path) as opener:
        database = opener()
        add(database, queue, "/older")
        add_and_die(database, queue, "/a", monkeypatch, committed=True)
        pack(database)
        database.close()
        # The ids above the last one in the file are free again.
        database = opener()
        commit_objects(database)
        assert len(indoubt.resolve(later, database.databases)) == 1
        database.close()
    assert (urls(later), urls(later, "failed")) == (["/older"], ["/a"])


def test_another_witness_has_the_object_id(tmp_path, queue, later, monkeypatch):
    """Guarantee 1: a restarted process queues tasks itself, and its witnesses get the same ids."""
    with file_storage(tmp_path) as opener:
        database = opener()
        add(database, queue, "/older")
        add_and_die(database, queue, "/a", monkeypatch, committed=False)
        database.close()
        database = opener()
        add(database, queue, "/b")
        assert len(indoubt.resolve(later, database.databases)) == 1
        database.close()
    assert (urls(later), later.admin.counts()["failed"]) == (["/older", "/b"], 0)


@pytest.mark.parametrize("committed", [True, False])
def test_a_database_that_was_restored(tmp_path, queue, later, monkeypatch, committed):
    """Guarantee 1: its transaction is in no database any more, and others have its object ids."""
    with file_storage(tmp_path) as opener:
        database = opener()
        add(database, queue, "/older")
        database.close()
        backup = (tmp_path / "Data.fs").read_bytes()
        database = opener()
        add_and_die(database, queue, "/a", monkeypatch, committed)
        database.close()
        for leftover in tmp_path.glob("Data.fs.*"):
            leftover.unlink()
        (tmp_path / "Data.fs").write_bytes(backup)
        database = opener()
        commit_objects(database)
        assert len(indoubt.resolve(later, database.databases)) == 1
        database.close()
    assert (urls(later), later.admin.in_doubt()) == (["/older"], [])


def wait_until_connected(database: DB) -> None:
    deadline = time.monotonic() + PATIENCE
    while not database.storage.is_connected():
        assert time.monotonic() < deadline, "the client does not find its server again"
        time.sleep(0.01)


def test_two_clients_with_one_object_id(tmp_path, queue, later):
    """Guarantee 1: a client keeps the ids it was given when the server restarts.

    So two objects may get the same id: the one that comes second is refused, and its tasks
    are queued by the attempt that succeeds.
    """
    server = ZEOServer(tmp_path).start()
    try:
        first = server.open()
        add(first, queue, "/older")
        server.restart()
        second = server.open()
        commit_objects(second)
        wait_until_connected(first)
        refused = 0
        for number in range(3 * 40):
            try:
                add(first, queue, f"/{number}")
                break
            except (ConflictError, ValueError):
                # By the server; or by the client, which knows another object of that id.
                refused += 1
        assert refused
        assert urls(queue.storage) == ["/older", f"/{refused}"]
        assert (urls(later), later.admin.in_doubt()) == (["/older", f"/{refused}"], [])
        first.close()
        second.close()
    finally:
        server.stop()


@pytest.mark.parametrize(
    "reference", ["", "main", "main:1:2:3", "main:xy:z::", "a:b:c:d:e", ":::::"]
)
def test_a_reference_that_cannot_be_read(database, queue, later, reference):
    """It keeps no other batch from being decided, and a person decides about its own."""
    task = Task(id=str(uuid4()), queue=queue.name, url="/a")
    queue.storage.stage("batch", [task], reference)
    assert indoubt.resolve(later, database.databases) == ["batch"]
    assert (urls(later), urls(later, "failed"), later.admin.in_doubt()) == ([], ["/a"], [])
