"""Every request and response that the documentation shows, recorded.

A recording that changes is a change for the clients. If it is meant, remove the file in
`recordings`: it is written anew, the last test fails once, and docs/how-to/rest.rst follows.
"""

from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Progress
from dataclasses import replace
from functools import partial
from pathlib import Path
import json
import pytest
import re


HERE = Path(__file__).parent / "recordings"

HOOK = "https://example.org/hook"

#: Headers of a response that are shown.
SHOWN = ("Allow", "Content-Type", "Location", "Retry-After")

#: What differs from one run to the next, and what is shown in its place.
VARIES = (
    (r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "2026-11-21T12:00:00.000+00:00"),
    (r'"(age|elapsed|oldest)": [\d.e-]+', r'"\1": 0.25'),
    (r'"host": "[^"]*"', '"host": "web1"'),
    (r'"pid": \d+', '"pid": 4711'),
    (r'"cursor": "[\w=-]+"', '"cursor": "pX7c2y…"'),
    (r"cursor=[\w%-]+", "cursor=pX7c2y…"),
)


#: Recordings that were not there before.
WRITTEN = []


class Recorder:
    """Makes requests, and compares what was said with what is recorded."""

    def __init__(self, client):
        self._client = client
        self._ids = {}

    def __call__(self, name, method, path, json_body=None, body=b"", **headers):
        answer = self._client(method, path, json_body, body, **headers)
        lines = [f"{method} /plone/{path} HTTP/1.1", "Accept: application/json"]
        if json_body is not None:
            lines += ["Content-Type: application/json"]
            body = json.dumps(json_body, indent=2).encode()
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["", body.decode()] if body else []
        lines += ["", f"HTTP/1.1 {answer.status} {answer.reason}"]
        lines += [f"{name}: {answer.headers[name]}" for name in SHOWN if name in answer.headers]
        if answer.body:
            lines += ["", json.dumps(answer.json, indent=2, sort_keys=True)]
        self._compare(name, self._shown("\n".join(lines)))
        return answer

    def _shown(self, text):
        for uuid in re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f-]{21}", text):
            number = len(self._ids) + 1
            self._ids.setdefault(uuid, f"{number:08x}-5a1c-4b7e-9d33-7f0e5c2b8a64")
            text = text.replace(uuid, self._ids[uuid])
        for pattern, replacement in VARIES:
            text = re.sub(pattern, replacement, text)
        return f"{text.rstrip()}\n"

    def _compare(self, name, text):
        path = HERE / f"{name}.http"
        if not path.exists():
            path.write_text(text, encoding="utf-8")
            WRITTEN.append(name)
        assert text == path.read_text(encoding="utf-8")


@pytest.fixture
def record(adder):
    return Recorder(adder)


def _answer(outcome, attempt):
    return outcome


def perform(queue, outcome):
    consumer = Consumer(queue.storage, partial(_answer, outcome), ServerSettings(name="worker1"))
    consumer.step()
    consumer.stop()


def test_add(record):
    """A view of the site, a web hook, and the raw form."""
    fields = {"url": "/plone/@@export", "description": "Export", "timeout": 600}
    record("add", "POST", "@tasks", fields)
    payload = {"title": "Möhren"}
    fields = {"url": HOOK, "payload": payload, "delay": 60, "key": "möhren"}
    record("add-hook", "POST", "@tasks", fields)
    headers = {"Content-Type": "text/csv", "Task-Passthrough-Authorization": "Bearer 0815"}
    record("add-raw", "POST", f"@tasks?url={HOOK}", body=b"title,amount\nLeek,5", **headers)


def test_refused(record, adder, queue, monkeypatch):
    """What is wrong, and where."""
    record("refused", "POST", "@tasks", {"url": HOOK, "timeout": "long"})
    record("unknown", "GET", "@tasks/79c0e6b2-93d0-4b61-a0a5-4a0e8f1d0a11")
    record("not-allowed", "PUT", "@tasks")

    def fail(*args):
        raise StorageUnavailable("away")

    monkeypatch.setattr(queue.storage.admin, "counts", fail)
    monkeypatch.setattr(queue.storage.admin, "tasks", fail)
    record("unavailable", "GET", "@tasks")


def test_too_many(record, adder, queue, monkeypatch):
    """One person cannot fill a queue."""
    for _ in range(2):
        adder.add(url=HOOK)
    monkeypatch.setattr(queue, "settings", replace(queue.settings, max_waiting_per_person=2))
    record("too-many", "POST", "@tasks", {"url": "/plone/@@export"})


def test_unknown_field(record):
    """A mistake that would be easy to overlook."""
    record("unknown-field", "GET", "@tasks?status=failed")


def test_follow(record, adder, queue):
    """From the queue to the response."""
    task_id = adder.add(url="/plone/@@export", description="Export")
    record("pending", "GET", f"@tasks/{task_id}/response?wait=0.1")
    (lease,) = queue.storage.reserve("worker1", timeout=0)
    queue.storage.report(lease, Progress(40.0, 100.0, "news", 0.0))
    record("running", "GET", f"@tasks/{task_id}")
    queue.reset()


def test_wait(record, adder, queue):
    """For the end of a task."""
    task_id = adder.add(url="/plone/@@export", description="Export")
    perform(queue, Outcome(500, "ValueError: no row for jane@example.org", error="Traceback"))
    record("wait", "GET", f"@tasks/{task_id}?wait=30")


def test_response(record, adder, queue):
    """What the view or the web hook has answered."""
    task_id = adder.add(url="/plone/@@export", description="Export")
    perform(queue, Outcome(200, headers=(("Content-Type", "text/plain"),), body=b"100 items"))
    record("response", "GET", f"@tasks/{task_id}/response")
    record("delete-response", "DELETE", f"@tasks/{task_id}/response")
    record("gone-response", "GET", f"@tasks/{task_id}/response")


def test_steer(record, adder, queue):
    """Run it now, run it again, cancel it."""
    task_id = adder.add(url=HOOK, delay=3600)
    record("run", "POST", f"@tasks/{task_id}/run")
    perform(queue, Outcome(410, "status 410, the web hook is gone for good"))
    record("run-finished", "POST", f"@tasks/{task_id}/run")
    adder.post(f"@tasks/{task_id}/retry")
    record("cancel", "DELETE", f"@tasks/{task_id}")


def test_list(record, adder, queue):
    """The tasks of the caller, a page at a time."""
    for number in (1, 2, 3):
        adder.add(url=HOOK, description=f"Report {number}")
    record("list", "GET", "@tasks?state=queued&b_size=1")


def test_search(record, adder, queue):
    """Tasks that match a filter, with a cursor."""
    for number in (1, 2):
        adder.add(url="/plone/@@export", description=f"Report {number}")
    record("search", "GET", "@tasks?url=/plone/@@export&state=queued&b_size=1")


def test_bulk(record, adder, queue):
    """All that match are retried; two in this request, the rest in the next one."""
    for _ in range(3):
        adder.add(url="/plone/@@export")
        perform(queue, Outcome(500, "ValueError: no row for jane@example.org"))
    conditions = {"state": "failed", "url": "/plone/@@export", "reason": "valueerror"}
    body = {"action": "retry", "filter": conditions, "limit": 2}
    answer = record("bulk", "POST", "@tasks/bulk", body)
    record("bulk-rest", "POST", "@tasks/bulk", {**body, "cursor": answer.json["cursor"]})


def test_queues(manager, adder, queue):
    """How they are doing, and how they are steered."""
    record = Recorder(manager)
    for _ in range(3):
        adder.add(url=HOOK)
    perform(queue, Outcome(200))
    queue.storage.reserve("worker1", timeout=0)
    record("queues", "GET", "@taskqueues")
    record("queue", "GET", "@taskqueues/default")
    record("pause", "POST", "@taskqueues/default/pause")
    record("purge", "POST", "@taskqueues/default/purge", {"state": "succeeded"})
    record("clear", "DELETE", "@taskqueues/default/tasks")


def test_recordings_are_recorded():
    """None is new, and none is left over from a test that is not there any more."""
    assert WRITTEN == []
    source = Path(__file__).read_text(encoding="utf-8")
    for path in HERE.glob("*"):
        assert f'record("{path.stem}", ' in source
