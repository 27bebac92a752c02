"""``POST /@tasks``: what a client may say, what becomes of it, and what is refused."""

from collective.taskqueue.enqueue import author
from collective.taskqueue.enqueue.capture import METHODS
from collective.taskqueue.services import access
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from plone.app.testing import SITE_OWNER_NAME
from rest.conftest import HOOK
from rest.conftest import task_of
import pytest


def test_a_task_is_added(adder, queue):
    """N02, U16, U22: 201, where it is, and what it is."""
    answer = adder.post("@tasks", {"url": "/plone/@@plone", "description": "Look"})
    assert answer.status == 201
    task = answer.json
    assert answer.headers["Location"] == f"http://localhost:8080/plone/@tasks/{task['id']}"
    assert task["@id"] == answer.headers["Location"]
    assert (task["state"], task["queue"], task["user"]) == ("queued", "default", "adder")
    assert queue.status(task["id"]).task.description == "Look"
    later = adder.get(answer.headers["Location"].removeprefix("http://localhost:8080"))
    assert later.status == 200
    assert {k: v for k, v in later.json.items() if k != "changes"} == {
        k: v for k, v in task.items() if k != "changes"
    }


def test_it_runs_as_the_caller(adder, portal):
    """Never more: an internal url is called with the rights of who asked for it."""
    task_id = adder.add(url="/plone/@@personal-information")
    denied = adder.add(url="/plone/@@overview-controlpanel")
    runs = {run.task.id: run for run in run_tasks()}
    assert runs[task_id].outcome.status == 200
    assert runs[denied].outcome.status != 200
    assert runs[task_id].task.user.id == "adder"
    assert runs[task_id].task.user.folder == "/plone/acl_users"


@pytest.mark.parametrize(
    "header",
    [
        "Authorization",
        "Cookie",
        "Forwarded",
        "Remote-User",
        "X-Forwarded-For",
        "X-Remote-User",
        "X-Task-User-Id",
        "x_task_user_id",
    ],
)
def test_a_client_cannot_claim_another_identity(adder, queue, header):
    """D01: no header of a client changes the identity of its task."""
    answer = adder.post("@tasks", {"url": "/plone", "headers": {header: "manager"}})
    assert answer.error == (400, "BadRequest", "headers")
    answer = adder("POST", "@tasks?url=/plone", **{f"Task-Passthrough-{header}": "manager"})
    assert answer.error == (400, "BadRequest", "headers")
    assert queue.tasks() == []


def test_the_id_of_a_web_hook_is_its_own(adder, queue):
    """C03: a client cannot give its web hook the id of another task."""
    task = task_of(queue, adder.post("@tasks", {"url": HOOK, "headers": {"X-Task-Id": "mine"}}))
    assert "mine" not in str(task.headers)


def test_what_a_view_is_asked_for(adder, queue):
    """Such headers say nothing about who asks."""
    headers = {"Accept": "application/json", "accept-language": "fi"}
    task = task_of(queue, adder.post("@tasks", {"url": "/plone", "headers": headers}))
    assert set(headers.items()) <= set(task.headers)


def test_a_web_hook(adder, queue):
    """N05, N09, O01, U18, U21: nothing of the client's own request goes along."""
    task = task_of(queue, adder.post("@tasks", {"url": HOOK, "params": {"a": 1, "b": [True, "x"]}}))
    assert (task.method, task.payload) == ("POST", b"a=1&b=true&b=x")
    assert "Authorization" not in dict(task.headers)
    task = task_of(queue, adder.post("@tasks", {"url": HOOK, "method": "PUT", "payload": "x"}))
    assert (task.method, task.payload, task.timeout) == ("PUT", b"x", 60.0)


@pytest.mark.parametrize(
    ("fields", "payload", "kind"),
    [
        ({"payload": "€"}, "€".encode(), "application/x-www-form-urlencoded"),
        ({"payload": {"a": ["€"]}}, b'{"a": ["\\u20ac"]}', "application/json"),
        ({"payload": [1]}, b"[1]", "application/json"),
        ({"payload_base64": "/wA="}, b"\xff\x00", "application/x-www-form-urlencoded"),
        (
            {"payload": {}, "headers": {"content-TYPE": "application/problem+json"}},
            b"{}",
            "application/problem+json",
        ),
    ],
)
@pytest.mark.parametrize("url", [HOOK, "/plone/@@view"])
def test_payloads(adder, queue, url, fields, payload, kind):
    """N07, U20: bytes arrive as they are, and so does their type."""
    answer = adder.post("@tasks", {"url": url, "method": "POST", **fields})
    task = task_of(queue, answer)
    assert task.payload == payload
    assert {k.lower(): v for k, v in task.headers}["content-type"] == kind


def test_options(adder, queue):
    """O02, O04: what `add` takes, a client may say."""
    fields = {"delay": 20, "timeout": 5, "max_attempts": 2, "key": "k", "on_conflict": "replace"}
    answer = adder.post("@tasks", {"url": HOOK, **fields, "queue": None})
    task = task_of(queue, answer)
    assert (task.timeout, task.max_attempts, task.on_conflict) == (5.0, 2, "replace")
    assert task.due == pytest.approx(task.created + 20)
    assert answer.json["state"] == "scheduled"
    assert answer.json["key"] == "k"
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    task = task_of(queue, adder.post("@tasks", {"url": HOOK, "eta": tomorrow.isoformat()}))
    assert task.due == pytest.approx(tomorrow.timestamp())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": None}, "url"),
        ({"url": 5}, "url"),
        ({"url": "x" * 9000}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"url": "gopher://127.0.0.1:6379/"}, "url"),
        ({"url": "http://ok.example/ \r\nX: y"}, "url"),
        ({"url": "http://user:pass@example.org/"}, "url"),
        ({"url": "http://example.org:6379/"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "/\ud800"}, "url"),
        ({"url": HOOK, "method": "BREW"}, "method"),
        ({"url": HOOK, "method": "GET / HTTP/1.1\r\n"}, "method"),
        ({"url": HOOK, "method": 1}, "method"),
        ({"url": HOOK, "params": "a=b"}, "params"),
        ({"url": HOOK, "params": {"a": {}}}, "params"),
        ({"url": HOOK, "params": {"a": None}}, "params"),
        ({"url": HOOK, "params": {"a": "\ud800"}}, "params"),
        ({"url": HOOK, "params": {"a": [1.0, float("inf")]}}, "params"),
        ({"url": HOOK, "headers": {"A": float("nan")}}, "headers"),
        ({"url": HOOK, "params": {"a": "b" * 70_000}}, "params"),
        ({"url": HOOK, "headers": ["a"]}, "headers"),
        ({"url": HOOK, "headers": {"a b": "c"}}, "headers"),
        ({"url": HOOK, "headers": {"A\r\nB": "c"}}, "headers"),
        ({"url": HOOK, "headers": {"A": "b\r\nX-Task-User-Id: manager"}}, "headers"),
        ({"url": HOOK, "headers": {"A": {}}}, "headers"),
        ({"url": HOOK, "headers": {"Host": "internal"}}, "headers"),
        ({"url": HOOK, "headers": {"transfer_encoding": "chunked"}}, "headers"),
        ({"url": HOOK, "headers": {"Content-Length": "5"}}, "headers"),
        ({"url": HOOK, "headers": {"Connection": "close"}}, "headers"),
        ({"url": HOOK, "headers": {"A": "b" * 40_000}}, "headers"),
        ({"url": HOOK, "payload": 5}, "payload"),
        ({"url": HOOK, "payload": True}, "payload"),
        ({"url": HOOK, "payload": {"a": float("nan")}}, "payload"),
        ({"url": HOOK, "payload": [float("-inf")]}, "payload"),
        ({"url": HOOK, "payload": "\ud800"}, "payload"),
        ({"url": HOOK, "payload_base64": "%"}, "payload_base64"),
        ({"url": HOOK, "payload_base64": "é"}, "payload_base64"),
        ({"url": HOOK, "payload": "a", "payload_base64": "YQ=="}, "payload_base64"),
        ({"url": HOOK, "queue": "nope"}, "queue"),
        ({"url": HOOK, "queue": ""}, "queue"),
        ({"url": HOOK, "queue": 5}, "queue"),
        ({"url": HOOK, "delay": "5"}, "delay"),
        ({"url": HOOK, "delay": -1}, "delay"),
        ({"url": HOOK, "delay": True}, "delay"),
        ({"url": HOOK, "delay": 10**400}, "delay"),
        ({"url": HOOK, "delay": 1, "eta": "2030-01-01T00:00:00Z"}, "delay"),
        ({"url": HOOK, "eta": "tomorrow"}, "eta"),
        ({"url": HOOK, "eta": "2030-01-01T00:00:00"}, "eta"),
        ({"url": HOOK, "eta": "9999-12-31T23:59:59-23:00"}, "eta"),
        ({"url": HOOK, "timeout": "abc"}, "timeout"),
        ({"url": HOOK, "timeout": 0}, "timeout"),
        ({"url": HOOK, "timeout": -1}, "timeout"),
        ({"url": HOOK, "timeout": 1e9}, "timeout"),
        ({"url": HOOK, "timeout": 3600.5}, "timeout"),
        ({"url": "HTTPS://example.org/hook", "timeout": 3601}, "timeout"),
        ({"url": "/plone/@@view", "timeout": 1e9}, "timeout"),
        ({"url": HOOK, "max_attempts": 0}, "max_attempts"),
        ({"url": HOOK, "max_attempts": 1.5}, "max_attempts"),
        ({"url": HOOK, "key": ""}, "key"),
        ({"url": HOOK, "key": "k" * 1001}, "key"),
        ({"url": HOOK, "key": 5}, "key"),
        ({"url": HOOK, "on_conflict": "skip"}, "on_conflict"),
        ({"url": HOOK, "key": "k", "on_conflict": "explode"}, "on_conflict"),
        ({"url": HOOK, "colour": "red"}, "colour"),
        ({"url": HOOK, "user": "manager"}, "user"),
    ],
)
def test_what_is_wrong_is_named(adder, queue, fields, field):
    """N03, N06, H02, U14, U15, U17: 400 with the field, and nothing is queued."""
    assert adder.post("@tasks", fields).error == (400, "BadRequest", field)
    assert queue.tasks() == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("url=", "url"),
        ("url=a&url=b", "url"),
        ("url=%ff", "url"),
        (f"url={HOOK}&%ff=1", "query"),
        (f"url={HOOK}&delay:int=5", "delay"),
        (f"url={HOOK}&:method=foo", "query"),
        (f"url={HOOK}" + "&a=1" * 200, "query"),
        ("method=PUT&queue=default", "method"),
        (f"url={HOOK}&timeout=abc", "timeout"),
        (f"url={HOOK}&timeout=nan", "timeout"),
        (f"url={HOOK}&timeout=inf", "timeout"),
        (f"url={HOOK}&timeout=3601", "timeout"),
        (f"url={HOOK}&delay=inf", "delay"),
        (f"url={HOOK}&max_attempts=1.5", "max_attempts"),
        (f"url={HOOK}&max_attempts={'9' * 5000}", "max_attempts"),
        (f"url={HOOK}&eta=now", "eta"),
        (f"url={HOOK}&colour=red", "colour"),
        (f"url={HOOK}&params=a", "params"),
        (f"url={HOOK}&method=get%0d%0a", "method"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(adder, queue, query, field):
    """N03, N06: as in JSON."""
    assert adder("POST", f"@tasks?{query}").error == (400, "BadRequest", field)
    assert queue.tasks() == []


def test_a_timeout_of_hours(adder, queue):
    """For a view of this Zope; a web hook has an hour."""
    for url, timeout in ((HOOK, 3600), ("/plone/@@view", 7200)):
        assert (
            task_of(queue, adder.post("@tasks", {"url": url, "timeout": timeout})).timeout
            == timeout
        )


def test_who_may_add(anonymous, member, viewer, manager, root):
    """N04, N20, T11, U13: closed by default, and that comes before anything is looked at."""
    assert anonymous.post("@tasks", {"bad": 1}).status == 401
    for person in (member, viewer):
        assert person.post("@tasks", {"bad": 1}).error == (403, "Forbidden", None)
    for person in (manager, root):
        assert person.post("@tasks", {"bad": 1}).error == (400, "BadRequest", "bad")


def test_a_user_that_no_task_could_find_again(manager, queue, monkeypatch):
    """Such as the emergency user: 400, and the request is good for nothing else but looking."""

    def refuse():
        raise ValueError("no user folder")

    monkeypatch.setattr(author, "_user_of", lambda request: refuse())
    monkeypatch.setattr(access, "current_user", refuse)
    assert manager.post("@tasks", {"url": HOOK}).error == (400, "BadRequest", "user")
    assert manager.get("@tasks").status == 200
    assert queue.tasks() == []


def test_the_order_is_kept(adder, queue):
    """N31, O13, T01, U24, U26: first in, first out, and equal tasks are different tasks."""
    assert len(queue) == 0
    ids = [adder.add(url=HOOK) for _ in range(12)]
    assert len(queue) == 12
    assert len(set(ids)) == 12
    assert [lease.task.id for lease in queue.storage.reserve("one", 20, 0)] == ids


def test_a_root_user_is_one(root, queue):
    """Who is known by the root of Zope stays known by it."""
    task = task_of(queue, root.post("@tasks", {"url": HOOK}))
    assert (task.user.folder, task.user.id) == ("/acl_users", SITE_OWNER_NAME)


def test_a_queue_is_chosen(adder, other_queue):
    """C21: the alphabetically first one, if none is named."""
    with task_queue("aaa"):
        assert adder.post("@tasks", {"url": HOOK}).json["queue"] == "aaa"
        assert adder.post("@tasks", {"url": HOOK, "queue": "hooks"}).json["queue"] == "hooks"


@pytest.mark.parametrize("method", METHODS)
def test_methods(adder, queue, method):
    """N05: those of `add`, in any case."""
    task = task_of(queue, adder.post("@tasks", {"url": HOOK, "method": method.lower()}))
    assert task.method == method
