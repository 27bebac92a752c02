"""A queue on Redis, and workers that use slots."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.publisher import slot
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.publisher.slot import Slots
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.testing.contract import ManualClock
from services import RedisServer
from zope.component import getGlobalSiteManager
import pytest


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def queue(portal, tmp_path, clock, monkeypatch):
    """A queue on a Redis server; the database of the layer has another name than that of Zope."""
    monkeypatch.setattr(slot, "MAIN", portal._p_jar.db().database_name)
    server = RedisServer(tmp_path).start()
    settings = QueueSettings(queue="slots", type="redis", unix_socket_path=server.socket)
    queue = TaskQueue(settings, RedisStorage(settings, clock))
    registry = getGlobalSiteManager()
    registry.registerUtility(queue, ITaskQueue, name="slots")
    yield queue
    registry.unregisterUtility(queue, ITaskQueue, name="slots")
    queue.storage.close()
    server.stop()


@pytest.fixture
def worker(queue, portal, clock):
    """Return a new worker; `reserve` and `publish` are its two halves, `step` is all of it."""

    def make(name="worker"):
        consumer = Consumer(queue.storage, publish, ServerSettings(name=name), clock=clock)
        consumer.use_slots(Slots(portal._p_jar.db()), queue.settings.max_deliveries)
        return consumer

    return make


@pytest.fixture
def counting(view, portal):
    """A view that counts its calls in the database."""

    def count(context, request):
        context.calls = getattr(context, "calls", 0) + 1
        return f"call {context.calls}"

    return view("count", count)
