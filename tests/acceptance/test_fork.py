"""A server that loads the application before it forks its workers.

The database is memory, of which each worker has a copy: a FileStorage belongs to one process,
and the network thread of a ZEO client does not survive a fork, with or without task queues.
"""

from acceptance.instance import MEMORY_STORAGE
from acceptance.instance import SNIPPET
from acceptance.instance import wait_for
from ports import free_port
import pytest
import signal
import sys


@pytest.fixture
def forked(zope):
    """A running server, the ports of its two workers, and their process ids."""
    instance = zope(SNIPPET, storage=MEMORY_STORAGE)
    ports = [free_port(), free_port()]
    instance.spawn(sys.executable, "-m", "fixture.prefork", instance.conf, instance.log, *ports)
    for port in ports:
        instance.wait_until_up(port)
    wait_for(lambda: instance.records(event="forked"), "all children")
    [workers] = [item["children"] for item in instance.records(event="forked")]
    return instance, ports, workers


def test_forked_workers(forked):
    """The process that queues a task runs it, once; no child runs a task of its parent."""
    instance, ports, workers = forked

    # Children that are no servers have no consumer; their tasks are theirs alone.
    for how in ("fork", "multiprocessing"):
        [child] = instance.records(child=how)
        assert child["waiting"] == 1
        # The other one tells subscribers of events; it runs no task.
        assert set(child["threads"]) <= {"MainThread", "taskqueue-events"}

    # A worker begins with an empty queue, while three tasks wait in the parent.
    for port in ports:
        counts = instance.counts(port)["default"]
        assert (counts["queued"], counts["running"]) == (0, 0)

    # What a worker queues it runs itself.
    for port, pid in zip(ports, workers, strict=True):
        calls = [{"url": f"/@@fixture-record?of=worker&number={n}"} for n in range(5)]
        for task_id in instance.add(*calls, path="", port=port)["ids"]:
            assert instance.finished(task_id, port)["state"] == "succeeded"
            [seen] = instance.records(id=task_id)
            assert seen["pid"] == pid

    # What waited in the parent runs there, in order.
    parent = instance.process.pid
    assert not [item for item in instance.records() if of(item) == "parent"]
    instance.open("parent")
    wait_for(lambda: len([i for i in instance.records() if of(i) == "parent"]) == 3, "the parent")

    # All processes end as they are told, and only then it is certain what ran how often.
    instance.signal(signal.SIGTERM)
    assert instance.wait() == 0
    assert [item["codes"] for item in instance.records(event="ended")] == [[0, 0]]
    ran = [
        (of(item), item["form"].get("number"), item["pid"])
        for item in instance.records()
        if of(item)
    ]
    expected = [("parent", str(n), parent) for n in range(3)]
    expected += [("worker", str(n), pid) for pid in workers for n in range(5)]
    assert sorted(ran) == sorted(expected)
    for pid in workers:
        assert instance.lines(f":{pid}]", "consumer default of queue default: started")
        assert instance.lines(f":{pid}]", "consumer default of queue default: stopped")


def of(item):
    return item.get("form", {}).get("of")
