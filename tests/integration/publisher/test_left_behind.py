"""A task leaves nothing behind in its thread."""

from AccessControl import getSecurityManager
from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.users import nobody
from AccessControl.users import SimpleUser
from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Task
from collective.taskqueue.testing import run_tasks
from integration.publisher.conftest import raising
from integration.publisher.conftest import TIMEOUT
from integration.publisher.conftest import user_id
from plone.app.testing import login
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import getRequest
from zope.globalrequest import setRequest
from zope.interface import implementer
from zope.security.management import endInteraction
from zope.security.management import newInteraction
from zope.security.management import queryInteraction
from ZPublisher.Iterators import IUnboundStreamIterator
import pytest
import threading
import time
import transaction


def _attempt(url, **fields):
    task = Task(id="11111111-2222-4333-8444-555555555555", queue="default", url=url, **fields)
    return Attempt(Lease(task, "token", "consumer", 1, 0, time.time() + 60), None, 2)


def _thread_state():
    return {
        "request": getRequest(),
        "site": getSite(),
        "user": getSecurityManager().getUser().getUserName(),
        "interaction": queryInteraction(),
        "transaction": transaction.get()._resources,
        "synchronizers": transaction.manager.registeredSynchs(),
    }


CLEAN = {
    "request": None,
    "site": None,
    "user": "Anonymous User",
    "interaction": None,
    "transaction": [],
    "synchronizers": False,
}


def _litter(then):
    def view(context, request):
        context.half = True
        setSite(context)
        newSecurityManager(request, INTRUDER)
        return then(context, request)

    return view


INTRUDER = SimpleUser("intruder", "", ("Manager",), ())


@implementer(IUnboundStreamIterator)
class Litter:
    """A body that is produced after the request is over, when no other code tidies up."""

    def __iter__(self):
        setSite(Site())
        setRequest(object())
        newSecurityManager(None, INTRUDER)
        newInteraction()
        transaction.get().join(Unabortable())
        yield b"litter"


class Site:
    def getSiteManager(self):
        return getGlobalSiteManager()


class Unabortable:
    """A data manager whose abort fails, as it should not."""

    def abort(self, current):
        raise OSError("cannot abort")


def _end_interaction(context, request):
    endInteraction()


def _nest_interaction(context, request):
    endInteraction()
    newInteraction()
    raise SystemExit


def _open_connection(context, request):
    # A bug of the view: the connection belongs to the transaction and is not closed.
    transaction.begin()
    context.other_half = True
    raise KeyboardInterrupt


def _open_connections(database):
    return len([item for item in database.connectionDebugInfo() if item["opened"]])


@pytest.mark.parametrize(
    "then",
    [
        lambda context, request: "fine",
        raising(ValueError("broken")),
        raising(SystemExit(1)),
        raising(ConflictError()),
        raising(TaskTimeout()),
        _end_interaction,
        _nest_interaction,
        _open_connection,
    ],
)
@pytest.mark.parametrize("url", ["/plone/@@work", "/@@work", "/plone/missing", "/%00"])
def test_thread_is_clean_afterwards(view, functional, delays, then, url):
    """After any view, however it ends."""
    database = functional["app"]._p_jar.db()
    view("work", _litter(then))
    before = _open_connections(database)
    left = []

    def work():
        publish(_attempt(url))
        left.append(_thread_state())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(TIMEOUT)
    assert left == [CLEAN]
    # The connection is back in the pool.
    assert _open_connections(database) == before


def test_thread_is_clean_after_a_body_that_litters(view, functional):
    """The body is produced when ZPublisher has tidied up already."""
    view("work", lambda context, request: Litter())
    outcomes = []

    def work():
        outcomes.append(publish(_attempt("/plone/@@work")).body)
        outcomes.append(_thread_state())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(TIMEOUT)
    assert outcomes == [b"litter", CLEAN]


def test_thread_can_run_the_next_task(view, functional, delays):
    """One thread runs one task after the other, after any error of those before."""
    outcomes = []
    view("fine", lambda context, request: "fine")
    completions = [ValueError(), SystemExit(), ConflictError(), KeyboardInterrupt()]
    for number, error in enumerate(completions):
        view(f"bad-{number}", _litter(raising(error)))

    def work():
        for number in range(len(completions)):
            publish(_attempt(f"/plone/@@bad-{number}"))
            outcomes.append(publish(_attempt("/plone/@@fine")).body)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(TIMEOUT)
    assert outcomes == [b"fine"] * len(completions)


def test_task_of_another_user_does_not_leak_into_the_next(run, seen, functional):
    look = seen(user=lambda r: user_id())
    login(functional["app"], SITE_OWNER_NAME)
    taskqueue.add(look.url)
    transaction.commit()
    login(functional["portal"], TEST_USER_NAME)
    taskqueue.add(look.url)
    transaction.commit()
    newSecurityManager(None, nobody)
    taskqueue.add(look.url)
    transaction.commit()
    run_tasks()
    assert [item["user"] for item in look] == [SITE_OWNER_NAME, TEST_USER_ID, None]
