"""A queue on a real Redis, shared by real WSGI processes."""

from __future__ import annotations

from acceptance.instance import wait_for
from pathlib import Path
from redis import Redis
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
  unix_socket_path $(FIXTURE_REDIS)
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
    instance = zope(SNIPPET, environ={"FIXTURE_REDIS": redis_server.socket})
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


DOTS = """\
%import collective.taskqueue
<taskqueue>
  queue a
  type redis
  unix_socket_path $(FIXTURE_REDIS)
  keep_succeeded 0
</taskqueue>
<taskqueue-server>
  queue a
  name b
  lease 2
</taskqueue-server>
<taskqueue>
  queue a.b
  type redis
  unix_socket_path $(FIXTURE_REDIS)
</taskqueue>
<taskqueue-server>
  queue a.b
  name c.d
  lease 2
</taskqueue-server>
"""


def test_two_queues_whose_names_could_be_one(zope, redis_server):
    """Each runs its own tasks; a lost record stops no other task, and an old one is gone."""
    instance = zope(DOTS, environ={"FIXTURE_REDIS": redis_server.socket}).start()
    call = {"queue": "a", "url": "/@@fixture-gate?name=lost"}
    (lost,) = instance.add(call, path="")["ids"]
    wait_for(lambda: started(instance, "lost"), "the first task to start")
    calls = [{"queue": name, "url": f"/@@fixture-gate?name={name}"} for name in ("a", "a.b")]
    ids = instance.add(*calls, path="")["ids"]
    with Redis(unix_socket_path=redis_server.socket) as client:
        assert client.lrange("collective.taskqueue.a.b", 0, -1) == [lost.encode()]
        client.delete(f"collective.taskqueue.a:task:{lost}")
        for name in ("lost", "a", "a.b"):
            instance.open(name)
        assert [instance.finished(task_id)["state"] for task_id in ids[1:]] == ["succeeded"]
        wait_for(lambda: instance.records(event="end", gate="a"), "the next task to end")
        wait_for(lambda: instance.lines(lost, "its record is missing"), "a line in the log")
        # Nothing else ends in this queue.
        wait_for(
            lambda: not list(client.scan_iter(f"collective.taskqueue.a:*{ids[0]}*")),
            "the record to be forgotten",
        )
        assert client.zcard("collective.taskqueue.a%2Eb:finished:succeeded") == 1
