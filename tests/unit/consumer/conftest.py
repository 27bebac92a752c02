"""A consumer, its storage near or far, its clock, and what it tells."""

from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import consumer as consumer_module
from collective.taskqueue.consumer import shutdown
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.task import Outcome
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract.base import BOUND
from consumers import FarStorage
from consumers import Storage
from consumers import Told
import pytest
import threading


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def told():
    return Told()


@pytest.fixture(params=[Storage, FarStorage])
def storage(request, clock):
    return request.param(clock)


@pytest.fixture
def quick(monkeypatch):
    """Pauses after errors are as short as they can be."""
    for module in (consumer_module, shutdown):
        monkeypatch.setattr(module, "pause", lambda errors: 0.001)


@pytest.fixture
def make(storage, clock, told):
    """Make a consumer that is not started."""

    def make(perform=lambda attempt: Outcome(200), **more):
        names = ("ready", "maintenance")
        arguments = {name: more.pop(name) for name in names if name in more}
        settings = ServerSettings(name="worker1", **more)
        return Consumer(storage, perform, settings, told, clock, **arguments)

    return make


@pytest.fixture
def door():
    """Opened at the end, so that no thread stays behind it."""
    door = threading.Event()
    yield door
    door.set()


@pytest.fixture
def running():
    return threading.Event()


@pytest.fixture
def perform(door, running):
    """Runs until the door is open."""

    def perform(attempt):
        running.set()
        assert door.wait(BOUND)
        return Outcome(200)

    return perform
