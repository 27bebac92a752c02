"""``POST /@tasks/bulk``: many tasks at once, those that the client may change."""

from collective.taskqueue.services.access import ADD_HOOK
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from dataclasses import replace
from rest.test_search import ELSEWHERE
from rest.test_search import fail
from rest.test_search import put
import json
import pytest
import transaction


HOOK = "https://example.org/hook"


def bulk(client, action, limit=None, cursor=None, **conditions):
    body = {"action": action, "filter": conditions, "limit": limit, "cursor": cursor}
    return client.post("@tasks/bulk", body)


def result(answer):
    assert answer.status == 200, answer
    assert answer.json.keys() == {"done", "left", "cursor"}
    return answer.json["done"], answer.json["left"]


def states(queue):
    return {status.id: status.state for status in queue.tasks(size=1000)}


@pytest.fixture
def tasks(queue):
    """Tasks of two people, and of one of another site; all have failed."""
    found = [
        *(put(queue, "/plone/a") for _ in range(3)),
        *(put(queue, "/plone/b", "editor") for _ in range(2)),
        put(queue, "/elsewhere/a", "adder", ELSEWHERE),
    ]
    fail(queue, "ValueError: no Row")
    return found


def test_the_manager_of_all_sites(root, queue, tasks):
    """Each action, by each condition."""
    assert result(bulk(root, "retry", url="/plone/a", limit=2)) == (2, 1)
    assert result(bulk(root, "retry", reason="row", state="failed")) == (4, 0)
    assert set(states(queue).values()) == {QUEUED}
    assert result(bulk(root, "cancel", user="editor")) == (2, 0)
    assert result(bulk(root, "remove")) == (2, 0)
    assert result(bulk(root, "cancel", until="1980-01-01T00:00:00Z", queue="default")) == (4, 0)
    assert result(bulk(root, "remove", since="1980-01-01T00:00:00Z")) == (0, 0)
    assert result(bulk(root, "remove", state="queued")) == (0, 0)
    assert set(states(queue).values()) == {CANCELLED}


def test_the_manager_of_a_site(manager, queue, tasks):
    """Tasks of other sites are neither changed nor counted."""
    first = bulk(manager, "retry", limit=2)
    assert result(first) == (2, 3)
    assert result(bulk(manager, "retry", cursor=first.json["cursor"])) == (3, 0)
    assert states(queue)[tasks[5]] == FAILED
    assert result(bulk(manager, "retry", url="/elsewhere")) == (0, 0)
    assert result(bulk(manager, "cancel", reason="anything")) == (0, 0)


@pytest.mark.parametrize("person", ["adder", "viewer", "member", "editor"])
def test_all_others(request, queue, tasks, person):
    """Their own tasks, and nothing is said of those of others."""
    client = request.getfixturevalue(person)
    mine = {"adder": tasks[:3], "editor": tasks[3:5]}.get(person, [])
    answer = bulk(client, "retry")
    if person in ("viewer", "member"):
        assert answer.error == (403, "Forbidden", None)
    else:
        assert result(answer) == (len(mine), 0)
        assert {task_id for task_id, state in states(queue).items() if state == QUEUED} == {*mine}
    other = "editor" if person == "adder" else "adder"
    assert result(bulk(client, "remove", user=other)) == (0, 0)
    assert result(bulk(client, "cancel", limit=1)) == (min(1, len(mine)), max(0, len(mine) - 1))
    assert result(bulk(client, "cancel")) == (max(0, len(mine) - 1), 0)
    assert result(bulk(client, "remove")) == (len(mine), 0)
    assert len(states(queue)) == len(tasks) - len(mine)


def test_web_hooks_take_their_permission(editor, adder, portal, queue):
    """As a single retry does."""
    portal.manage_permission(ADD_HOOK, ["Manager"])
    transaction.commit()
    hook, view = put(queue, HOOK), put(queue)
    fail(queue, "status 502")
    assert result(bulk(adder, "retry")) == (1, 0)
    assert states(queue) == {hook: FAILED, view: QUEUED}
    assert result(bulk(adder, "remove")) == (1, 0)


def test_no_more_wait_than_may(adder, manager, queue, tasks, monkeypatch):
    """The rest is left; a manager is not bound."""
    monkeypatch.setattr(queue, "settings", replace(queue.settings, max_waiting_per_person=2))
    assert result(bulk(adder, "retry")) == (2, 1)
    answer = bulk(adder, "retry")
    assert answer.error == (429, "TooManyRequests", None)
    assert answer.headers["Retry-After"] == "60"
    assert result(bulk(manager, "retry")) == (3, 0)


def test_running_tasks_are_asked_to_stop(adder, queue):
    """Once."""
    task_id = put(queue)
    queue.storage.reserve("consumer", timeout=0)
    assert result(bulk(adder, "cancel", state="running")) == (1, 0)
    assert result(bulk(adder, "cancel", state="running")) == (0, 0)
    status = queue.status(task_id)
    assert (status.state, status.cancel_requested) == (RUNNING, True)


def test_a_queue(root, queue, other_queue):
    """By default the first one in the alphabet; a cursor belongs to one."""
    for each in (queue, queue, other_queue, other_queue):
        put(each)
    assert result(bulk(root, "cancel", queue="hooks", limit=1)) == (1, 1)
    first = bulk(root, "cancel", limit=1)
    assert result(first) == (1, 1)
    answer = bulk(root, "cancel", limit=1, queue="hooks", cursor=first.json["cursor"])
    assert answer.error == (400, "BadRequest", "cursor")
    assert result(bulk(root, "cancel", cursor=first.json["cursor"])) == (1, 0)
    assert other_queue.counts()[QUEUED] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", "filter"),
        ("x", "body"),
        ("[]", "body"),
        ('{"action": "restart", "filter": {}}', "action"),
        ('{"action": ["retry"], "filter": {}}', "action"),
        ('{"action": "retry"}', "filter"),
        ('{"action": "retry", "filter": null}', "filter"),
        ('{"action": "retry", "filter": []}', "filter"),
        ('{"action": "retry", "filter": {"states": "failed"}}', "states"),
        ('{"action": "retry", "filter": {"state": ["failed"]}}', "state"),
        ('{"action": "retry", "filter": {"state": "done"}}', "state"),
        ('{"action": "retry", "filter": {"since": 5}}', "since"),
        ('{"action": "retry", "filter": {"queue": "nowhere"}}', "queue"),
        ('{"action": "retry", "filter": {"url": ""}}', "url"),
        ('{"action": "retry", "filter": {}, "limit": 0}', "limit"),
        ('{"action": "retry", "filter": {}, "limit": 1001}', "limit"),
        ('{"action": "retry", "filter": {}, "limit": true}', "limit"),
        ('{"action": "retry", "filter": {}, "limit": 1.0}', "limit"),
        ('{"action": "retry", "filter": {}, "cursor": 7}', "cursor"),
        ('{"action": "retry", "filter": {}, "cursor": "x"}', "cursor"),
        ('{"action": "retry", "filter": {}, "all": true}', "all"),
        (json.dumps({"action": "retry", "filter": {"url": "a" * 70_000}}), "body"),
    ],
)
def test_mistakes(manager, queue, body, field):
    """The answer names the field, and nothing is changed."""
    put(queue)
    fail(queue, "gone")
    answer = manager("POST", "@tasks/bulk", body=body.encode())
    assert answer.error == (400, "BadRequest", "action" if not body else field)
    assert queue.counts()[FAILED] == 1


def test_who_does_not_get_that_far(anonymous, manager, queue):
    """Anonymous; unknown fields of the query; other methods."""
    assert bulk(anonymous, "retry").status == 401
    body = {"action": "retry", "filter": {}}
    assert manager.post("@tasks/bulk?limit=5", body).error == (400, "BadRequest", "limit")
    answer = manager.get("@tasks/bulk")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
