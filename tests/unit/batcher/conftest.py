"""Batchers whose storage is remote, or in this process."""

from batchers import RemoteStorage
from batchers import Stored
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import batcher as batcher_module
from collective.taskqueue.consumer import calls as calls_module
from collective.taskqueue.consumer import shutdown as pauses
from collective.taskqueue.consumer.batcher import Batcher
from collective.taskqueue.consumer.calls import StorageCalls
from collective.taskqueue.consumer.shutdown import Shutdown
from collective.taskqueue.testing.contract.base import BOUND
from types import SimpleNamespace
import pytest
import threading
import time


@pytest.fixture(params=[False, True], ids=["remote", "in_process"])
def storage(request):
    storage = RemoteStorage()
    storage.in_process = request.param
    storage.delay = 0.1 if request.param else 0.02
    return storage


@pytest.fixture
def stored():
    return Stored()


@pytest.fixture
def quick(monkeypatch):
    """Pauses after errors are as short as they can be."""
    monkeypatch.setattr(pauses, "pause", lambda errors: 0.001)


@pytest.fixture
def patient(monkeypatch):
    """Prefetched tasks wait as long as a test may take."""
    monkeypatch.setattr(batcher_module, "PATIENCE", BOUND)


@pytest.fixture
def shutdown():
    return Shutdown()


@pytest.fixture
def make(storage, stored, shutdown):
    """Make batchers; they are closed at the end, and leave no thread."""
    batchers = []
    before = set(threading.enumerate())

    def make(**settings):
        calls = StorageCalls(storage, ServerSettings(**settings), shutdown, stored)
        batcher = Batcher(calls, storage)
        batchers.append(batcher)
        return batcher

    yield make
    storage.let(go=True)
    shutdown.begin(BOUND)
    for batcher in batchers:
        batcher.close()
    left = [each for each in set(threading.enumerate()) - before if "batcher" in each.name]
    assert left == []


@pytest.fixture
def now(monkeypatch):
    """The clock of the batcher stands still: a list of one moment, which may be moved."""
    moment = [time.monotonic()]
    clock = SimpleNamespace(monotonic=lambda: moment[0], sleep=lambda seconds: None)
    monkeypatch.setattr(calls_module, "time", clock)
    monkeypatch.setattr(batcher_module, "time", clock)
    return moment
