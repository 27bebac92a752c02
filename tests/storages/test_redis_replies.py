"""A server that is up and refuses commands: what callers of the storage get, with real servers."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.redis.errors import at_start
from collective.taskqueue.storages.redis.errors import code_of
from collective.taskqueue.storages.redis.errors import translated
from collective.taskqueue.task import QUEUED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from contextlib import suppress
from pathlib import Path
from services import RedisServer
import pytest
import redis
import redis.exceptions
import signal
import time


SETTINGS = QueueSettings(type="redis")


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path).start()
    yield server
    # Asked to stop, it would try to write its file, again and again.
    server.stop(signal.SIGKILL)


@pytest.fixture
def client(server):
    with redis.Redis(unix_socket_path=server.socket) as client:
        yield client


@pytest.fixture
def storage(server):
    storage = RedisStorage(QueueSettings(type="redis", unix_socket_path=server.socket))
    yield storage
    storage.close()


def replica(client):
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def replica_without_master(client):
    client.config_set("replica-serve-stale-data", "no")
    replica(client)


def no_replicas(client):
    client.config_set("min-replicas-to-write", 3)


def no_memory(client):
    client.config_set("maxmemory", 1)


def no_rights(client):
    commands = ["+@all", "-evalsha", "-eval", "-set", "-brpop", "-lpush"]
    client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=commands)


def no_disk(client):
    client.config_set("save", "1 1")
    # In place of the file that it would rename its new one to.
    (Path(client.config_get("dir")["dir"]) / "dump.rdb").mkdir()
    client.set("changed", 1)
    deadline = time.monotonic() + 60
    while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
        with suppress(redis.exceptions.ResponseError):
            client.bgsave()
        assert time.monotonic() < deadline
        time.sleep(0.02)


#: By the code of the replies: what brings the server into that state.
STATES = {
    "READONLY": replica,
    "MASTERDOWN": replica_without_master,
    "NOREPLICAS": no_replicas,
    "OOM": no_memory,
    "MISCONF": no_disk,
    "NOPERM": no_rights,
}


@pytest.mark.parametrize("code", STATES)
def test_every_call_says_that_the_storage_is_unavailable(storage, client, code):
    """Calls of a script, of a command, and of a pipeline; and nothing is lost by it."""
    add_one(storage)
    add_one(storage)
    [lease] = storage.reserve("consumer", timeout=0)
    STATES[code](client)
    refused: dict[str, str] = {}
    calls = {
        "stage": lambda: storage.stage("batch", [new_task()]),
        "reserve": lambda: storage.reserve("other", timeout=0),
        "complete": lambda: storage.complete(lease, completed(lease)),
        "renew": lambda: storage.renew(lease),
        "wait": lambda: storage._wait(0.001),
        "pause": storage.admin.pause,
        "paused": storage.admin.paused,
        "counts": storage.admin.counts,
    }
    for name, call in calls.items():
        try:
            call()
        except StorageUnavailable as exc:
            refused[name] = str(exc)
    # Redis looks first whether it is a replica, then whether it knows its master.
    assert code in refused.pop("stage")
    assert refused["pause"].startswith(("READONLY", code, "the server refuses"))
    # Without memory, what is there goes on.
    assert ("reserve" in refused) == (code != "OOM")
    # Consumers are woken by a pipeline; that this fails is for the log only.
    storage.wake()


def test_a_replica_that_becomes_the_master(storage, client):
    """The storage goes on by itself, with what it had."""
    task = add_one(storage)
    replica(client)
    with pytest.raises(StorageUnavailable, match="READONLY"):
        storage.reserve("consumer", timeout=0)
    client.execute_command("REPLICAOF", "NO", "ONE")
    [lease] = storage.reserve("consumer", timeout=0)
    assert lease.task == task


def test_the_name_of_the_master_stands_for_another_server(tmp_path):
    """After a failover without sentinels: a call that a replica refuses drops the connections."""
    servers = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        servers.append(RedisServer(tmp_path / name).start())
    old, new = servers
    socket = tmp_path / "master"
    socket.symlink_to(old.socket)
    storage = RedisStorage(QueueSettings(type="redis", unix_socket_path=str(socket)))
    try:
        add_one(storage)
        storage.admin.pause()
        storage.admin.resume()
        with redis.Redis(unix_socket_path=old.socket) as client:
            replica(client)
        socket.unlink()
        socket.symlink_to(new.socket)
        with pytest.raises(StorageUnavailable, match="READONLY"):
            add_one(storage)
        add_one(storage)
        storage.admin.pause()
        with redis.Redis(unix_socket_path=new.socket) as client:
            assert client.exists("collective.taskqueue.default:paused")
        assert storage.admin.counts()[QUEUED] == 1
    finally:
        storage.close()
        for server in servers:
            server.stop()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (redis.exceptions.ResponseError("BUSY Redis is busy running a script"), "BUSY"),
        (redis.exceptions.ClusterDownError("The cluster is down"), "CLUSTERDOWN"),
        (redis.exceptions.ClusterDownError("CLUSTERDOWN Hash slot not served"), "CLUSTERDOWN"),
        (redis.exceptions.TryAgainError("Multiple keys request"), "TRYAGAIN"),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset"), "BusyLoading"),
    ],
)
def test_other_states_that_pass(error, code):
    """What cannot be brought about with one server in a moment."""
    with pytest.raises(StorageUnavailable, match=code), translated():
        raise error
    with pytest.raises(StorageUnavailable), at_start(SETTINGS):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.MovedError("3999 127.0.0.1:6381"),
        redis.exceptions.NoPermissionError("this user has no permissions to run the command"),
        redis.exceptions.ResponseError("DENIED Redis is running in protected mode"),
    ],
)
def test_what_does_not_pass_by_itself(error):
    """At the start it is a mistake in the configuration; later, others may mend the server."""
    with pytest.raises(ConfigurationError, match="refuses to serve a queue"), at_start(SETTINGS):
        raise error
    with pytest.raises(StorageUnavailable), translated():
        raise error


def test_a_database_that_is_not_there(tmp_path):
    """Its number is in the settings."""
    (tmp_path / "tcp").mkdir()
    server = RedisServer(tmp_path / "tcp", tcp=True).start()
    storage = RedisStorage(QueueSettings(type="redis", url=f"redis://127.0.0.1:{server.port}/99"))
    try:
        with pytest.raises(ConfigurationError, match="the server has no database of this number"):
            storage.admin.check()
        with pytest.raises(StorageUnavailable, match="the server has no database of this number"):
            add_one(storage)
    finally:
        storage.close()
        server.stop()


def test_what_the_server_calls_err_may_begin_with_a_large_word(client):
    """The client takes the ERR away, and what is left looks like a code."""
    with pytest.raises(redis.exceptions.ResponseError) as caught:
        client.execute_command("CONFIG", "SET", "maxmemory", "much")
    assert str(caught.value).startswith("CONFIG SET failed")
    assert code_of(caught.value)[0] == "ERR"
    with pytest.raises(redis.exceptions.ResponseError), translated():
        raise caught.value


def test_a_fault_of_a_call_is_not_hidden():
    """What the server calls ERR is no state of it, and is raised as it is."""
    error = redis.exceptions.ResponseError("ERR unknown command 'x'")
    assert code_of(error) == ("ERR", "unknown command 'x'")
    with pytest.raises(redis.exceptions.ResponseError), translated():
        raise error
    with pytest.raises(ConfigurationError, match="ERR unknown command"), at_start(SETTINGS):
        raise error
