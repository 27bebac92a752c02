"""The site of `make demo`, and who uses it."""

from App.config import getConfiguration
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.testing import isolated
from collective.taskqueue.testing import set_up
from collective.taskqueue.testing import TASKQUEUE_FIXTURE
from email import message_from_bytes
from plone.app.testing import applyProfile
from plone.app.testing import FunctionalTesting
from plone.app.testing import PloneSandboxLayer
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from plone.app.testing import TEST_USER_PASSWORD
from plone.testing.zope import Browser
from zope.component import getUtility
import json
import pytest
import taskqueue_demo


ROLES = ["Member", "Contributor", "Editor", "Reviewer"]


class DemoSite(PloneSandboxLayer):
    """The site of `make demo`."""

    defaultBases = (TASKQUEUE_FIXTURE,)

    def setUpZope(self, app, configurationContext):
        self.loadZCML(package=taskqueue_demo)

    def setUpPloneSite(self, portal):
        applyProfile(portal, "taskqueue_demo:default")
        portal.portal_workflow.setDefaultChain("simple_publication_workflow")
        setRoles(portal, TEST_USER_ID, ROLES)


DEMO_SITE = FunctionalTesting(bases=(DemoSite(),), name="DemoSite:Functional")


@pytest.fixture(scope="package")
def site():
    with set_up(DEMO_SITE):
        yield


@pytest.fixture
def demo(site, tmp_path, monkeypatch):
    monkeypatch.setattr(getConfiguration(), "clienthome", str(tmp_path), raising=False)
    with isolated(DEMO_SITE) as layer:
        yield layer


@pytest.fixture
def portal(demo):
    return demo["portal"]


@pytest.fixture
def queue(demo):
    return getUtility(ITaskQueue, name="default")


@pytest.fixture
def open_browser(demo):
    """Return a function that opens a browser with the name and the password of a user."""

    def browser(name=TEST_USER_NAME, password=TEST_USER_PASSWORD):
        browser = Browser(demo["app"])
        browser.addHeader("Authorization", f"Basic {name}:{password}")
        return browser

    return browser


@pytest.fixture
def page(open_browser):
    """The browser of an editor who has opened the page of the demo."""
    browser = open_browser()
    browser.open("http://nohost/plone/@@taskqueue-demo")
    return browser


@pytest.fixture
def letters(tmp_path):
    """Return a function that returns the letters that were sent, oldest first."""

    def read():
        paths = sorted((tmp_path / "mails").glob("*"))
        return [message_from_bytes(path.read_bytes()) for path in paths]

    return read


def send(page, count):
    page.open("http://nohost/plone/@@taskqueue-demo")
    page.getControl(name="count").value = str(count)
    page.getControl("Send letters").click()


@pytest.fixture
def ask(open_browser, page):
    """Return a function that asks as the script of the page does."""
    token = page.getForm(id="demo-bulk").getControl(name="_authenticator").value

    def ask(url, body=None, token=token):
        browser = open_browser()
        browser.raiseHttpErrors = False
        browser.addHeader("Accept", "application/json")
        browser.addHeader("X-CSRF-TOKEN", token)
        if body is None:
            browser.open(url)
        else:
            browser.post(url, json.dumps(body), "application/json")
        return int(browser.headers["Status"].split()[0]), json.loads(browser.contents)

    return ask


def tasks(browser):
    browser.open("http://nohost/plone/@@demo-tasks")
    answer = json.loads(browser.contents)
    assert sum(answer["counts"].values()) >= len(answer["tasks"])
    return answer["tasks"]
