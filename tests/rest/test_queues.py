"""``@taskqueues``: how queues are doing, and how they are steered."""

from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.task import Outcome
from functools import partial
import os
import pytest
import socket


HOOK = "https://example.org/hook"


def _answer(outcome, attempt):
    return outcome


def perform(queue, *statuses):
    for status in statuses:
        reason = "" if status == 200 else f"status {status}"
        outcome = Outcome(status, reason)
        consumer = Consumer(queue.storage, partial(_answer, outcome), ServerSettings(name="one"))
        assert consumer.step() == 1
        consumer.stop()


def test_all_queues(manager, viewer, queue, other_queue, adder):
    """N01, T02, U12: each with its address and its numbers, for those who may view them."""
    adder.add(url=HOOK, queue="hooks")
    other_queue.pause()
    for person in (manager, viewer):
        found = person.get("@taskqueues").json
        assert found["@id"] == "http://localhost:8080/plone/@taskqueues"
        first, second = found["items"]
        assert (first["name"], first["type"], first["paused"]) == ("default", "local", False)
        assert second["@id"] == "http://localhost:8080/plone/@taskqueues/hooks"
        assert (second["counts"]["queued"], second["paused"]) == (1, True)


def test_one_queue(manager, adder, queue):
    """T02: counts, age, the last hour, and who works."""
    for _ in range(5):
        adder.add(url=HOOK)
    adder.add(url=HOOK, delay=60)
    perform(queue, 200, 200, 400)
    (lease,) = queue.storage.reserve("two", timeout=0)
    found = manager.get("@taskqueues/default").json
    assert found["counts"] == {
        "queued": 1,
        "scheduled": 1,
        "running": 1,
        "succeeded": 2,
        "failed": 1,
        "cancelled": 0,
    }
    assert sum(found["counts"].values()) == 6
    assert 0 <= found["oldest"] < 3600
    assert found["last_hour"] == {
        "succeeded": 2,
        "failed": 1,
        "cancelled": 0,
        "failure_rate": pytest.approx(1 / 3),
    }
    # The other one was stopped.
    (two,) = found["consumers"]
    assert two["alive"] is True
    assert (two["name"], two["host"], two["pid"]) == ("two", socket.gethostname(), os.getpid())
    assert two["running"] == [
        {
            "@id": f"http://localhost:8080/plone/@tasks/{lease.task.id}",
            "id": lease.task.id,
        }
    ]
    assert 0 <= two["age"] < 3600


def test_a_queue_that_does_nothing(manager, queue):
    """There is no oldest task, and no rate of nothing."""
    found = manager.get("@taskqueues/default").json
    assert (found["oldest"], found["consumers"], found["paused"]) == (None, [], False)
    assert found["last_hour"]["failure_rate"] is None


def test_pause_and_resume(manager, queue):
    """204, however often it is asked for."""
    for action, expected in (("pause", True), ("pause", True), ("resume", False)):
        assert manager.post(f"@taskqueues/default/{action}").status == 204
        assert manager.get("@taskqueues/default").json["paused"] is expected


def test_purge(manager, adder, queue):
    """One state at a time, by default what has succeeded."""
    for _ in range(4):
        adder.add(url=HOOK)
    perform(queue, 200, 200, 400)
    answer = manager.post("@taskqueues/default/purge")
    assert (answer.status, answer.json) == (200, {"state": "succeeded", "removed": 2})
    answer = manager.post("@taskqueues/default/purge", {"state": "failed"})
    assert answer.json == {"state": "failed", "removed": 1}
    assert len(queue) == 1


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"state": "queued"}', b'{"state": []}'])
def test_what_cannot_be_purged(manager, adder, queue, body):
    """400, and nothing is forgotten."""
    adder.add(url=HOOK)
    answer = manager("POST", "@taskqueues/default/purge", body=body)
    assert answer.error[:2] == (400, "BadRequest")
    assert len(queue) == 1


def test_delete_all_tasks(manager, adder, queue, other_queue):
    """T05, D25: those that wait, of this queue only; what runs ends as usual."""
    running = adder.add(url=HOOK)
    (lease,) = queue.storage.reserve("one", timeout=0)
    adder.add(url=HOOK)
    adder.add(url=HOOK, delay=60)
    adder.add(url=HOOK, queue="hooks")
    assert manager.delete("@taskqueues/default/tasks").status == 204
    assert (len(queue), queue.counts()["scheduled"], len(other_queue)) == (0, 0, 1)
    assert queue.storage.renew(lease)
    assert manager.get(f"@tasks/{running}").json["state"] == "running"


STEERING = [
    ("POST", "@taskqueues/default/pause"),
    ("POST", "@taskqueues/default/resume"),
    ("POST", "@taskqueues/default/purge"),
    ("DELETE", "@taskqueues/default/tasks"),
]
LOOKING = [("GET", "@taskqueues"), ("GET", "@taskqueues/default")]


@pytest.mark.parametrize(("method", "path"), [*LOOKING, *STEERING])
def test_who_may(anonymous, member, adder, viewer, manager, queue, method, path):
    """To look takes one permission, to steer the other."""
    allowed = (200, 204)
    assert anonymous(method, path).status == 401
    for person in (member, adder):
        assert person(method, path).error == (403, "Forbidden", None)
    assert (viewer(method, path).status in allowed) == (method == "GET")
    assert manager(method, path).status in allowed


@pytest.mark.parametrize(("method", "path"), [LOOKING[1], *STEERING])
def test_unknown_queues(anonymous, member, manager, method, path):
    """404 for those who may know, and as ever for all others."""
    path = path.replace("default", "nope")
    assert manager(method, path).error == (404, "NotFound", None)
    assert member(method, path).error == (403, "Forbidden", None)
    assert anonymous(method, path).status == 401
