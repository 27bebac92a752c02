"""The same on a real PostgreSQL server, which takes no zeros in a text."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.sql import SqlStorage
from services import PostgresServer
from zope.component import getGlobalSiteManager
import pytest


HOOK = "https://example.org/hook"

#: What no task is called: zeros, what is no UTF-8, controls, other alphabets, very long ones.
IDS = ["%00", "a%00b", "a%0A", "%C3%A4", "%ED%A0%80", "x" * 9000]


@pytest.fixture(scope="module")
def server():
    server = PostgresServer().start()
    yield server
    server.remove()


@pytest.fixture
def shared(site, server):
    """A queue in a database of its own, before all others."""
    settings = QueueSettings(queue="a-sql", type="sql", url=server.new_database())
    queue = TaskQueue(settings, SqlStorage(settings))
    registry = getGlobalSiteManager()
    registry.registerUtility(queue, ITaskQueue, name="a-sql")
    yield queue
    registry.unregisterUtility(queue, ITaskQueue, name="a-sql")
    queue.storage.close()


def test_what_no_storage_can_be_asked_for(adder, manager, shared):
    """404 for an id and 400 for a user, and not a word of SQL."""
    task_id = adder.add(url=HOOK)
    for name in IDS:
        for method in ("GET", "DELETE"):
            assert manager(method, f"@tasks/{name}").error == (404, "NotFound", None)
    for query in ("%00", "%ff", "%ed%a0%80"):
        assert manager.get(f"@tasks?user={query}").error == (400, "BadRequest", "user")
    assert adder.get(f"@tasks/{task_id}").json["state"] == "queued"
