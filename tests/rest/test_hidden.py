"""What is inside of a task, for those who may see it: values of headers, reasons, responses."""

from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from rest.conftest import HOOK
from uuid import uuid4
import pytest


SECRET = "s3cret"


def perform(queue, outcome):
    consumer = Consumer(queue.storage, lambda attempt: outcome, ServerSettings())
    assert consumer.step() == 1
    consumer.stop()


TOKENS = [
    "Authorization",
    "CGI_Authorization",
    "Cookie",
    "Cf-Access-Jwt-Assertion",
    "Referer",
    "X-Amzn-Oidc-Data",
    "X-Api-Key",
    "x_auth_request_access_token",
    "X-CSRF-Token",
    "X-Ssl-Client-Cert",
    "X-Whatever-Comes-Next",
    "Accept-Token",
    "Content-Type-Secret",
]


@pytest.mark.parametrize("name", TOKENS)
def test_a_value_that_may_be_a_token_is_never_shown(manager, root, queue, name):
    """Not even to a manager: it could be the token of a user with more rights."""
    headers = ((name, f"Basic {SECRET}"), ("X-Key", SECRET))
    task = Task(id=str(uuid4()), queue="default", url="/plone/@@view", headers=headers)
    queue.put(task)
    for person in (manager, root):
        answer = person.get(f"@tasks/{task.id}")
        assert answer.json["headers"] == {name: "(hidden)", "X-Key": "(hidden)"}
        assert SECRET not in str(answer.body)
    assert queue.status(task.id).task.headers == headers


def test_values_that_are_known_to_be_harmless(manager, queue):
    """However their names are spelled."""
    headers = (("Accept-Language", "fi"), ("content_type", "text/csv"), ("X-Request-Id", "1"))
    task = Task(id=str(uuid4()), queue="default", url="/plone/@@view", headers=headers)
    queue.put(task)
    assert manager.get(f"@tasks/{task.id}").json["headers"] == dict(headers)


def test_a_header_that_was_passed_through(adder, manager):
    """It is in the queue, and nowhere else."""
    headers = {"Task-Passthrough-X-Api-Key": SECRET, "Content-Type": "text/csv"}
    answer = adder("POST", f"@tasks?url={HOOK}", body=b"a,b", **headers)
    found = manager.get(f"@tasks/{answer.json['id']}")
    assert found.json["headers"] == {"Content-Type": "text/csv", "X-Api-Key": "(hidden)"}
    assert SECRET not in str(found.body)


REASONS = [
    (f"status 302, redirected to /reset?token={SECRET}", 302, "status 302, redirected"),
    (f"ValueError: password {SECRET}", 500, "ValueError"),
    ("status 502", 502, "status 502"),
    (f"TaskTimeout: {SECRET}", None, "TaskTimeout"),
    (f"they said {SECRET}", 400, "(hidden)"),
]


@pytest.mark.parametrize(("reason", "status", "kind"), REASONS)
@pytest.mark.parametrize("attempts", [1, 2])
def test_who_may_only_view_is_told_the_kind(
    adder, viewer, manager, queue, reason, status, kind, attempts
):
    """In lists, of the task and of each attempt; the owner and managers read it all."""
    task_id = adder.add(url="/plone/@@view", max_attempts=attempts)
    perform(queue, Outcome(status, reason, error=f"Traceback: {SECRET}", verdict="retry"))
    for person, expected in ((viewer, kind), (adder, reason), (manager, reason)):
        whole = person.get(f"@tasks/{task_id}")
        listed = person.get("@tasks")
        assert whole.json["status"] == listed.json["items"][0]["status"] == status
        for found in (whole.json, listed.json["items"][0], *whole.json["history"]):
            assert found["reason"].startswith(expected)
        assert ("traceback" in whole.json["history"][0]) == (person is manager)
        if person is viewer:
            assert SECRET not in str(whole.body) + str(listed.body)
            assert found["reason"] == kind


def test_why_a_task_was_cancelled(adder, viewer, queue):
    """The reason that an administrator gives is shown to the owner of the task."""
    task_id = adder.add(url="/plone/@@view")
    queue.cancel(task_id, f"{SECRET}: no more")
    assert adder.get(f"@tasks/{task_id}").json["reason"] == f"{SECRET}: no more"
    for answer in (viewer.get(f"@tasks/{task_id}"), viewer.get("@tasks")):
        assert SECRET not in str(answer.body)
    assert viewer.get(f"@tasks/{task_id}").json["reason"] == "cancelled"


def test_headers_of_a_response(adder, viewer, manager, queue):
    """They are for those who may read the body."""
    task_id = adder.add(url="/plone/@@view")
    perform(queue, Outcome(302, headers=(("Location", f"/a?token={SECRET}"),), body=b"said"))
    for person in (adder, manager):
        found = person.get(f"@tasks/{task_id}/response").json
        assert found["headers"]["Location"] == f"/a?token={SECRET}"
    assert viewer.get(f"@tasks/{task_id}/response").error == (403, "Forbidden", None)
    assert SECRET not in str(viewer.get(f"@tasks/{task_id}").body)
