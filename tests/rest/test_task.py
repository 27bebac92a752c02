"""``@tasks/{id}``: look at a task, cancel it, run it, and read what came of it."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.services import waiting
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Progress
from collective.taskqueue.testing import run_tasks
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import uuid4
import pytest
import threading
import time


HOOK = "https://example.org/hook"

#: Seconds that a test waits at most; only a test that fails waits that long.
BOUND = 30.0


def _answer(outcome, attempt):
    return outcome


def perform(queue, *outcomes):
    """Run tasks that wait, as if they had these outcomes."""
    for outcome in outcomes or (Outcome(200, body=b"done"),):
        consumer = Consumer(queue.storage, partial(_answer, outcome), ServerSettings(name="one"))
        assert consumer.step() == 1
        consumer.stop()


def test_a_task_that_waits(adder, queue):
    """N10, H04, H06, H07, T03, U39, U46: what it is, and in which state."""
    task_id = adder.add(url=HOOK, method="PUT", timeout=5, description="D", delay=60)
    task = adder.get(f"@tasks/{task_id}").json
    assert task["url"] == HOOK
    assert (task["method"], task["timeout"], task["description"]) == ("PUT", 5.0, "D")
    assert (task["state"], task["attempts"], task["max_attempts"]) == ("scheduled", 0, 36)
    assert task["due"] > task["created"]
    assert [task[name] for name in ("started", "finished", "status", "progress")] == [None] * 4
    assert [change["state"] for change in task["changes"]] == ["scheduled"]
    assert task["response"] == f"http://localhost:8080/plone/@tasks/{task_id}/response"


def test_a_task_that_has_ended(adder, queue):
    """H08, H09, H12, N11, T06, U30, U38: its history, and how it went."""
    task_id = adder.add(url=HOOK, max_attempts=2)
    perform(queue, Outcome(503, "status 503", error="Traceback: secret"))
    task = adder.get(f"@tasks/{task_id}").json
    assert (task["state"], task["status"], task["attempts"]) == ("scheduled", 503, 1)
    assert task["reason"] == "status 503"
    queue.run_now(task_id)
    perform(queue)
    task = adder.get(f"@tasks/{task_id}").json
    assert (task["state"], task["status"], task["attempts"]) == ("succeeded", 200, 2)
    assert [attempt["status"] for attempt in task["history"]] == [503, 200]
    assert task["created"] <= task["started"] <= task["finished"]
    assert "secret" not in str(task)


def test_progress(adder, queue):
    """As far as the task says that it has come."""
    task_id = adder.add(url="/plone/@@view")
    (lease,) = queue.storage.reserve("one", timeout=0)
    queue.storage.report(lease, Progress(1.0, 4.0, "first", 0.0))
    task = adder.get(f"@tasks/{task_id}").json
    assert task["progress"] == {"done": 1.0, "total": 4.0, "message": "first"}
    assert (task["state"], task["consumer"]) == ("running", "one")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400, "half"])
def test_progress_that_no_json_can_tell(adder, queue, number):
    """A view may say anything."""
    task_id = adder.add(url="/plone/@@view")
    (lease,) = queue.storage.reserve("one", timeout=0)
    queue.storage.report(lease, Progress(number, number, "", 0.0))
    progress = adder.get(f"@tasks/{task_id}").json["progress"]
    assert (progress["done"], progress["total"]) == (None, None)


@pytest.mark.parametrize("delay", [0, 60])
def test_cancel_a_task_that_waits(adder, queue, delay):
    """H13, H14, T04, U41, U48: it never runs, and there is no response."""
    task_id = adder.add(url=HOOK, delay=delay)
    answer = adder.delete(f"@tasks/{task_id}")
    assert (answer.status, answer.body) == (204, b"")
    assert adder.get(f"@tasks/{task_id}").json["state"] == "cancelled"
    assert run_tasks() == []
    assert adder.get(f"@tasks/{task_id}/response").error == (404, "NotFound", None)


def test_cancel_a_task_that_runs(adder, queue):
    """H15: it is asked to stop; the call itself is dropped by its consumer."""
    task_id = adder.add(url=HOOK)
    (lease,) = queue.storage.reserve("one", timeout=0)
    for _ in range(2):
        assert adder.delete(f"@tasks/{task_id}").status == 204
        task = adder.get(f"@tasks/{task_id}").json
        assert (task["state"], task["cancel_requested"]) == ("running", True)
    assert Attempt(lease, queue.storage).cancelled()


def test_delete_a_finished_task(adder, queue):
    """H16, T04, U42, U43: its record is removed; then it is unknown."""
    task_id = adder.add(url=HOOK)
    perform(queue)
    assert adder.delete(f"@tasks/{task_id}").status == 204
    for answer in (adder.get(f"@tasks/{task_id}"), adder.delete(f"@tasks/{task_id}")):
        assert answer.error == (404, "NotFound", None)


def test_retry(adder, queue):
    """A failed task is queued again, any other one is not."""
    task_id = adder.add(url=HOOK)
    assert adder.post(f"@tasks/{task_id}/retry").error == (409, "Conflict", None)
    perform(queue, Outcome(400, "status 400"))
    answer = adder.post(f"@tasks/{task_id}/retry")
    assert (answer.status, answer.json["state"]) == (200, "queued")
    perform(queue)
    assert adder.post(f"@tasks/{task_id}/retry").error == (409, "Conflict", None)


def test_run_now(adder, queue):
    """N12, U25: whenever it would be due; a finished task does not run again (D55)."""
    task_id = adder.add(url=HOOK, delay=3600)
    assert run_tasks() == []
    for _ in range(2):
        answer = adder.post(f"@tasks/{task_id}/run")
        assert (answer.status, answer.json["state"], answer.json["due"]) == (200, "queued", None)
    perform(queue)
    assert adder.post(f"@tasks/{task_id}/run").error == (409, "Conflict", None)
    assert queue.status(task_id).state == "succeeded"


def test_the_response(adder, queue):
    """H11, U38, U47: status, headers and body, as JSON can tell them."""
    task_id = adder.add(url=HOOK)
    headers = (("Content-Type", "text/plain"), ("X-A", "b"), ("X-A", "c"))
    perform(queue, Outcome(404, "status 404", headers=headers, body="Nö".encode(), truncated=True))
    found = adder.get(f"@tasks/{task_id}/response").json
    assert found["task"] == f"http://localhost:8080/plone/@tasks/{task_id}"
    assert found["@id"] == f"{found['task']}/response"
    assert (found["state"], found["status"], found["reason"]) == ("failed", 404, "status 404")
    assert found["headers"] == {"Content-Type": "text/plain", "X-A": "b, c"}
    assert (found["body"], found["truncated"], found["attempts"]) == ("Nö", True, 1)
    assert found["started"] <= found["finished"]


def test_a_response_in_bytes(adder, queue):
    """D65: no byte is lost."""
    task_id = adder.add(url=HOOK)
    perform(queue, Outcome(200, body=b"\xff\x00"))
    found = adder.get(f"@tasks/{task_id}/response").json
    assert found["body_base64"] == "/wA="
    assert "body" not in found


def test_no_response_at_all(adder, queue):
    """H10, U40: the reason says why."""
    task_id = adder.add(url=HOOK, max_attempts=1)
    perform(queue, Outcome(None, "ConnectionRefusedError: refused"))
    found = adder.get(f"@tasks/{task_id}/response").json
    assert (found["state"], found["status"], found["body"]) == ("failed", None, "")
    assert found["reason"] == "ConnectionRefusedError: refused"


def test_delete_the_response(adder, queue):
    """H17, U43, U47: 204, then 404; the task stays what it is."""
    task_id = adder.add(url=HOOK)
    assert adder.delete(f"@tasks/{task_id}/response").error == (409, "Conflict", None)
    perform(queue)
    assert adder.delete(f"@tasks/{task_id}/response").status == 204
    assert adder.get(f"@tasks/{task_id}/response").error == (404, "NotFound", None)
    assert adder.delete(f"@tasks/{task_id}/response").error == (404, "NotFound", None)
    assert adder.get(f"@tasks/{task_id}").json["state"] == "succeeded"


def test_who_may_not_ask_is_told_so_first(anonymous, adder, viewer, queue):
    """N04: permissions are checked before everything else that may be wrong with a request."""
    path = f"@tasks/{adder.add(url=HOOK)}/response?wait=long"
    assert anonymous.get(path).status == 401
    assert viewer.get(path).error == (403, "Forbidden", None)
    assert viewer.get("@tasks/1/response?wait=long").error == (404, "NotFound", None)
    assert adder.get(path).error == (400, "BadRequest", "wait")


def test_a_response_that_is_not_there_yet(adder, queue):
    """H11: 202 and the task, at once unless the client asks to wait."""
    task_id = adder.add(url=HOOK)
    answer = adder.get(f"@tasks/{task_id}/response")
    assert (answer.status, answer.headers["Retry-After"]) == (202, "1")
    assert (answer.json["id"], answer.json["state"]) == (task_id, "queued")
    assert adder.get(f"@tasks/{task_id}/response?wait=0.2").status == 202


@pytest.mark.parametrize("path", ["/response?wait=30", "?wait=30"])
def test_a_client_that_waits(adder, queue, monkeypatch, path):
    """D64: it is told as soon as the task has ended."""
    task_id = adder.add(url=HOOK)
    looked = threading.Event()
    real = queue.status

    def status(task_id, brief=False):
        looked.set()
        return real(task_id, brief)

    monkeypatch.setattr(queue, "status", status)

    def end():
        assert looked.wait(BOUND)
        perform(queue)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(end)
        answer = adder.get(f"@tasks/{task_id}{path}")
        ended.result(BOUND)
    assert (answer.status, answer.json["state"]) == (200, "succeeded")


def test_wait_for_a_task(adder, queue):
    """The task as it is, when it has ended or the time is over."""
    task_id = adder.add(url=HOOK)
    for path in (f"@tasks/{task_id}", f"@tasks/{task_id}?wait=0", f"@tasks/{task_id}?wait=0.1"):
        answer = adder.get(path)
        assert (answer.status, answer.json["state"], answer.json["history"]) == (200, "queued", [])
    perform(queue)
    answer = adder.get(f"@tasks/{task_id}?wait=30")
    assert (answer.json["state"], len(answer.json["history"])) == ("succeeded", 1)


@pytest.mark.parametrize("wait", ["abc", "-1", "31", "nan", "inf", "", "1&wait=2"])
def test_how_long_a_client_waits_is_bounded(adder, queue, wait):
    """D64."""
    task_id = adder.add(url=HOOK)
    for path in (f"@tasks/{task_id}", f"@tasks/{task_id}/response"):
        assert adder.get(f"{path}?wait={wait}").error == (400, "BadRequest", "wait")


def test_how_many_clients_wait_is_bounded(adder, queue):
    """D64: as many threads and connections are left for others as there are."""
    task_id = adder.add(url=HOOK)
    for _ in range(waiting.MAX_WAITING):
        assert waiting._places.acquire(blocking=False)
    try:
        # A failure waits for the bound of the service, and has no answer before it.
        started = time.monotonic()
        answer = adder.get(f"@tasks/{task_id}/response?wait=30")
        assert answer.status == 202
        assert time.monotonic() - started < waiting.MAX_WAIT
    finally:
        for _ in range(waiting.MAX_WAITING):
            waiting._places.release()


def test_places_are_given_back(adder, queue, monkeypatch):
    """Also by a client whose task has disappeared."""
    for _ in range(2 * waiting.MAX_WAITING):
        task_id = adder.add(url=HOOK)
        monkeypatch.setattr(time, "sleep", lambda seconds: queue.reset())
        assert adder.get(f"@tasks/{task_id}/response?wait=30").error[0] == 404
    for _ in range(waiting.MAX_WAITING):
        assert waiting._places.acquire(blocking=False)
    for _ in range(waiting.MAX_WAITING):
        waiting._places.release()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "@tasks"),
        ("PATCH", "@tasks"),
        ("DELETE", "@tasks"),
        ("PUT", "@tasks/{id}"),
        ("POST", "@tasks/{id}"),
        ("PATCH", "@tasks/{id}"),
        ("POST", "@tasks/{id}/response"),
        ("GET", "@tasks/{id}/retry"),
        ("DELETE", "@tasks/{id}/run"),
        ("POST", "@taskqueues"),
        ("PUT", "@taskqueues/default"),
        ("GET", "@taskqueues/default/pause"),
        ("GET", "@taskqueues/default/tasks"),
        ("POST", "@taskqueues/default/tasks"),
    ],
)
def test_other_methods(manager, method, path):
    """N13, U35: 405, and what is allowed."""
    answer = manager(method, path.format(id=uuid4()))
    assert answer.error == (405, "MethodNotAllowed", None)
    assert answer.headers["Allow"]
    assert method not in answer.headers["Allow"]


@pytest.mark.parametrize(
    "path",
    ["@tasks/{id}", "@tasks/1", "@tasks/{id}/nothing", "@tasks/{id}/response/more"],
)
def test_unknown_paths(manager, path):
    """N10, N13, N15, U29: 404."""
    assert manager.get(path.format(id=uuid4())).status == 404


def test_the_form_of_an_id_does_not_matter(manager, queue):
    """A text that is no id names no task, in every storage."""
    for name in ("a b", "a:b", "*", "x" * 5000, "..", "0", "None", "é"):
        assert manager.get(f"@tasks/{name}/response").status == 404


@pytest.mark.parametrize("action", ["retry", "run"])
def test_unknown_tasks_are_not_run(manager, action):
    """U29: 404."""
    assert manager.post(f"@tasks/{uuid4()}/{action}").error == (404, "NotFound", None)


def test_settings_of_a_web_hook_from_outside(adder, queue, monkeypatch):
    """D15: a hook that a client asks for goes where its queue allows, and nowhere else."""
    assert adder.post("@tasks", {"url": "http://127.0.0.1:9999/"}).error[2] == "url"
    monkeypatch.setattr(queue, "settings", QueueSettings(allow_hosts="127.0.0.1:9999"))
    assert adder.post("@tasks", {"url": "http://127.0.0.1:9999/"}).status == 201
