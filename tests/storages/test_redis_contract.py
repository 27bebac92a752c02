"""The contract suite on a real Redis server."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.contract import ManualClock
from collective.taskqueue.contract import StorageContract
from collective.taskqueue.storages.redis import RedisStorage
from pathlib import Path
from services import RedisServer
from typing import Any
import pytest
import redis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis"))).start()
    yield server
    server.stop()


class TestRedisStorage(StorageContract):
    """See `ITaskStorage`; every sentence of it."""

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
