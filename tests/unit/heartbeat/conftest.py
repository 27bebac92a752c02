"""A heartbeat that looks when the test tells it to."""

from collective.taskqueue.consumer.heartbeat import Heartbeat
from heartbeats import BOUND
from heartbeats import LEASE
from heartbeats import Renewals
import pytest


@pytest.fixture
def storage():
    return Renewals()


@pytest.fixture
def heartbeat(storage):
    heartbeat = Heartbeat(storage, LEASE, "heartbeat-of-the-test")
    yield heartbeat
    heartbeat.stop()
    if heartbeat._thread is not None:
        heartbeat._thread.join(BOUND)
        assert not heartbeat._thread.is_alive()
