"""The model against a real Redis: random sequences of everything a queue can do."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.testing.model import QueueMachine
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from pathlib import Path
from services import RedisServer
from typing import Any
import logging
import pytest
import redis


#: The same sequences each time, so that a red run is the fault of what was changed.
SEQUENCES = settings(
    max_examples=80,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis"))).start()
    yield server
    server.stop()


def test_redis_does_what_the_model_does(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Guarantees 1 to 3, order included."""
    caplog.set_level(logging.CRITICAL, "collective.taskqueue")
    made: list[RedisStorage] = []

    class Machine(QueueMachine):
        def make_storage(self, clock: Any, **fields: Any) -> Any:
            fields = {"unix_socket_path": server.socket, **fields, "type": "redis"}
            with redis.Redis(unix_socket_path=server.socket) as client:
                client.flushall()
            while made:
                made.pop().close()
            made.append(RedisStorage(QueueSettings(**fields), clock))
            return made[-1]

    try:
        run_state_machine_as_test(Machine, settings=SEQUENCES)
    finally:
        made.pop().close()
