"""What a process logs of an outage of its Redis, with any calls of its threads meanwhile."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import new_task
from pathlib import Path
from services import RedisServer
import logging
import pytest
import signal
import tempfile
import threading
import time


#: Failures of each kind of call before the server comes back: more than one of each thread.
FAILURES = 12


class Counting(RedisStorage):
    """Counts the calls that have failed, by the name of the method."""

    def __init__(self, *args):
        super().__init__(*args)
        self.failed = {"reserve": 0, "renew": 0, "report": 0}

    def _counted(self, name, *args, **more):
        try:
            return getattr(super(), name)(*args, **more)
        except StorageUnavailable:
            self.failed[name] += 1
            raise

    def reserve(self, *args, **more):
        return self._counted("reserve", *args, **more)

    def renew(self, *args, **more):
        return self._counted("renew", *args, **more)

    def report(self, *args, **more):
        return self._counted("report", *args, **more)


@pytest.fixture
def server():
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder, persistent=True).start()
    yield server
    server.remove()


@pytest.fixture
def storage(server):
    settings = QueueSettings(type="redis", unix_socket_path=server.socket, stage_timeout=1.0)
    storage = Counting(settings)
    yield storage
    storage.close()


def until(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_error_and_one_line_at_the_end(server, storage, caplog):
    """Two threads wait for tasks, two run one and report, its lease is renewed."""
    caplog.set_level(logging.INFO, "collective.taskqueue")
    begun, released = threading.Semaphore(0), threading.Event()

    def perform(attempt):
        begun.release()
        while not released.wait(0.01):
            attempt.report(1, 2, "still")
        return Outcome(200)

    tasks = add(storage, new_task(), new_task())
    consumer = Consumer(
        storage, perform, ServerSettings(queue="default", concurrent_limit=4, lease=6.0)
    )
    consumer.start()
    assert begun.acquire(timeout=BOUND)
    assert begun.acquire(timeout=BOUND)
    server.stop(signal.SIGKILL)
    until(lambda: all(number >= FAILURES for number in storage.failed.values()))
    server.start()
    until(lambda: not outage_of(storage).lasts())
    released.set()
    until(lambda: storage.admin.counts()[SUCCEEDED] == 2)
    consumer.stop()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage().partition(" (")[0] for record in errors] == [
        "queue default: storage unavailable"
    ]
    over = [line for line in caplog.messages if "storage available again after" in line]
    assert len(over) == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno == 30]
    for text in ("progress not stored", "lease not renewed"):
        for task in tasks:
            lines = [line for line in warnings if line.startswith(f"task {task.id}: {text}")]
            assert len(lines) == 1, warnings
    assert storage.admin.consumers() == []
