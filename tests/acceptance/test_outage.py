"""A Redis that is killed and comes back: what people, operators and other processes see."""

from acceptance.instance import wait_for
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.redis import RedisStorage
from contextlib import closing
from pathlib import Path
from services import RedisServer
import json
import os
import pytest
import signal
import tempfile


SNIPPET = """\
%import collective.taskqueue
<taskqueue>
  type redis
  unix_socket_path $(FIXTURE_REDIS)
  stage_timeout 1
</taskqueue>
<taskqueue-server>
  concurrent_limit 3
  lease 3
</taskqueue-server>
"""


@pytest.fixture
def server():
    server = RedisServer(Path(tempfile.mkdtemp(prefix="redis-")), persistent=True).start()
    yield server
    server.remove()


@pytest.fixture
def instance(zope, server):
    return zope(SNIPPET, environ={"FIXTURE_REDIS": server.socket})


def consumers(server):
    """Whether each consumer is alive, asked by another process."""
    with closing(RedisStorage(QueueSettings(unix_socket_path=server.socket))) as storage:
        return [consumer.alive for consumer in storage.admin.consumers()]


def test_an_outage(instance, server):
    """One error, one line at the end, and 503 for each client that tries to add a task."""
    instance.start()
    instance.add({"url": "/@@fixture-gate?name=slow"}, path="")
    wait_for(lambda: instance.records(gate="slow"), "the task to start")
    server.stop(signal.SIGKILL)
    wait_for(lambda: instance.lines("storage unavailable"), "the outage to be said")
    query = instance.query({"calls": json.dumps([{"url": "/@@fixture-record"}])})
    # Each waits for the storage for a while, and so does the consumer.
    for _ in range(5):
        status, headers, body = instance.request(
            "GET", f"/@@fixture-add?{query}", headers={"Accept": "text/html"}
        )
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        assert b"Please try again in a moment" in body
        assert server.socket.encode() not in body
    wait_for(lambda: instance.lines("lease not renewed"), "the lease not to be renewed")
    server.start()
    wait_for(lambda: instance.lines("storage available again"), "the outage to be over")
    instance.open("slow")
    assert instance.request("GET", f"/@@fixture-add?{query}")[0] == 200
    instance.drain()
    assert len(instance.lines("ERROR [collective.taskqueue:")) == 1
    assert len(instance.lines("storage unavailable")) == 1
    assert len(instance.lines("INFO", "storage available again")) == 1
    assert len(instance.lines("lease not renewed")) == 1


def test_consumers_that_stopped_and_one_that_died(instance, server):
    """The one unregisters, the other is not alive."""
    instance.start()
    wait_for(lambda: consumers(server) == [True], "the consumer to be there")
    instance.stop()
    assert consumers(server) == []
    instance.start()
    wait_for(lambda: consumers(server) == [True], "the consumer to be there again")
    os.kill(instance.process.pid, signal.SIGKILL)
    instance.wait()
    assert consumers(server) == [False]
