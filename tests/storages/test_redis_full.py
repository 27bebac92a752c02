"""A Redis that has no memory left: nothing is added, and what is there runs and ends."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from pathlib import Path
from services import RedisServer
import pytest
import redis
import tempfile
import time


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer(Path(tempfile.mkdtemp(prefix="redis-"))).start()
    yield server
    server.remove()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    client = redis.Redis(unix_socket_path=server.socket)
    client.flushall()
    yield client
    client.config_set("maxmemory", 0)
    client.close()


@pytest.fixture
def storage(server: RedisServer, client: redis.Redis) -> Iterator[RedisStorage]:
    storage = RedisStorage(QueueSettings(type="redis", unix_socket_path=server.socket))
    yield storage
    storage.close()


def fill_up(client: redis.Redis) -> None:
    """Leave the server no memory."""
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("one", "more")


def test_what_is_there_runs_and_ends(storage, client):
    """One by one, or many together; and its leases are renewed."""
    tasks = add(storage, *(new_task(payload=b"x" * 1000) for _ in range(8)))
    leases = storage.reserve("consumer", limit=2, timeout=0)
    fill_up(client)
    with pytest.raises(StorageUnavailable):
        storage.stage("batch", [new_task()])
    assert storage.renew(leases[0]) is True
    assert storage.complete(leases[0], completed(leases[0])) == SUCCEEDED
    later = completed(leases[1], SCHEDULED, due=time.time() + 1000)
    assert storage.complete(leases[1], later) == SCHEDULED
    leases = storage.reserve("consumer", limit=2, timeout=0)
    ends = [(lease, completed(lease, FAILED)) for lease in leases]
    states, leases = storage.complete_and_reserve(ends, "consumer", 3)
    assert states == [FAILED, FAILED]
    storage.release(leases[2:])
    for lease in leases[:2]:
        storage.complete(lease, completed(lease))
    storage.admin.cancel(tasks[-1].id)
    counts = storage.admin.counts()
    assert counts == {
        **dict.fromkeys(counts, 0),
        QUEUED: 1,
        SCHEDULED: 1,
        SUCCEEDED: 3,
        FAILED: 2,
        CANCELLED: 1,
    }


def test_what_was_lost_comes_back(storage, client):
    add(storage, new_task(), new_task())
    expired, _ = storage.reserve("consumer", limit=2, timeout=0, lease=0.001)
    fill_up(client)
    deadline = time.monotonic() + 30
    while storage.admin.counts()[RUNNING]:
        storage.admin.recover()
        assert time.monotonic() < deadline
    assert storage.admin.counts()[QUEUED] == 2
    [lease] = storage.reserve("consumer", timeout=0)
    assert lease.task == expired.task
    assert storage.complete(lease, completed(lease)) == SUCCEEDED


def test_a_queue_that_is_looked_at_for_the_first_time(storage, client):
    fill_up(client)
    assert storage.admin.tasks() == []
    assert storage.admin.counts()["queued"] == 0
