"""A queue in a file of SQLite, used by real WSGI processes one after the other."""

from __future__ import annotations

from acceptance.instance import wait_for
import os
import signal


SNIPPET = """\
%import collective.taskqueue
<taskqueue>
  type sql
  url sqlite:///$(TASKQUEUE_TEST_FILE)
</taskqueue>
<taskqueue-server>
  lease 2
</taskqueue-server>
"""


def started(instance, gate):
    return instance.records(event="start", gate=gate)


def test_worker_killed_in_a_task(zope, tmp_path):
    """D05: SIGKILL in the middle of a task; it runs again, and all others once, in order."""
    instance = zope(SNIPPET, environ={"TASKQUEUE_TEST_FILE": str(tmp_path / "queue.sqlite")})
    instance.start()
    urls = [f"/@@fixture-gate?name={name}" for name in "abc"]
    ids = instance.add(*({"url": url} for url in urls), path="")["ids"]
    wait_for(lambda: started(instance, "a"), "the first task to start")
    os.kill(instance.process.pid, signal.SIGKILL)
    instance.wait()
    instance.start()
    wait_for(lambda: len(started(instance, "a")) == 2, "the second attempt")
    for name in "abc":
        instance.open(name)
    for task_id in ids:
        assert instance.finished(task_id)["state"] == "succeeded"
    order = [item["gate"] for item in instance.records(event="start") if item.get("gate")]
    assert order == ["a", "a", "b", "c"]
    assert len(instance.lines("WARNING", ids[0], "back to the front")) == 1
