"""An example: how an add-on tests its tasks. The documentation quotes this file.

The add-on is the one in examples/demo: its tasks publish a folder with all that is in it.
"""

from collective.taskqueue import taskqueue
from collective.taskqueue.task import Outcome
from collective.taskqueue.testing import isolated
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import set_up
from collective.taskqueue.testing import TASKQUEUE_FIXTURE
from collective.taskqueue.testing import trap_tasks
from plone import api
from plone.app.testing import FunctionalTesting
from plone.app.testing import IntegrationTesting
from plone.app.testing import PloneSandboxLayer
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from taskqueue_demo.publishing import queue_publication
import pytest
import taskqueue_demo
import transaction


class DemoFixture(PloneSandboxLayer):
    """The add-on on top of a site with a task queue."""

    defaultBases = (TASKQUEUE_FIXTURE,)

    def setUpZope(self, app, configurationContext):
        self.loadZCML(package=taskqueue_demo)

    def setUpPloneSite(self, portal):
        portal.portal_workflow.setDefaultChain("simple_publication_workflow")
        setRoles(portal, TEST_USER_ID, ["Manager"])
        folder = api.content.create(portal, "Folder", id="news")
        for name in ("sports", "weather"):
            api.content.create(folder, "Document", id=name)


DEMO_FIXTURE = DemoFixture()
DEMO_INTEGRATION = IntegrationTesting(bases=(DEMO_FIXTURE,), name="Demo:Integration")
DEMO_FUNCTIONAL = FunctionalTesting(bases=(DEMO_FIXTURE,), name="Demo:Functional")


# With zope.testrunner, `layer = DEMO_FUNCTIONAL` in a test case is all it takes.
# With pytest, fixtures do the same:


@pytest.fixture(scope="module")
def demo():
    with set_up(DEMO_INTEGRATION, DEMO_FUNCTIONAL):
        yield


@pytest.fixture
def functional_portal(demo):
    with isolated(DEMO_FUNCTIONAL) as layer:
        yield layer["portal"]


@pytest.fixture
def integration_portal(demo):
    with isolated(DEMO_INTEGRATION) as layer:
        yield layer["portal"]


def test_what_is_queued(functional_portal):
    """The trap shows what a commit queues; nothing is run."""
    with trap_tasks() as tasks:
        queue_publication(functional_portal.news)
        assert tasks == []
        transaction.commit()
    assert [task.url for task in tasks] == ["/plone/news/@@demo-publish"]
    assert tasks[0].user.id == TEST_USER_ID
    assert api.content.get_state(functional_portal.news) == "private"


def test_what_would_be_queued(integration_portal):
    """In an integration layer nothing is committed, but what would be can be seen."""
    with trap_tasks() as tasks:
        queue_publication(integration_portal.news)
        queue_publication(integration_portal.news.sports)
    assert [task.description for task in tasks.uncommitted] == [
        "Publish /plone/news",
        "Publish /plone/news/sports",
    ]


def test_what_the_tasks_do(functional_portal):
    """Tasks run as real requests, one after the other, and so do those that they queue."""
    queue_publication(functional_portal.news)
    transaction.commit()

    runs = run_tasks()

    assert [run.task.url for run in runs] == [
        "/plone/news/@@demo-publish",
        "/plone/news/sports/@@demo-publish",
        "/plone/news/weather/@@demo-publish",
    ]
    assert all(run.outcome.ok for run in runs)
    assert api.content.get_state(functional_portal.news.weather) == "published"


def test_a_task_may_do_what_its_user_may(functional_portal):
    """Permissions are checked as for any other request; the add-on tells whose task fails."""
    setRoles(functional_portal, TEST_USER_ID, ["Member"])
    queue_publication(functional_portal.news)
    transaction.commit()

    run, letter = run_tasks()

    assert letter.task.url.startswith("/plone/@@demo-failure-letter")
    assert "Unauthorized" in run.outcome.reason
    assert run.status.state == "failed"
    assert api.content.get_state(functional_portal.news) == "private"


def test_what_a_web_hook_leads_to(functional_portal):
    """Nothing leaves the test; its hook answers instead of a remote server."""
    taskqueue.add("https://example.org/hook", params={"a": "1"})
    transaction.commit()

    (run,) = run_tasks(hook=lambda task: Outcome(503 if task.payload == b"a=1" else 200))

    assert run.task.url == "https://example.org/hook"
    assert run.status.state == "scheduled"
