"""A task as it would be queued, with the plugin and without it."""

from collective.taskqueue import taskqueue
from collective.taskqueue.enqueue.datamanager import pending
from plone.app.testing import applyProfile
import base64
import pytest
import transaction


URL = "/plone/@@view"
BASIC = "Basic " + base64.b64encode(b"test-user:secret").decode()


@pytest.fixture
def added(queue):
    """Add a task and return it as it would be queued."""

    def add(url=URL, *args, **kwargs):
        task_id = taskqueue.add(url, *args, **kwargs)
        task = pending(queue)[-1]
        assert task.id == task_id
        return task

    return add


@pytest.fixture
def without_plugin(portal):
    applyProfile(portal, "collective.taskqueue.pasplugin:uninstall")
    transaction.commit()


def headers(task):
    return dict(task.headers)


FORM = b"a=1&b=2"
FORM_TYPE = "application/x-www-form-urlencoded"
