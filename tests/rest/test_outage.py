"""The storage is down: 503 and when to come again, never a wrong answer."""

from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.services.refusal import StorageUnavailableView
import json
import pytest


HOOK = "https://example.org/hook"


@pytest.fixture
def down(queue, monkeypatch):
    """Return a function after which methods of the storage do not answer any more."""

    def down(*names):
        def fail(*args, **kwargs):
            raise StorageUnavailable("ConnectionError: secret host")

        for name in names:
            part = queue.storage if hasattr(queue.storage, name) else queue.storage.admin
            monkeypatch.setattr(part, name, fail)

    return down


def assert_unavailable(answer):
    assert answer.error == (503, "ServiceUnavailable", None)
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/json"
    assert b"secret" not in answer.body


def test_nothing_is_promised(adder, queue, down):
    """C34, N30, U28: what cannot be queued is not said to be, even if the commit is the first
    to know."""
    down("stage")
    answer = adder.post("@tasks", {"url": HOOK})
    assert_unavailable(answer)
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "@tasks"),
        ("GET", "@tasks?user=adder"),
        ("GET", "@tasks/1"),
        ("DELETE", "@tasks/1"),
        ("POST", "@tasks/1/run"),
        ("GET", "@tasks/1/response?wait=30"),
        ("GET", "@taskqueues/default"),
        ("POST", "@taskqueues/default/pause"),
        ("POST", "@taskqueues/default/purge"),
        ("DELETE", "@taskqueues/default/tasks"),
    ],
)
def test_nothing_is_made_up(manager, down, method, path):
    """C47: neither an empty list nor a 404."""
    down("get", "tasks", "counts", "consumers", "pause", "purge", "clear")
    assert_unavailable(manager(method, path))


def test_a_task_of_another_queue_is_still_there(adder, editor, other_queue, down):
    """Those who may not see it are told what they are told of any other id."""
    task_id = adder.add(url=HOOK, queue="hooks")
    down("get")
    assert adder.get(f"@tasks/{task_id}").status == 200
    for each in (task_id, "unknown"):
        assert_unavailable(editor.get(f"@tasks/{each}"))


def test_the_list_of_queues_says_so(manager, other_queue, down):
    """C47: of the others it tells as ever."""
    down("counts")
    first, second = manager.get("@taskqueues").json["items"]
    assert (first["name"], first["available"]) == ("default", False)
    assert "counts" not in first
    assert (second["available"], second["counts"]["queued"]) == (True, 0)


def test_an_unexpected_error(adder, queue, monkeypatch):
    """N14: an error is told in JSON, with type and message, and no traceback goes out."""

    def fail(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr(queue.storage.admin, "get", fail)
    answer = adder.get("@tasks/1")
    assert (answer.status, answer.headers["Content-Type"]) == (500, "application/json")
    assert {"message", "type"} <= answer.json.keys()
    assert "traceback" not in answer.json
    assert b".py" not in answer.body


def test_nothing_is_left_of_what_another_service_promised(site):
    """G2 of issue 12: one that redirects or sends a file, and whose commit then fails."""
    request = site["request"].clone()
    response = request.response
    response.setHeader("ETag", "x")
    response.setHeader("Content-Disposition", "attachment")
    response.setHeader("Cache-Control", "public, max-age=3600")
    response.redirect("/plone/saved", lock=1)
    response.setBody("saved", lock=True)
    body = StorageUnavailableView(StorageUnavailable("secret host"), request)()
    response.setBody(body)
    assert response.getStatus() == 503
    assert json.loads(response.body)["error"]["type"] == "ServiceUnavailable"
    assert response.getHeader("Cache-Control") == "no-store"
    assert int(response.getHeader("Retry-After")) > 0
    for name in ("ETag", "Content-Disposition", "Location"):
        assert response.getHeader(name) is None
