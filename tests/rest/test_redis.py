"""The same on a real Redis server, which goes away and comes back."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import Outcome
from services import RedisServer
from zope.component import getGlobalSiteManager
import os
import pytest


HOOK = "https://example.org/hook"


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path, persistent=True).start()
    yield server
    server.stop()


@pytest.fixture
def shared(site, server):
    """A queue on the server, before all others."""
    settings = QueueSettings(queue="a-redis", type="redis", unix_socket_path=server.socket)
    queue = TaskQueue(settings, RedisStorage(settings))
    registry = getGlobalSiteManager()
    registry.registerUtility(queue, ITaskQueue, name="a-redis")
    yield queue
    registry.unregisterUtility(queue, ITaskQueue, name="a-redis")
    queue.storage.close()


def test_a_life(adder, manager, shared):
    """H01, N12: added, run now, run, read, and looked at from the outside."""
    task_id = adder.add(url=HOOK, delay=3600, key="k", payload_base64="/wA=")
    assert adder.post(f"@tasks/{task_id}/run").json["state"] == "queued"
    assert manager.get(f"@tasks/{task_id}").json["payload_base64"] == "/wA="
    consumer = Consumer(shared.storage, lambda attempt: Outcome(201), ServerSettings(name="one"))
    assert consumer.step() == 1
    assert adder.get(f"@tasks/{task_id}/response").json["status"] == 201
    # It cannot be retried.
    assert not [name for name in manager.get(f"@tasks/{task_id}").json if "payload" in name]
    assert [item["id"] for item in adder.get("@tasks?queue=a-redis").json["items"]] == [task_id]
    found = manager.get("@taskqueues/a-redis").json
    assert (found["type"], found["last_hour"]["succeeded"]) == ("redis", 1)
    assert [(each["name"], each["pid"]) for each in found["consumers"]] == [("one", os.getpid())]
    consumer.stop()
    assert manager.get("@taskqueues/a-redis").json["consumers"] == []
    assert adder.delete(f"@tasks/{task_id}/response").status == 204
    assert adder.get(f"@tasks/{task_id}/response").status == 404


def test_the_server_goes_away(adder, manager, shared, server):
    """C34, C47: 503 for what would be there, and as ever for all else; then it is back."""
    task_id = adder.add(url=HOOK)
    server.stop()
    answers = [
        adder.post("@tasks", {"url": HOOK}),
        adder.get(f"@tasks/{task_id}"),
        adder.delete(f"@tasks/{task_id}"),
        manager.get("@tasks"),
        manager.get("@taskqueues/a-redis"),
        manager.post("@taskqueues/a-redis/pause"),
    ]
    for answer in answers:
        assert answer.error == (503, "ServiceUnavailable", None)
        assert "Location" not in answer.headers
        assert answer.headers["Retry-After"]
    assert adder.post("@tasks", {"url": HOOK, "queue": "default"}).status == 201
    names = {item["name"]: item["available"] for item in manager.get("@taskqueues").json["items"]}
    assert names == {"a-redis": False, "default": True}
    server.start()
    assert adder.get(f"@tasks/{task_id}").json["state"] == "queued"
    assert len(shared) == 1
