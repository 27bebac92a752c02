"""Queues and consumers without a section of ours in zope.conf."""

from pathlib import Path
from services import RedisServer
import pytest
import tempfile


@pytest.fixture(scope="module")
def redis_server():
    server = RedisServer(Path(tempfile.mkdtemp(prefix="redis-"))).start()
    yield server
    server.remove()


PRODUCT = """\
<product-config collective.taskqueue>
  queue.default.url unix://{socket}
  consumer.default.concurrent_limit 2
</product-config>
"""


def test_one_image_is_web_server_and_worker(zope, redis_server):
    """The environment alone says which queue there is, and which process runs its tasks."""
    url = f"unix://{redis_server.socket}"
    web = zope("", environ={"TASKQUEUE_URL": url, "TASKQUEUE_CONSUMERS": "off"}).start()
    worker = zope("", environ={"TASKQUEUE_URL": url, "TASKQUEUE_CONSUMERS": "default:2"}).start()
    (task_id,) = web.add({"url": "/@@fixture-record"}, path="")["ids"]
    assert worker.finished(task_id)["state"] == "succeeded"
    assert len(worker.records(id=task_id)) == 1
    assert web.records(id=task_id) == []
    assert worker.lines("consumer default of queue default: started")
    assert not web.lines("consumer default of queue default: started")


def test_a_tool_that_writes_product_config(zope, redis_server):
    """Without `%import collective.taskqueue`; the environment turns its consumers off."""
    snippet = PRODUCT.format(socket=redis_server.socket)
    web = zope(snippet, environ={"TASKQUEUE_CONSUMERS": "off"}).start()
    worker = zope(snippet).start()
    (task_id,) = web.add({"url": "/@@fixture-record"}, path="")["ids"]
    assert worker.finished(task_id)["state"] == "succeeded"
    assert web.records(id=task_id) == []
    assert not web.lines("consumer default of queue default: started")
