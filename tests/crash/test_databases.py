"""The witness and the read barrier, on every kind of database that Plone is run on."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.queue import TaskQueue
from crash import run
from crash.databases import ZEOServer
from crash.dying import add
from crash.dying import add_and_die
from crash.dying import make_storage
from crash.dying import pack
from crash.dying import PATIENCE
from crash.dying import urls
from crash.proxy import Proxy
from pathlib import Path
from ZEO.Exceptions import ClientDisconnected
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
import pytest
import transaction


pytestmark = pytest.mark.usefixtures("no_older_witness")


#: Databases that outlive their process.
DURABLE = ["FileStorage", "ZEO", "RelStorage", "RelStorage, history-free"]


# the witness


def test_witness_found(database, queue, later, monkeypatch):
    """Guarantee 1: committed, and the process died before it could say so."""
    add_and_die(database, queue, "/a", monkeypatch, committed=True)
    assert (later.admin.counts()["queued"], len(later.admin.in_doubt())) == (0, 1)
    assert len(indoubt.resolve(later, database.databases)) == 1
    assert (urls(later), later.admin.in_doubt()) == (["/a"], [])
    [lease] = later.reserve("consumer", timeout=0)
    assert indoubt.reached(database, lease.tid)
    assert not indoubt.reached(database, (int.from_bytes(lease.tid) + 1).to_bytes(8))


def test_no_witness(database, queue, later, monkeypatch):
    """Guarantee 1: not committed; an older witness is still there, so nothing was packed."""
    add(database, queue, "/older")
    add_and_die(database, queue, "/a", monkeypatch, committed=False)
    assert len(indoubt.resolve(later, database.databases)) == 1
    assert (urls(later), later.admin.in_doubt(), later.admin.counts()["failed"]) == (
        ["/older"],
        [],
        0,
    )


def test_not_decided_too_early(database, queue, server, monkeypatch):
    """A commit may be on its way for as long as the longest one takes."""
    add(database, queue, "/older")
    add_and_die(database, queue, "/a", monkeypatch, committed=False)
    soon = make_storage(server, indoubt.LONGEST_COMMIT / 2)
    assert indoubt.resolve(soon, database.databases) == []
    assert len(soon.admin.in_doubt()) == 1


@pytest.mark.parametrize("committed", [True, False])
def test_packed_before_it_was_resolved(opener, queue, later, monkeypatch, committed):
    """Nobody knows: neither discarded nor run, but failed, for a person to decide."""
    database = opener()
    add(database, queue, "/older")
    add_and_die(database, queue, "/a", monkeypatch, committed)
    pack(database)
    if isinstance(database.storage, DemoStorage):
        # It dies with its process; all that another thread would not have is a cache.
        database.cacheMinimize()
    else:
        database.close()
        database = opener()
    assert len(indoubt.resolve(later, database.databases)) == 1
    database.close()
    assert (urls(later), urls(later, "failed")) == (["/older"], ["/a"])
    [status] = later.admin.tasks("failed")
    assert "it is unknown whether" in status.reason
    later.admin.retry(status.id)
    assert urls(later) == ["/older", "/a"]


def test_caches_know_nothing_of_a_pack(database, queue, later, monkeypatch):
    """The older witness is in the cache of the one who resolves, and in no database."""
    add(database, queue, "/older")
    add_and_die(database, queue, "/a", monkeypatch, committed=False)
    pack(database)
    assert len(indoubt.resolve(later, database.databases)) == 1
    assert (urls(later), urls(later, "failed")) == (["/older"], ["/a"])


def test_packed_long_before(database, queue, later, monkeypatch):
    """A pack that was over before proves nothing against a witness."""
    add(database, queue, "/before")
    pack(database)
    add(database, queue, "/older")
    add_and_die(database, queue, "/a", monkeypatch, committed=False)
    assert len(indoubt.resolve(later, database.databases)) == 1
    assert (urls(later), later.admin.counts()["failed"]) == (["/before", "/older"], 0)


@pytest.mark.parametrize("opener", DURABLE, indirect=True)
def test_found_by_another_process(opener, queue, later, monkeypatch):
    """The one that resolves is never the one that died; memory dies with its process."""
    first = opener()
    add_and_die(first, queue, "/a", monkeypatch, committed=True)
    first.close()
    second = opener()
    try:
        assert len(indoubt.resolve(later, second.databases)) == 1
        assert urls(later) == ["/a"]
    finally:
        second.close()


# ZEO


def test_reads_its_writes():
    """Guarantee 4: a thousand tasks that need what was made a moment ago."""
    totals = run("barrier", "--tasks", 1000)
    assert (totals["succeeded"], totals["failed"]) == (1000, 0)


def test_reads_its_writes_although_word_comes_late():
    """Guarantee 4: the barrier waits as long as it takes."""
    totals = run("barrier", "--tasks", 300, "--delay", 0.05)
    assert (totals["succeeded"], totals["failed"]) == (300, 0)


def test_the_barrier_is_needed():
    """The same without it: else the test above would prove nothing."""
    totals = run("barrier", "--tasks", 100, "--delay", 5, "--without-barrier", fails=True)
    assert totals["failed"] > 0


@pytest.fixture
def zeo_server(tmp_path: Path) -> Iterator[ZEOServer]:
    server = ZEOServer(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture
def through_proxy(zeo_server: ZEOServer, tmp_path: Path) -> Iterator[tuple[Proxy, DB]]:
    """A client of the ZEO server that loses an answer and its server at the same time."""
    zeo_server.open().close()
    proxy = Proxy(zeo_server.address, tmp_path / "proxy.sock")
    # Not connected any more, it waits as long for the server before it gives up.
    database = zeo_server.open(proxy.address, wait=True, wait_timeout=8)
    yield proxy, database
    transaction.abort()
    database.close()
    proxy.close()


def commit_and_lose_the_answer(
    zeo_server: ZEOServer, proxy: Proxy, database: DB, queue: TaskQueue
) -> None:
    """The server commits, and is killed before it has answered."""
    proxy.meanwhile = zeo_server.kill
    proxy.lose_reply(b"tpc_finish")
    with pytest.raises(ClientDisconnected):
        add(database, queue, "/a")
    assert proxy.lost.wait(PATIENCE)
    zeo_server.start()


def committed(zeo_server: ZEOServer) -> bool:
    database = zeo_server.open()
    try:
        with database.transaction() as connection:
            return "/a" in connection.root()
    finally:
        database.close()


def test_zeo_killed_after_it_committed(zeo_server, through_proxy, queue):
    """Guarantee 1: the user saw an error, but what they did is saved: the task runs."""
    proxy, database = through_proxy
    commit_and_lose_the_answer(zeo_server, proxy, database, queue)
    assert committed(zeo_server)
    assert outbox.flush(PATIENCE)
    assert (urls(queue.storage), queue.storage.admin.in_doubt()) == (["/a"], [])


def test_zeo_killed_and_the_process_too(zeo_server, through_proxy, queue, later, monkeypatch):
    """Guarantee 1: a consumer in another process finds the witness."""
    monkeypatch.setattr(outbox.Relay, "add", lambda self, job: None)
    proxy, database = through_proxy
    commit_and_lose_the_answer(zeo_server, proxy, database, queue)
    other = zeo_server.open()
    try:
        assert len(indoubt.resolve(later, other.databases)) == 1
    finally:
        other.close()
    assert (urls(later), later.admin.in_doubt()) == (["/a"], [])
