"""A queue on a real Redis, shared by real WSGI processes."""

from __future__ import annotations

from acceptance.instance import wait_for
from pathlib import Path
from services import RedisServer
import os
import pytest
import shutil
import signal
import tempfile


SNIPPET = """\
%import collective.taskqueue
<taskqueue>
  type redis
  unix_socket_path $(TASKQUEUE_TEST_REDIS)
</taskqueue>
<taskqueue-server>
  lease 2
</taskqueue-server>
"""


@pytest.fixture
def redis_server():
    # The path of a socket may have a hundred characters, and a folder of pytest has more.
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder).start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def started(instance, gate):
    return instance.records(event="start", gate=gate)


def test_worker_killed_in_a_task(zope, redis_server):
    """C63, C70, D05, N63: SIGKILL in the middle of a task; it runs again, all others once."""
    instance = zope(SNIPPET, environ={"TASKQUEUE_TEST_REDIS": redis_server.socket})
    instance.start()
    urls = [f"/@@fixture-gate?name={name}" for name in "abc"]
    ids = instance.add(*({"url": url} for url in urls), path="")["ids"]
    wait_for(lambda: started(instance, "a"), "the first task to start")
    for attempt in (2, 3):
        os.kill(instance.process.pid, signal.SIGKILL)
        instance.wait()
        instance.start()
        wait_for(
            lambda attempt=attempt: len(started(instance, "a")) == attempt,
            f"attempt {attempt}",
        )
    for name in "abc":
        instance.open(name)
    for task_id in ids:
        assert instance.finished(task_id)["state"] == "succeeded"
    order = [item["gate"] for item in instance.records(event="start") if item.get("gate")]
    assert order == ["a", "a", "a", "b", "c"]
    assert len(instance.lines("WARNING", ids[0], "back to the front")) == 2
