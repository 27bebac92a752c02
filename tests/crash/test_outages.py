"""What a Redis that is down, frozen, restarted or emptied does to those who use it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import Lease
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Transition
from contextlib import contextmanager
from crash import run
from crash.proxy import Proxy
from crash.worker import new_task
from pathlib import Path
from services import RedisServer
from typing import Any
from uuid import uuid4
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
import pytest
import redis
import signal
import threading
import time
import transaction


#: Seconds a call may take, and what a busy machine adds to that.
STAGE_TIMEOUT, SLOWNESS = 2.0, 1.8

#: Nothing here takes longer than a moment; only a failure takes this long.
PATIENCE = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, persistent=True).start()
    yield server
    if server.process is not None:
        server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.fixture
def make_storage(server: RedisServer) -> Iterator[Callable[..., RedisStorage]]:
    made: list[RedisStorage] = []

    def make(clock: Callable[[], float] | None = None, **settings: Any) -> RedisStorage:
        settings = {"unix_socket_path": server.socket, **settings}
        made.append(
            RedisStorage(
                QueueSettings(type="redis", stage_timeout=STAGE_TIMEOUT, **settings), clock
            )
        )
        return made[-1]

    yield make
    for storage in made:
        storage.close()


@pytest.fixture
def storage(make_storage: Callable[..., RedisStorage]) -> RedisStorage:
    return make_storage()


@pytest.fixture
def proxy(server: RedisServer, tmp_path: Path) -> Iterator[Proxy]:
    proxy = Proxy(server.socket, tmp_path / "proxy.sock")
    yield proxy
    proxy.close()


@pytest.fixture
def root() -> Iterator[Any]:
    """The root of a database; its transactions have a witness."""
    database = DB(DemoStorage(), database_name="main")
    connection = database.open()
    yield connection.root()
    transaction.abort()
    connection.close()
    database.close()


def add(storage: RedisStorage, *urls: str) -> None:
    batch = str(uuid4())
    storage.stage(batch, [new_task(url) for url in urls])
    storage.promote(batch)


def urls(storage: RedisStorage, state: str = "queued") -> list[str]:
    return [status.task.url for status in storage.admin.tasks(state, size=1000)]


def success(lease: Lease) -> Transition:
    return Transition(SUCCEEDED, AttemptRecord(lease.attempt, lease.consumer, 0.0, 0.0, 200))


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    """The server is there, and accepts connections, but does not answer."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Interruption:
    """A data manager between the database and us: the database has committed, and then."""

    transaction_manager = transaction.manager

    def __init__(self, call: Callable[[], object]) -> None:
        self.tpc_finish = lambda current: call()

    def sortKey(self) -> str:
        return "~"

    def _nothing(self, current: Any) -> None:
        pass

    abort = tpc_begin = commit = tpc_vote = tpc_abort = _nothing


# a commit while the server is away


def commit_without_server(server: RedisServer, storage: RedisStorage, root: Any) -> float:
    """Return the seconds that the failing commit took."""
    queue = TaskQueue(storage.settings, storage)
    root["x"] = 1
    queue.add("/a")
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"\w+: .{10,}"):
        transaction.commit()
    seconds = time.monotonic() - started
    transaction.abort()
    assert "x" not in root
    return seconds


@pytest.mark.parametrize("fresh", [True, False])
def test_frozen_server_vetoes_in_time(server, storage, root, fresh):
    """C34: whether there is a connection already or not."""
    if not fresh:
        add(storage, "/before")
    with frozen(server):
        assert commit_without_server(server, storage, root) < STAGE_TIMEOUT + SLOWNESS
    assert outbox.flush(PATIENCE)
    assert storage.admin.in_doubt() == []


def test_frozen_server_after_idling(server, storage):
    """A connection that is checked first, because it was idle, is not waited for twice."""
    add(storage, "/before")
    storage._server._mine.connection.next_health_check = 1
    with frozen(server):
        started = time.monotonic()
        with pytest.raises(StorageUnavailable):
            storage.stage("batch", [new_task("/a")])
        assert time.monotonic() - started < STAGE_TIMEOUT + SLOWNESS


def test_stage_is_bounded(server, storage):
    """C34: the default of three seconds is what it says."""
    add(storage, "/before")
    with frozen(server):
        started = time.monotonic()
        with pytest.raises(StorageUnavailable):
            storage.stage("batch", [new_task("/a")])
        assert STAGE_TIMEOUT - 0.1 < time.monotonic() - started < STAGE_TIMEOUT + SLOWNESS


def test_stopped_server_vetoes_at_once(server, storage, root):
    """C34, C47: nothing is committed, and an outage is no empty queue."""
    add(storage, "/before")
    server.stop()
    assert commit_without_server(server, storage, root) < STAGE_TIMEOUT + SLOWNESS
    with pytest.raises(StorageUnavailable):
        storage.admin.counts()["queued"]
    server.start()
    assert urls(storage) == ["/before"]


def test_promote_without_server(server, storage, root):
    """D03: the user sees success, and the tasks are queued as soon as the server is back."""
    queue = TaskQueue(storage.settings, storage)
    root["x"] = 1
    for name in "abc":
        queue.add(f"/{name}")
    transaction.get().join(Interruption(server.stop))
    started = time.monotonic()
    transaction.commit()
    assert time.monotonic() - started < STAGE_TIMEOUT + SLOWNESS
    assert root["x"] == 1
    server.start()
    until(lambda: urls(storage) == ["/a", "/b", "/c"], outbox.MAX_PAUSE + 5.0)
    assert storage.admin.in_doubt() == []


def test_process_dies_while_the_server_is_away(server, make_storage, root, monkeypatch):
    """D03: nothing is left of the batch but what the server has stored, and the witness."""
    monkeypatch.setattr(outbox.Relay, "add", lambda self, job: None)
    storage = make_storage()
    queue = TaskQueue(storage.settings, storage)
    root["x"] = 1
    queue.add("/a")
    transaction.get().join(Interruption(lambda: server.stop(signal.SIGKILL)))
    transaction.commit()
    server.start()
    later = make_storage(lambda: time.time() + indoubt.GRACE + 1)
    assert later.admin.counts()["queued"] == 0
    assert len(indoubt.resolve(later, root._p_jar.db().databases)) == 1
    assert urls(later) == ["/a"]


# replies that get lost


def test_reply_to_reserve_lost(proxy, make_storage):
    """The task was reserved, and nobody knew: it is handed out all the same, and only it."""
    storage = make_storage(unix_socket_path=proxy.address)
    add(storage, "/a", "/b")
    proxy.lose_reply(b"reserve")
    leases = []
    for _ in range(2):
        try:
            leases += storage.reserve("consumer", timeout=0)
            break
        except StorageUnavailable:
            continue
    assert proxy.lost.is_set()
    assert [lease.task.url for lease in leases] == ["/a"]
    assert storage.admin.counts()["running"] == 1
    assert leases[0].attempt == 1


def test_reply_to_finish_lost(proxy, make_storage):
    """The task has finished, and who finished it gets to know that."""
    storage = make_storage(unix_socket_path=proxy.address)
    add(storage, "/a")
    [lease] = storage.reserve("consumer", timeout=0)
    proxy.lose_reply(b"complete")
    state = "?"
    for _ in range(2):
        try:
            state = storage.complete(lease, success(lease))
            break
        except StorageUnavailable:
            continue
    assert proxy.lost.is_set()
    assert state == "succeeded"
    assert len(storage.admin.get(lease.task.id).attempts) == 1


@pytest.mark.parametrize("word", [b"stage", b"promote"])
def test_reply_on_the_way_in_lost(proxy, make_storage, root, word):
    """Each task is queued once, whatever is repeated."""
    storage = make_storage(unix_socket_path=proxy.address)
    queue = TaskQueue(storage.settings, storage)
    root["x"] = 1
    queue.add("/a")
    queue.add("/b")
    proxy.lose_reply(word)
    transaction.commit()
    until(lambda: urls(storage) == ["/a", "/b"], outbox.MAX_PAUSE + 5.0)
    assert proxy.lost.is_set()
    assert storage.admin.in_doubt() == []


# a consumer that waits


def waiting(storage: RedisStorage) -> tuple[threading.Thread, list[Any]]:
    """A thread that waits for a task as a consumer does, and what it got."""
    got: list[Any] = []

    def wait() -> None:
        while not got:
            try:
                got.extend(storage.reserve("consumer", timeout=None))
            except StorageUnavailable:
                time.sleep(0.05)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, got


@pytest.mark.parametrize(
    "disturb",
    [
        lambda client: client.client_kill_filter(_type="normal", skipme=True),
        lambda client: client.script_flush(),
        lambda client: client.flushall(),
    ],
    ids=["CLIENT KILL", "SCRIPT FLUSH", "FLUSHALL"],
)
def test_not_deaf_after(server, storage, make_storage, disturb):
    """C68, C75: what comes next is taken at once."""
    thread, got = waiting(storage)
    with redis.Redis(unix_socket_path=server.socket) as client:
        until(lambda: int(client.info("clients")["blocked_clients"]) == 1)
        disturb(client)
    add(make_storage(), "/a")
    thread.join(5.0)
    assert [lease.task.url for lease in got] == ["/a"]


def test_not_deaf_after_a_restart(server, storage, make_storage):
    """C68, N48, O11."""
    thread, got = waiting(storage)
    with redis.Redis(unix_socket_path=server.socket) as client:
        until(lambda: int(client.info("clients")["blocked_clients"]) == 1)
    server.stop(signal.SIGKILL)
    server.start()
    add(make_storage(), "/a")
    thread.join(5.0)
    assert [lease.task.url for lease in got] == ["/a"]


def test_flushed_while_running(server, storage, caplog):
    """Nobody can keep what the server throws away, but it is said."""
    add(storage, "/a")
    [lease] = storage.reserve("consumer", timeout=0)
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.flushall()
    assert not storage.renew(lease)
    assert storage.complete(lease, success(lease)) is None
    assert set(storage.admin.counts().values()) == {0}


def test_flushed_between_stage_and_promote(server, storage, root, caplog):
    """Whoever queues still has the tasks."""
    queue = TaskQueue(storage.settings, storage)
    root["x"] = 1
    queue.add("/a")
    with redis.Redis(unix_socket_path=server.socket) as client:
        transaction.get().join(Interruption(client.flushall))
        transaction.commit()
    assert urls(storage) == ["/a"]
    assert "lost by the server, 1 tasks queued" in caplog.text


def test_safe_across_fork():
    """Children and their parent share no connection, no token and no wake-up."""
    totals = run("forking")
    assert totals["wrong"] == 0
    assert totals["succeeded"] == 5 * 50 + 1
    assert totals["queued"] == totals["running"] == 0


def test_outages_under_load():
    """C68, C69: restarts, pauses, killed connections, flushed scripts, one after the other."""
    totals = run("outage", "--rounds", 2)
    assert totals["outages"] == 10
    assert totals["committed"] > 100
    assert (totals["lost"], totals["ghosts"], totals["doubled"]) == (0, 0, 0)
    assert totals["slowest return"] < 5.0
