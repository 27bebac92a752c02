"""Web hooks that are asked for over HTTP: they lend what is the queue's, so few may."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.enqueue.capture import make_task
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.services.access import ADD
from collective.taskqueue.services.access import ADD_HOOK
from collective.taskqueue.services.envelope import is_hook
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from rest.conftest import HOOK
from urllib.parse import quote
from uuid import uuid4
from zope.component import getUtility
from zope.security.interfaces import IPermission
import pytest
import transaction


FORBIDDEN = (403, "Forbidden", None)

SPELLINGS = [
    "https://example.org/hook",
    "http://example.org/hook",
    "HTTP://example.org/hook",
    "hTTps://example.org/hook",
    " https://example.org/hook",
    "https://example.org/hook ",
    "\u3000https://example.org/hook",
    "\xa0HTTPS://example.org/hook",
    # Refused even with the permission; clients must not find out which hosts the queue allows.
    "https:example.org",
    "http:/example.org",
    "http:",
    "http://127.0.0.1/",
    "http://user:secret@example.org/",
]

PATHS = ["/plone/@@view", "//example.org/hook", " /plone", "/httpx/view", "/http://a"]


@pytest.fixture
def closed(portal):
    """Who may add tasks may not add web hooks."""
    portal.manage_permission(ADD_HOOK, [])
    transaction.commit()


def put(queue, user="adder", url=HOOK):
    identity = Identity("/plone/acl_users", user)
    task = Task(id=str(uuid4()), queue="default", url=url, user=identity, method="POST")
    queue.put(task)
    return task.id


def test_only_managers_may_at_first(portal, adder, manager, queue):
    """Who was given the permission to add tasks was not given this one."""
    portal.manage_permission(ADD_HOOK, [], acquire=1)
    transaction.commit()
    assert adder.post("@tasks", {"url": HOOK}).error == FORBIDDEN
    assert queue.tasks() == []
    assert manager.post("@tasks", {"url": HOOK}).status == 201


@pytest.mark.parametrize("url", SPELLINGS)
def test_it_takes_a_permission_of_its_own(closed, adder, queue, url):
    """The permission is checked first, with any spelling of the url and any other option."""
    assert adder.post("@tasks", {"url": url}).error == FORBIDDEN
    assert adder.post("@tasks", {"url": url, "queue": "nope"}).error == FORBIDDEN
    assert adder.post("@tasks", {"url": url, "max_attempts": 0}).error == FORBIDDEN
    assert adder("POST", f"@tasks?url={quote(url)}", body=b"x").error == FORBIDDEN
    assert queue.tasks() == []


@pytest.mark.parametrize("url", PATHS)
def test_paths_take_none(closed, adder, url):
    """They are called as who adds them, and nothing is lent."""
    assert adder.post("@tasks", {"url": url}).status == 201


def test_the_permission_to_add_is_taken_as_well(portal, adder):
    """One is no part of the other."""
    portal.manage_permission(ADD, ["Manager"])
    transaction.commit()
    assert adder.post("@tasks", {"url": HOOK}).error == FORBIDDEN


@pytest.mark.parametrize("action", ["retry", "run"])
def test_ones_own_is_not_sent_again(closed, adder, manager, queue, action):
    """Who may not add it may not have it sent once more, or sooner."""
    task_id = put(queue)
    if action == "retry":
        outcome = Outcome(400, "status 400")
        consumer = Consumer(queue.storage, lambda attempt: outcome, ServerSettings())
        consumer.step()
        consumer.stop()
    answer = adder.post(f"@tasks/{task_id}/{action}")
    assert answer.error == FORBIDDEN
    assert "Add web hook" in answer.json["error"]["message"]
    assert manager.post(f"@tasks/{task_id}/{action}").status == 200
    assert adder.get(f"@tasks/{task_id}").status == 200
    assert adder.delete(f"@tasks/{task_id}").status == 204


def test_ones_own_task_that_is_none(closed, adder, queue):
    """As ever."""
    assert adder.post(f"@tasks/{put(queue, url='/plone/@@view')}/run").status == 200


def test_headers_of_a_view_are_not_those_of_a_web_hook(adder):
    """A server in front may vouch for users by headers: such headers are refused for any path."""
    for url in [*PATHS, "http\u017f:/../plone/@@view", "https\u017f:x", "\uff48ttp://a"]:
        fields = {"url": url, "headers": {"X-Remote-User": "manager"}}
        assert adder.post("@tasks", fields).error == (400, "BadRequest", "headers")


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    before=st.text(st.sampled_from(" \t\xa0\u2003/a"), max_size=2),
    scheme=st.text(st.sampled_from("hHtTpPsS\u017f\u212a:"), min_size=3, max_size=7),
    after=st.sampled_from(["://example.org/", ":example.org", "", "/", "//example.org"]),
)
def test_what_is_a_web_hook(before, scheme, after):
    """Just what `add` makes one of."""
    url = f"{before}{scheme}{after}"
    try:
        found = make_task(QueueSettings(), url).is_hook
    except InvalidTask:
        return
    assert is_hook(url) == found


def test_the_permission_has_an_id(site):
    """For registrations of others, as the other three have."""
    permission = getUtility(IPermission, name="collective.taskqueue.AddWebHook")
    assert permission.title == ADD_HOOK == "collective.taskqueue: Add web hook"
