"""A field of the query that there is not is refused, wherever it is."""

from collective.taskqueue import services
from collective.taskqueue.services.queues import TaskQueues
from collective.taskqueue.services.tasks import Tasks
from pathlib import Path
from rest.conftest import HOOK
from urllib.parse import quote
import json
import pytest


DESCRIPTION = json.loads((Path(services.__file__).parent / "openapi.json").read_text())

#: Every method of every resource.
REQUESTS = [
    (method, "/".join([root, *("{}" if part == "*" else part for part in shape)]))
    for root, service in (("@tasks", Tasks), ("@taskqueues", TaskQueues))
    for shape, methods in service.routes.items()
    for method in methods
]

#: What each of them knows, by the description.
KNOWN = {
    (method.upper(), path.lstrip("/").replace("{id}", "{}").replace("{name}", "{}")): sorted(
        each["name"] for each in operation.get("parameters", []) if each["in"] == "query"
    )
    for path, item in DESCRIPTION["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
}


@pytest.fixture
def path_of(adder, queue):
    """Fill in what there is, and what a request for it would change."""

    def path_of(path):
        task_id = adder.add(url=HOOK)
        return path.format(task_id if path.startswith("@tasks") else "default")

    return path_of


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize("field", ["colour", "Wait", "state[]", "b_sizes", "_", "B_SIZE", "ü"])
def test_an_unknown_field(manager, queue, path_of, method, path, field):
    """400, and the known ones; nothing has been done."""
    url = path_of(path)
    before = [(status.id, status.state) for status in queue.tasks()]
    answer = manager(method, f"{url}?{quote(field)}=1")
    assert answer.error == (400, "BadRequest", field)
    listed = ", ".join(KNOWN[method, path]) or "none"
    assert answer.json["error"]["message"] == f"unknown field {field!r} (known: {listed})"
    assert [(status.id, status.state) for status in queue.tasks()] == before
    assert not queue.storage.admin.paused()


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize(
    ("query", "field"),
    [("a:int=x", "a"), (":method=x", "query"), ("%ff=1", "query"), ("=1", "query"), ("a", "a")],
)
def test_what_zope_would_make_of_a_query(manager, path_of, method, path, query, field):
    """A number, or a part of the path."""
    assert manager(method, f"{path_of(path)}?{query}").error == (400, "BadRequest", field)


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_a_known_one_beside_it(manager, path_of, method, path):
    """It makes no difference."""
    known = KNOWN[method, path][:1]
    query = "&".join([*(f"{name}=1" for name in known), "colour=red"])
    answer = manager(method, f"{path_of(path)}?{query}")
    assert answer.error == (400, "BadRequest", "colour")


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_an_empty_query(manager, path_of, method, path):
    """Has no field; what is missing is one that the request needs."""
    answer = manager(method, f"{path_of(path)}?")
    needed = "action" if path == "@tasks/bulk" else "url"
    assert answer.status in (200, 201, 202, 204, 409) or answer.error[2] == needed


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_who_may_not_ask_is_told_so_first(anonymous, editor, path_of, method, path):
    """N04: permissions are checked before everything else that may be wrong with a request."""
    url = path_of(path)
    assert anonymous(method, f"{url}?colour=red").status == 401
    own = path in ("@tasks", "@tasks/bulk")
    expected = 400 if own else 404 if "@tasks" in path else 403
    assert editor(method, f"{url}?colour=red").status == expected


def test_fields_of_the_raw_form(adder, queue):
    """Those of the JSON that are no fields of the query are refused, too."""
    for field in ("params", "payload", "headers", "payload_base64", "user"):
        answer = adder("POST", f"@tasks?url={HOOK}&{field}=1", body=b"x")
        assert answer.error == (400, "BadRequest", field)
        assert "known: delay, description, eta" in answer.json["error"]["message"]
    answer = adder.post("@tasks", {"url": HOOK, "colour": "red"})
    assert "known: delay, description, eta, headers" in answer.json["error"]["message"]
    assert queue.tasks() == []
