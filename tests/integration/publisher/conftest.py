"""Tasks that are queued and run at once, and views that remember, fail or conflict."""

from AccessControl import getSecurityManager
from collective.taskqueue import taskqueue
from collective.taskqueue.testing import run_tasks
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
import base64
import pytest
import time
import transaction


#: Nothing here takes longer than a moment; only a failure takes this long.
TIMEOUT = 30.0

BASIC = "Basic " + base64.b64encode(f"{SITE_OWNER_NAME}:{SITE_OWNER_PASSWORD}".encode()).decode()


@pytest.fixture
def run(functional):
    """Queue one task, run it, and return what came out."""

    def call(url, *args, **kwargs):
        kwargs.setdefault("queue", "default")
        task_id = taskqueue.add(url, *args, **kwargs)
        transaction.commit()
        (done,) = run_tasks()
        assert done.task.id == task_id
        return done

    return call


@pytest.fixture
def seen(view):
    """A view that remembers its requests, and what it was to remember of them."""

    class Seen(list):
        url = None

    found = Seen()

    def register(**remember):
        def look(context, request):
            found.append({name: function(request) for name, function in remember.items()})

        found.url = view("look", look)
        return found

    return register


def user_id():
    return getSecurityManager().getUser().getId()


@pytest.fixture
def delays(monkeypatch):
    """The seconds that the code under test would have slept."""
    found = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def raising(error):
    def view(context, request):
        raise error

    return view
