"""The demo add-on: what a user with an account, or a page of another site, can do with it."""

from AccessControl.SpecialUsers import system
from collective.taskqueue.pasplugin.identity import identity_of
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Task
from collective.taskqueue.testing import run_tasks
from integration.demo.conftest import send
from integration.demo.conftest import tasks
from plone import api
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from urllib.error import HTTPError
from urllib.parse import urlencode
import json
import pytest
import transaction


@pytest.mark.parametrize(
    "namesake",
    [
        Identity("/other/acl_users", TEST_USER_ID),
        Identity("/acl_users", TEST_USER_ID),
        Identity("/plone/acl_users", TEST_USER_ID, 1),
        Identity("/plone/acl_users", TEST_USER_NAME),
        None,
    ],
)
def test_tasks_of_a_namesake(page, queue, portal, namesake):
    """G4 of issue 12: of another site, of the root, of a later user of the id, of Anonymous."""
    queue.put(Task(id="a", queue="default", url="/plone/@@demo-whoami", user=namesake))
    queue.task_done(queue.get(), "200 s3cret")
    queue.put(Task(id="b", queue="default", url="/plone/@@demo-whoami", user=namesake))
    assert tasks(page) == []


def test_tasks_of_who_has_no_identity(demo, page, portal, queue):
    """G4 of issue 12: the system user sees nothing, rather than what everybody has."""
    send(page, 1)
    with api.env.adopt_user(user=system.__of__(portal.acl_users)):
        answer = json.loads(portal.restrictedTraverse("@@demo-tasks")())
    assert answer == {"counts": {}, "tasks": []}


def letter_about(portal, queue, task_id):
    """Return the outcome of a letter that the test user has asked for, as over HTTP."""
    user = identity_of(api.user.get(TEST_USER_ID).getUser())
    url = f"/plone/@@demo-failure-letter?task={task_id}"
    queue.put(Task(id=f"letter about {task_id}", queue="default", url=url, user=user))
    (run,) = run_tasks()
    return run.outcome


@pytest.mark.parametrize("whose", ["/other/acl_users", "/plone/acl_users", None])
def test_a_letter_about_a_task_of_another_user(portal, queue, letters, whose):
    """G4 of issue 12: the answer is the same as for a task that does not exist."""
    user = whose and Identity(whose, TEST_USER_ID, 1 if "plone" in whose else 0)
    queue.put(Task(id="a", queue="default", url="/nowhere/@@s3cret", user=user))
    queue.task_done(queue.get(), "404 s3cret")
    found = [letter_about(portal, queue, task_id) for task_id in ("a", "unknown")]
    assert {outcome.reason for outcome in found} == {
        "Discard: the current user has no failed task of this id"
    }
    assert letters() == []


def test_a_letter_about_a_task_that_has_not_failed(page, portal, queue, letters):
    """G4 of issue 12: not even to who has queued it."""
    page.getControl("Ask").click()
    (run,) = run_tasks()
    assert letter_about(portal, queue, run.task.id).reason.startswith("Discard: ")


def test_a_letter_to_any_address(portal, queue, letters):
    """G4 of issue 12: a user who may add a task cannot have the site write to any address."""
    url = "/plone/@@demo-send-letter?to=victim%40example.com"
    user = identity_of(api.user.get(TEST_USER_ID).getUser())
    queue.put(Task(id="a", queue="default", url=url, user=user))
    assert run_tasks()[0].outcome.reason == "Discard: this is no address of a reader"
    assert [letter["To"] for letter in letters() if "victim" in letter["To"]] == []


@pytest.mark.parametrize("count", ["", "x", "-1", "1.5", "²"])
def test_a_number_that_is_none(page, queue, count):
    """G4 of issue 12: what a form says, a browser may have changed."""
    token = page.getForm(id="demo-bulk").getControl(name="_authenticator").value
    with pytest.raises(HTTPError, match="400"):
        page.post(
            "http://nohost/plone/@@demo-queue-letters",
            urlencode({"count": count, "_authenticator": token}),
        )
    assert len(queue) == 0


def test_too_many_letters(page, queue):
    """G4 of issue 12: more than there are readers are not queued."""
    send(page, 10**12)
    assert len(queue) == 1000


@pytest.mark.parametrize("button", ["letters", "tree", "work", "whoami"])
def test_buttons_are_no_links(page, queue, button):
    """G4 of issue 12: a token in a query is in logs, and in the history of the browser."""
    token = page.getForm(id="demo-bulk").getControl(name="_authenticator").value
    with pytest.raises(HTTPError, match="403"):
        page.open(
            f"http://nohost/plone/@@demo-queue-{button}?count=1&seconds=1&_authenticator={token}"
        )
    assert len(queue) == 0


@pytest.mark.parametrize("tag", ["", " ", "x" * 101, 1, None, ["a"], {"a": 1}])
def test_a_tag_that_is_none(ask, queue, tag):
    """G4 of issue 12."""
    assert ask("http://nohost/plone/@demo-tag", {"tag": tag})[0] == 400
    assert len(queue) == 0


def test_a_page_that_one_may_not_edit(page, ask, portal):
    """G4 of issue 12: who may edit the site changes no page that they may only see."""
    with api.env.adopt_roles(["Manager"]):
        for name in ("mine", "theirs"):
            api.content.create(portal, "Document", id=name)
        portal.theirs.manage_permission("Modify portal content", ["Manager"], acquire=False)
        portal.theirs.manage_permission("View", ["Authenticated"], acquire=False)
        portal.theirs.reindexObject()
        portal.mine.manage_setLocalRoles(TEST_USER_ID, ["Editor"])
        portal.mine.reindexObjectSecurity()
    transaction.commit()
    _, accepted = ask("http://nohost/plone/@demo-tag", {"tag": "checked"})
    run_tasks()
    _, task = ask(accepted["@id"])
    assert ask(task["response"])[1]["body"] == "tagged 1 pages"
    assert [brain.getId for brain in api.content.find(Subject="checked")] == ["mine"]
