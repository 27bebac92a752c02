"""Desks whose storage is far away, or in_process."""

from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import clerk as clerk_room
from collective.taskqueue.consumer import desk as desk_room
from collective.taskqueue.consumer import shutdown as pauses
from collective.taskqueue.consumer.clerk import BusyDesk
from collective.taskqueue.consumer.shutdown import Shutdown
from collective.taskqueue.testing.contract.base import BOUND
from desks import FarStorage
from desks import Stored
from types import SimpleNamespace
import pytest
import time


@pytest.fixture(params=[False, True], ids=["far", "in_process"])
def storage(request):
    storage = FarStorage()
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
    """What is brought waits as long as a test may take, unless it is made `late`."""
    monkeypatch.setattr(clerk_room, "PATIENCE", BOUND)


@pytest.fixture
def make(storage, stored):
    """Make desks; they are closed at the end."""
    desks = []

    def make(**settings):
        desk = BusyDesk(storage, ServerSettings(**settings), Shutdown(), stored)
        desks.append(desk)
        return desk

    yield make
    storage.let(go=True)
    for desk in desks:
        desk._shutdown.begin(BOUND)
        desk.close()
        assert desk._clerk is None or not desk._clerk.is_alive()


@pytest.fixture
def now(monkeypatch):
    """The clock of the desk stands still: a list of one moment, which may be moved."""
    moment = [time.monotonic()]
    clock = SimpleNamespace(monotonic=lambda: moment[0], sleep=lambda seconds: None)
    monkeypatch.setattr(desk_room, "time", clock)
    monkeypatch.setattr(clerk_room, "time", clock)
    return moment
