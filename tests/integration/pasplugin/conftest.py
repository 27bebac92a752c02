"""Which user a task runs as, with the plugin and without it."""

from AccessControl import getSecurityManager
from Acquisition import aq_parent
from collective.taskqueue import taskqueue
from collective.taskqueue.task import Task
from plone.app.testing import applyProfile
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.app.testing import TEST_USER_NAME
from plone.app.testing import TEST_USER_PASSWORD
import base64
import pytest
import transaction
import uuid


DEFAULT = "collective.taskqueue.pasplugin:default"
UNINSTALL = "collective.taskqueue.pasplugin:uninstall"


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


OWNER = basic(SITE_OWNER_NAME, SITE_OWNER_PASSWORD)
MEMBER = basic(TEST_USER_NAME, TEST_USER_PASSWORD)


@pytest.fixture
def app(functional):
    return functional["app"]


@pytest.fixture
def without_plugin(portal):
    applyProfile(portal, UNINSTALL)
    transaction.commit()


@pytest.fixture
def who(view):
    """The url of a view for everybody that remembers who called it: user folder and id."""

    class Who(list):
        url = None

    found = Who()

    def look(context, request):
        user = getSecurityManager().getUser()
        folder = aq_parent(user)
        path = "/".join(folder.getPhysicalPath()) if user.getId() else None
        found.append((path, user.getId()))
        return str(user.getId())

    found.url = view("who", look)
    return found


@pytest.fixture
def adder(view, who):
    """The url of a view for everybody that queues a task which calls `who`."""
    return view("adder", lambda context, request: taskqueue.add(who.url))


def put_task(url, user, name, value):
    task_id = str(uuid.uuid4())
    return Task(id=task_id, queue="default", url=url, headers=((name, value),), user=user)
