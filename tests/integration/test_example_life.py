"""An example: the life of a task, from an add-on's point of view. The documentation quotes it.

The add-on is the one in examples/demo: its tasks export a folder and read a file.
"""

from Acquisition import aq_parent
from App.config import getConfiguration
from collective.taskqueue import taskqueue
from collective.taskqueue.consumer import events
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing import isolated
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import set_up
from collective.taskqueue.testing import TASKQUEUE_FIXTURE
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from email import message_from_bytes
from email.policy import default as policy
from OFS.Image import manage_addFile
from plone import api
from plone.app.testing import applyProfile
from plone.app.testing import FunctionalTesting
from plone.app.testing import login
from plone.app.testing import logout
from plone.app.testing import PloneSandboxLayer
from plone.app.testing import setRoles
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.app.testing import TEST_USER_ID
from plone.testing.zope import Browser
from taskqueue_demo.export import Export
from taskqueue_demo.export import queue_export
from taskqueue_demo.export import queue_index
from urllib.error import HTTPError
import pytest
import taskqueue_demo
import time
import transaction


class DemoFixture(PloneSandboxLayer):
    """The add-on on top of a site with a task queue."""

    defaultBases = (TASKQUEUE_FIXTURE,)

    def setUpZope(self, app, configurationContext):
        self.loadZCML(package=taskqueue_demo)

    def setUpPloneSite(self, portal):
        applyProfile(portal, "taskqueue_demo:default")
        setRoles(portal, TEST_USER_ID, ["Manager"])
        folder = api.content.create(portal, "Folder", id="news")
        for name in ("sports", "weather"):
            api.content.create(folder, "Document", id=name)


DEMO_FUNCTIONAL = FunctionalTesting(bases=(DemoFixture(),), name="DemoLife:Functional")

#: Seconds after which a test fails; nothing here takes that long.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def demo():
    with set_up(DEMO_FUNCTIONAL):
        yield


@pytest.fixture
def portal(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(getConfiguration(), "clienthome", str(tmp_path), raising=False)
    with isolated(DEMO_FUNCTIONAL) as layer:
        yield layer["portal"]
        assert events.flush(PATIENCE)


@pytest.fixture
def letters(tmp_path):
    """Return a function that returns the letters that were sent, oldest first."""

    def read():
        paths = sorted(tmp_path.glob("mails/*.eml"))
        return [message_from_bytes(path.read_bytes(), policy=policy) for path in paths]

    return read


def test_delays(portal):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    ids = [
        taskqueue.add("/plone/news/@@demo-export", delay=60),
        taskqueue.add("/plone/news/@@demo-export", eta=tomorrow),
    ]
    transaction.commit()
    assert run_tasks() == []
    assert [taskqueue.status(task_id).state for task_id in ids] == ["scheduled", "scheduled"]


def test_results(portal):
    """A client that knows the id can read what a view answers."""
    task_id = queue_export(portal.news)
    transaction.commit()
    assert taskqueue.result(task_id) is None

    run_tasks()

    status = taskqueue.status(task_id)
    assert (status.state, status.status) == ("succeeded", 200)
    result = taskqueue.result(task_id)
    assert result.body == b"/plone/news\n/plone/news/sports\n/plone/news/weather"
    assert (result.attempts, result.truncated) == (1, False)
    assert status.elapsed < 60


def test_progress(portal):
    task_id = queue_export(portal.news)
    transaction.commit()
    run_tasks()
    progress = taskqueue.status(task_id).progress
    assert (progress.done, progress.total) == (3, 3)
    assert progress.message == "/plone/news/weather"


def test_a_view_can_be_called_without_a_task(portal):
    """Its progress is dropped, and it is never cancelled."""
    view = Export(portal.news, portal.REQUEST)
    assert view().endswith("/plone/news/weather")


def test_keys(portal):
    """Two that wait are one; the second id is another name of the first task."""
    first = queue_export(portal.news)
    second = queue_export(portal.news)
    transaction.commit()
    assert [run.task.id for run in run_tasks()] == [first]
    assert taskqueue.status(second).id == first


def test_keys_and_the_newest(portal):
    """The newest wins: what it finds is not older than the last change."""
    first = queue_index(portal.news)
    second = queue_index(portal.news)
    transaction.commit()
    assert [run.task.id for run in run_tasks()] == [second]
    assert taskqueue.status(first).reason == f"replaced by {second}"


def add_file(portal, data):
    manage_addFile(portal, "feed", data)
    task_id = taskqueue.add("/plone/feed/@@demo-import", max_attempts=3)
    transaction.commit()
    run_tasks()
    return task_id


def test_a_task_that_is_tried_again(portal):
    """It waits for as long as it asked to, and each attempt stands in the history."""
    task_id = add_file(portal, b"one\n")
    status = taskqueue.status(task_id)
    assert (status.state, status.reason) == (
        "scheduled",
        "RetryLater: the file is not complete yet",
    )
    assert status.due > status.time_of("running") + 60
    assert [attempt.number for attempt in status.attempts] == [1]


def test_a_task_that_is_given_up(portal):
    """An editor has corrected the content, and the task is queued again."""
    task_id = add_file(portal, b"end\n")
    assert taskqueue.status(task_id).state == "failed"

    portal.feed.update_data(b"one\ntwo\nend\n")
    transaction.commit()
    taskqueue.retry(task_id)
    run_tasks()

    status = taskqueue.status(task_id)
    assert [attempt.status for attempt in status.attempts] == [500, 200]
    assert taskqueue.result(task_id).body == b"2 lines"


def test_what_has_failed_in_the_night(portal):
    """Found and retried together, however many there are."""
    manage_addFile(portal, "feed", b"end\n")
    ids = [taskqueue.add("/plone/feed/@@demo-import") for _ in range(3)]
    transaction.commit()
    run_tasks()

    failed = TaskFilter(states=("failed",), since=time.time() - 12 * 3600, reason="is empty")
    page = taskqueue.search(failed)
    assert ([status.id for status in page.tasks], page.cursor) == (ids, None)

    done, cursor = 0, None
    while True:
        result = taskqueue.bulk("retry", failed, limit=2, cursor=cursor)
        done, cursor = done + result.done, result.cursor
        if cursor is None:
            break
    assert (done, result.left) == (3, 0)
    assert {taskqueue.status(task_id).state for task_id in ids} == {"queued"}


def test_cancellation(portal):
    task_id = queue_export(portal.news)
    transaction.commit()
    assert taskqueue.cancel(task_id) == "cancelled"
    assert run_tasks() == []


def test_who_queued_a_task_that_fails_gets_a_letter(portal, letters):
    """The subscriber queues the letter; a letter that cannot be sent is not reported again."""
    api.user.get(TEST_USER_ID).setMemberProperties({"email": "jane@example.org"})
    task_id = taskqueue.add("/plone/news/@@missing", description="Find it")
    transaction.commit()

    _, letter = run_tasks()

    assert letter.outcome.body == b"told jane@example.org"
    (sent,) = letters()
    assert (sent["To"], sent["Subject"]) == ("jane@example.org", "Failed: Find it")
    assert taskqueue.status(task_id).reason in sent.get_content()


def test_whom_no_letter_can_reach(portal, letters):
    """No address, or no site that could send a letter."""
    taskqueue.add("/plone/news/@@missing")
    transaction.commit()
    _, letter = run_tasks()
    assert letter.outcome.body.endswith(b"has no mail address")
    assert letters() == []


@pytest.mark.parametrize("who", ["Anonymous", "a user of the root"])
def test_whom_no_letter_is_queued_for(portal, who):
    """A letter has no user, so there is no letter about a letter."""
    if who == "Anonymous":
        logout()
    else:
        login(aq_parent(portal), SITE_OWNER_NAME)
    taskqueue.add("/plone/news/@@missing")
    transaction.commit()
    (run,) = run_tasks()
    assert run.status.state == "failed"
    assert events.flush(PATIENCE)
    assert run_tasks() == []


@pytest.mark.parametrize("view", ["failure-letter?task=1", "export", "import"])
def test_what_tasks_call_is_not_for_browsers(portal, view):
    """C84: not even a manager may call them in a browser."""
    browser = Browser(aq_parent(portal))
    browser.addHeader("Authorization", f"Basic {SITE_OWNER_NAME}:{SITE_OWNER_PASSWORD}")
    with pytest.raises(HTTPError, match="404"):
        browser.open(f"http://nohost/plone/@@demo-{view}")
