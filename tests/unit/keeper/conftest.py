"""A keeper that looks when the test tells it to."""

from collective.taskqueue.consumer.heartbeat import Keeper
from keepers import BOUND
from keepers import LEASE
from keepers import Renewals
import pytest


@pytest.fixture
def storage():
    return Renewals()


@pytest.fixture
def keeper(storage):
    keeper = Keeper(storage, LEASE, "keeper-of-the-test")
    yield keeper
    keeper.stop()
    if keeper._thread is not None:
        keeper._thread.join(BOUND)
        assert not keeper._thread.is_alive()
