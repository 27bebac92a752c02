"""One task is one request of the real publisher, and leaves nothing behind."""

from AccessControl import getSecurityManager
from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.users import nobody
from AccessControl.users import SimpleUser
from collective.taskqueue import publisher
from collective.taskqueue import taskqueue
from collective.taskqueue.attempt import Attempt
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import Consumer
from collective.taskqueue.errors import Discard
from collective.taskqueue.errors import RetryLater
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.publisher import publish
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Task
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from OFS.Folder import Folder
from OFS.SimpleItem import SimpleItem
from plone import api
from plone.app.testing import login
from plone.app.testing import logout
from plone.app.testing import setRoles
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from plone.protect.interfaces import IDisableCSRFProtection
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from zExceptions import NotFound
from zExceptions import Redirect
from zExceptions import Unauthorized
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
import base64
import logging
import pytest
import threading
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


# the request


def test_headers_that_the_publisher_sets(run, seen):
    """C03, C11, C101."""
    names = ["Id", "User-Id", "Queue", "Attempt", "Max-Attempts"]
    look = seen(
        agent=lambda r: r.getHeader("User-Agent"),
        task=lambda r: [r.getHeader(f"X-Task-{name}") for name in names],
    )
    forged = {f"X-Task-{name}": "forged" for name in names}
    done = run(look.url, headers=forged, max_attempts=3)
    assert look == [
        {
            "agent": "TaskQueueServer",
            "task": [done.task.id, TEST_USER_ID, "default", "1", "3"],
        }
    ]


def test_anonymous_task_has_no_user_header(run, seen):
    """C101."""
    look = seen(user=lambda r: r.getHeader("X-Task-User-Id"), who=lambda r: _user())
    logout()
    assert run(look.url).outcome.ok
    assert look == [{"user": None, "who": None}]


def _user():
    return getSecurityManager().getUser().getId()


def test_layer_of_tasks(run, view, http):
    """C84: no request from outside finds a view on that layer, whatever its headers."""
    url = view("inside", lambda context, request: "inside", layer=ITaskQueueLayer)
    assert run(url).outcome.body == b"inside"
    assert http(url)[0] == 404
    assert http(url, HTTP_X_TASK_ID="x", HTTP_X_TASK_USER_ID="admin")[0] == 404


ENVIRONMENT = {
    "REMOTE_ADDR": "127.0.0.1",
    "SERVER_NAME": "nohost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_SOFTWARE": "TaskQueueServer",
    "SCRIPT_NAME": "",
}


def test_environment(run, seen):
    """C85, C90."""
    look = seen(
        environ=lambda r: {key: r.environ[key] for key in ENVIRONMENT},
        url=lambda r: r["URL"],
        address=lambda r: r.getClientAddr(),
    )
    setRequest(None)
    run(look.url)
    assert look == [
        {
            "environ": ENVIRONMENT,
            "url": "http://nohost/plone/@@look",
            "address": "127.0.0.1",
        }
    ]


@pytest.mark.parametrize(
    "url",
    ["/plone/@@look", "plone/@@look", "//plone/@@look", "/plone/%40%40look", "/plone//@@look"],
)
def test_spellings_of_a_path(run, seen, url):
    """C05."""
    look = seen(form=lambda r: dict(r.form))
    assert run(f"{url}?a=1", params={"b": "2"}).outcome.ok
    assert look == [{"form": {"a": "1", "b": "2"}}]


@pytest.mark.parametrize("path", ["/%C3%A4 ö/@@look", "/ä%20ö/@@look", "/%C3%A4%20%C3%B6/@@look"])
def test_path_beyond_ascii(run, seen, functional, path):
    """C05: decoded exactly once."""
    functional["app"]._setObject("ä ö", Folder("ä ö"))
    transaction.commit()
    # A user of the site is nobody in the root.
    logout()
    look = seen(parents=lambda r: r["PARENTS"][0].getId())
    assert run(path).outcome.ok
    assert look == [{"parents": "ä ö"}]


def test_path_is_unquoted_once(run):
    done = run("/plone/%2540%2540look")
    assert done.outcome.status == 404


@pytest.mark.parametrize("query", ["u=%C3%A4", "u=ä"])
def test_query_beyond_ascii(run, seen, query):
    """C09."""
    look = seen(form=lambda r: dict(r.form))
    run(f"{look.url}?{query}", params={"l": ["1", "€"], "e": ""})
    assert look == [{"form": {"u": "ä", "l": ["1", "€"], "e": ""}}]


def test_values_of_headers(run, seen):
    """C14."""
    look = seen(header=lambda r: [r.getHeader(name) for name in ("X-B", "X-I", "X-U", "X-E")])
    run(look.url, headers={"X-B": True, "X-I": 3, "X-U": "ä", "X-E": ""})
    assert look == [{"header": ["true", "3", "ä", None]}]


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_method(run, seen, method):
    """C07."""
    look = seen(method=lambda r: r.method)
    assert run(look.url, method).outcome.ok
    assert look == [{"method": method}]


def test_form(run, seen):
    """C19, D43: the body is parsed, and so is the query."""
    look = seen(form=lambda r: dict(r.form))
    run(f"{look.url}?q=1", "POST", payload="a=1&l=1&l=2&u=%C3%A4")
    assert look == [{"form": {"q": "1", "a": "1", "l": ["1", "2"], "u": "ä"}}]


def test_body(run, seen):
    """C19."""
    look = seen(
        body=lambda r: r["BODY"],
        length=lambda r: r.environ["CONTENT_LENGTH"],
        type=lambda r: r.getHeader("Content-Type"),
    )
    payload, own = b'{"a": 1}', {"Content-Type": "application/json"}
    run(look.url, "POST", payload=payload, headers=own)
    assert look == [{"body": payload, "length": "8", "type": "application/json"}]


class Resource(SimpleItem):
    """An object that is published with methods of its own."""

    id = "resource"

    PUT__roles__ = PATCH__roles__ = DELETE__roles__ = None

    def PUT(self, REQUEST):
        """Published, as its docstring tells Zope."""
        self.last = (REQUEST.method, REQUEST["BODY"])

    PATCH = DELETE = PUT


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_methods_of_an_object(run, functional, method):
    """C07."""
    functional["app"]._setObject("resource", Resource())
    transaction.commit()
    logout()
    assert run("/resource", method, payload=b"new").outcome.ok
    assert functional["app"].resource.last == (method, b"new")


def test_no_body(run, seen):
    """C18, C20."""
    look = seen(length=lambda r: r.environ["CONTENT_LENGTH"], form=lambda r: dict(r.form))
    assert run(look.url, "POST", payload=None).outcome.ok
    assert run(look.url, "POST").outcome.ok
    assert look == [{"length": "0", "form": {}}] * 2


def test_form_of_the_queuing_request(view, seen, http):
    """C10, C17, U10: a form that is worked on later; and the first view can read it, too."""
    look = seen(form=lambda r: dict(r.form), language=lambda r: r.getHeader("Accept-Language"))

    def adder(context, request):
        taskqueue.add(look.url, method="POST")
        return request.form["message"] + str(len(request["BODY"]))

    body = b"message=M%C3%B6we"
    status, _, answer = http(
        view("adder", adder),
        "POST",
        body,
        CONTENT_TYPE="application/x-www-form-urlencoded",
        HTTP_ACCEPT_LANGUAGE="fi",
    )
    assert (status, answer.decode()) == (200, f"Möwe{len(body)}")
    (done,) = run_tasks()
    assert done.outcome.ok
    assert look == [{"form": {"message": "Möwe"}, "language": "fi"}]


def test_request_that_fails_queues_nothing(view, http, queue):
    """C31: an exception in a view."""

    def adder(context, request):
        taskqueue.add("/plone")
        raise ValueError("no")

    assert http(view("adder", adder))[0] == 500
    assert len(queue) == 0


# public urls


@pytest.fixture
def virtual_hosting(functional):
    manage_addVirtualHostMonster(functional["app"])
    transaction.commit()


def _urls(context, request):
    return {
        "site": api.portal.get().absolute_url(),
        "root": context.getPhysicalRoot().absolute_url(),
        "path": api.portal.get().absolute_url_path(),
        "physical": request.physicalPathToURL("/plone/some/thing"),
        "virtual": "/".join(request.physicalPathToVirtualPath(("", "plone", "a"))),
        "server": request["SERVER_URL"],
        "url": request["URL"],
        "actual": request["ACTUAL_URL"],
    }


PUBLIC = [
    ("", {}, "http://localhost:8080/plone"),
    ("", {"HTTP_HOST": "www.example.org"}, "http://www.example.org/plone"),
    ("", {"HTTP_HOST": "www.example.org:8443", "wsgi.url_scheme": "https"}, None),
    ("", {"SCRIPT_NAME": "/mounted"}, "http://localhost:8080/mounted/plone"),
    ("/VirtualHostBase/https/www.example.org:443/plone/VirtualHostRoot", {}, None),
    ("/VirtualHostBase/https/www.example.org/plone/VirtualHostRoot/_vh_cms", {}, None),
    ("/VirtualHostBase/http/www.example.org:80/plone/VirtualHostRoot/_vh_a/_vh_b%20c", {}, None),
    ("/VirtualHostBase/http/www.example.org:8080/VirtualHostRoot/_vh_zope/plone", {}, None),
    ("/VirtualHostRoot/_vh_only/plone", {}, None),
]


@pytest.mark.parametrize(("prefix", "environ", "site"), PUBLIC)
def test_public_urls_are_those_of_the_queuing_request(
    virtual_hosting, view, http, prefix, environ, site
):
    """C86: whatever virtual host or mount point the person came by."""
    seen = []
    task = view("task", lambda context, request: seen.append(_urls(context, request)))

    def adder(context, request):
        seen.append(_urls(context, request))
        return taskqueue.add(task)

    view("adder", adder)
    inside = "" if "plone" in prefix else "/plone"
    status, _, _ = http(f"{prefix}{inside}/@@adder".replace("%20", " "), **environ)
    assert status == 200
    (done,) = run_tasks()
    assert done.outcome.ok, done.outcome.error
    for key in ("url", "actual"):
        seen[0][key] = seen[0][key].replace("@@adder", "@@task")
    assert seen[1] == seen[0]
    assert site is None or seen[1]["site"] == site


def test_public_urls_of_a_task_queued_by_a_task(virtual_hosting, view, http):
    seen = []
    last = view("last", lambda context, request: seen.append(api.portal.get().absolute_url()))
    first = view("first", lambda context, request: taskqueue.add(last))
    view("adder", lambda context, request: taskqueue.add(first))
    http("/VirtualHostBase/https/example.org:443/plone/VirtualHostRoot/_vh_cms/@@adder")
    assert all(done.outcome.ok for done in run_tasks())
    assert seen == ["https://example.org/cms"]


def test_task_outside_of_the_virtual_root(virtual_hosting, view, http, functional):
    """C86: it has no public url; but what is inside the root has."""
    functional["app"]._setObject("aside", Folder("aside"))
    transaction.commit()
    seen = []

    def look(context, request):
        seen.append((context.getId(), request.physicalPathToURL("/plone/page")))

    view("look", look)
    view("adder", lambda context, request: taskqueue.add("/aside/@@look"))
    http("/VirtualHostBase/https/example.org:443/plone/VirtualHostRoot/_vh_cms/@@adder")
    (done,) = run_tasks()
    assert done.outcome.ok, done.outcome.error
    assert seen == [("aside", "https://example.org/cms/page")]


def test_task_that_climbs_out_of_the_virtual_root(virtual_hosting, view, http, functional):
    """A path with dots is not taken for one inside the root."""
    functional["app"]._setObject("aside", Folder("aside"))
    transaction.commit()
    seen = []
    view("look", lambda context, request: seen.append([p.getId() for p in request["PARENTS"]]))
    view("adder", lambda context, request: taskqueue.add("/plone/../aside/@@look"))
    http("/VirtualHostBase/https/example.org:443/plone/VirtualHostRoot/@@adder")
    (done,) = run_tasks()
    assert done.outcome.ok, done.outcome.error
    assert seen == [["aside", ""]]


def test_task_without_a_request(run, seen):
    """C24."""
    look = seen(site=lambda r: api.portal.get().absolute_url())
    setRequest(None)
    assert run(look.url).outcome.ok
    assert look == [{"site": "http://nohost/plone"}]


# language and theme


@pytest.fixture
def languages(portal):
    api.portal.set_registry_record("plone.available_languages", ["en", "fi", "sv"])
    api.portal.set_registry_record("plone.use_request_negotiation", True)
    api.portal.set_registry_record("plone.use_cookie_negotiation", True)
    transaction.commit()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "en"),
        ({"HTTP_ACCEPT_LANGUAGE": "fi"}, "fi"),
        ({"HTTP_COOKIE": "I18N_LANGUAGE=sv"}, "sv"),
        ({"HTTP_ACCEPT_LANGUAGE": "fi", "HTTP_COOKIE": 'I18N_LANGUAGE="sv"'}, "sv"),
    ],
)
def test_language(languages, view, http, environ, expected):
    """C91: also that of a cookie, although no cookie is copied."""
    seen = []

    def look(context, request):
        seen.append((request.getHeader("Cookie"), api.portal.get_current_language()))

    task = view("look", look)
    view("adder", lambda context, request: taskqueue.add(task))
    http("/plone/@@adder", **environ)
    (done,) = run_tasks()
    assert done.outcome.ok
    assert seen == [(None, expected)]


def test_themed_page(run):
    """C92."""
    done = run("/plone")
    assert done.outcome.status == 200
    assert b"++theme++barceloneta" in done.outcome.body


# conflicts


class Conflicting:
    """A view that runs into a conflict a number of times, and remembers its executions."""

    def __init__(self, conflicts):
        self.conflicts = conflicts
        self.executions = []

    def __call__(self, context, request):
        body = request["BODY"] if request.method == "POST" else b""
        self.executions.append((ITaskQueueLayer.providedBy(request), body, _user()))
        if len(self.executions) <= self.conflicts:
            raise ConflictError
        return "done"


@pytest.fixture
def delays(monkeypatch):
    """The seconds that anybody would have slept."""
    found = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.mark.parametrize("conflicts", [0, 1, 3, 4, 10])
def test_conflicts_within_the_limit(run, view, delays, conflicts):
    """C83, C84, D07: k conflicts are k+1 executions, on the same layer with the same body."""
    conflicting = Conflicting(conflicts)
    done = run(view("work", conflicting, layer=ITaskQueueLayer), "POST", payload=b"a=1")
    assert (done.outcome.status, done.outcome.body) == (200, b"done")
    assert conflicting.executions == [(True, b"a=1", TEST_USER_ID)] * (conflicts + 1)
    assert len(delays) == conflicts
    assert all(0 <= seconds <= publisher.MAX_CONFLICT_PAUSE for seconds in delays)
    assert done.outcome.error == ""
    assert done.status.attempts[0].number == len(done.status.attempts) == 1


@pytest.mark.parametrize("conflicts", [11, 1000])
def test_conflicts_beyond_the_limit(run, view, delays, conflicts):
    """C83, D07: exactly 11 executions, and then it is a failed attempt."""
    conflicting = Conflicting(conflicts)
    done = run(view("work", conflicting))
    assert len(conflicting.executions) == 11
    assert len(delays) == 10
    assert "ConflictError" in done.outcome.reason
    assert (done.outcome.ok, done.status.state) == (False, "failed")


@pytest.mark.parametrize(("limit", "executions"), [(0, 1), (1, 2), (12, 13)])
def test_limit_of_conflicts_is_the_consumers(view, queue, delays, limit, executions):
    """C83: `retry_max_count` of the <taskqueue-server>."""
    conflicting = Conflicting(1000)
    taskqueue.add(view("work", conflicting))
    transaction.commit()
    consumer = Consumer(queue.storage, publish, ServerSettings(retry_max_count=limit))
    assert consumer.step() == 1
    consumer.stop()
    assert len(conflicting.executions) == executions


def test_conflicts_that_outlast_an_attempt(run, view, delays):
    """Then it counts as an attempt, and the next one is scheduled."""
    done = run(view("work", Conflicting(1000)), max_attempts=2)
    assert done.status.state == "scheduled"


def test_conflict_in_the_commit(run, view, portal, delays):
    """C83: a real one, which shows only when the database votes."""
    portal.number = 0
    transaction.commit()
    executions = []

    def count(context, request):
        executions.append(context.number)
        context.number += 1
        taskqueue.add("/plone/@@after", queue="default")
        if len(executions) < 3:
            _meanwhile(context._p_jar.db(), lambda root: setattr(root.plone, "number", 10))

    view("after", lambda context, request: "")
    taskqueue.add(view("count", count))
    transaction.commit()
    first, *others = run_tasks()
    assert first.outcome.ok
    assert executions == [0, 10, 10]
    assert portal.number == 11
    # C32: what the executions added that were not committed is gone.
    assert [done.task.url for done in others] == ["/plone/@@after"]


def _meanwhile(database, change):
    """Commit a change in another connection."""
    manager = transaction.TransactionManager()
    connection = database.open(transaction_manager=manager)
    try:
        change(connection.root()["Application"])
        manager.commit()
    finally:
        connection.close()


# outcomes


def _raise(error):
    def view(context, request):
        raise error

    return view


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("broken"), 500, "ValueError: broken"),
        (NotFound("gone"), 404, "NotFound: gone"),
        (Unauthorized("no"), 302, "redirected to http://nohost/plone/acl_users/"),
        (Redirect("http://nohost/elsewhere"), 302, "redirected to http://nohost/elsewhere"),
        (SystemExit(1), 500, "SystemExit: 1"),
        (KeyboardInterrupt(), 500, "KeyboardInterrupt"),
        (GeneratorExit("x"), 500, "GeneratorExit: x"),
        (MemoryError(), 500, "MemoryError"),
    ],
)
@pytest.mark.parametrize("place", ["/plone", ""])
def test_exceptions(run, view, error, status, reason, place):
    """C87, D06: with an exception view and without one; never a success."""
    view("work", _raise(error))
    logout()
    done = run(f"{place}/@@work")
    if not place and isinstance(error, Unauthorized):
        # Nobody offers a login page in the root.
        status, reason = 401, "Unauthorized"
    assert done.outcome.status == status
    assert reason in done.outcome.reason
    assert type(error).__name__ in done.outcome.error
    assert (done.outcome.ok, done.status.state) == (False, "failed")


def test_exception_without_an_exception_view(run, view, monkeypatch):
    """C87: the publisher raises, a server would answer with a status."""
    monkeypatch.setattr("ZPublisher.WSGIPublisher._exc_view_created_response", lambda *args: False)
    view("broken", _raise(ValueError("broken")))
    view("missing", _raise(NotFound("gone")))
    broken, missing = run("/plone/@@broken"), run("/plone/@@missing")
    assert (broken.outcome.status, broken.outcome.reason) == (500, "ValueError: broken")
    assert (missing.outcome.status, missing.outcome.reason) == (404, "NotFound: gone")
    assert broken.outcome.body == b""


def test_status_that_is_set(run, view):
    """C87."""

    def teapot(context, request):
        request.response.setStatus(418)
        return "short and stout"

    done = run(view("teapot", teapot))
    assert (done.outcome.status, done.outcome.reason) == (418, "status 418")
    assert done.outcome.body == b"short and stout"


@pytest.mark.parametrize("status", [302, 404, 503])
def test_status_that_is_set_aborts_nothing(run, view, portal, status):
    """As in any request: the task fails, and what it wrote and added is there."""
    child = view("child", lambda context, request: "")

    def work(context, request):
        context.half = True
        taskqueue.add(child, delay=3600)
        request.response.setStatus(status)
        request.response.setHeader("Location", "/elsewhere")

    done = run(view("work", work))
    assert done.status.state == "failed"
    assert portal.aq_base.half
    assert len(taskqueue.tasks(state="scheduled")) == 1


def test_doomed_transaction_is_a_success(run, view, portal):
    """As in any request: it was the view's wish that nothing is written, and no task added."""

    def work(context, request):
        context.half = True
        taskqueue.add("/plone/@@never")
        transaction.doom()
        return "looked, and left everything as it was"

    done = run(view("work", work))
    assert done.status.state == "succeeded"
    assert not hasattr(portal.aq_base, "half")
    assert len(taskqueue.tasks()) == 1


@pytest.mark.parametrize("failure", [ValueError, NotFound])
def test_reason_is_one_line_and_not_too_long(run, view, failure):
    """It stands in lists and in logs; the traceback has room for more."""
    done = run(view("work", _raise(failure("first\r\n second\x00 " + "x" * 1_000_000))))
    reason = done.status.reason
    assert reason.startswith(f"{failure.__name__}: first second\ufffd xxx")
    assert len(reason) == 2000
    assert done.status.attempts[0].reason == reason


def test_redirect_is_not_followed(run, view):
    """C87: it may lead to a login form, which is no success."""
    done = run(view("away", lambda context, request: request.response.redirect("/elsewhere")))
    assert done.outcome.status == 302
    assert done.outcome.reason == "status 302, redirected to /elsewhere, not followed"
    assert done.status.state == "failed"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_success(run, view, status):
    """N36, T08: not 200 alone."""

    def work(context, request):
        request.response.setStatus(status)
        return "body"

    done = run(view("work", work))
    assert (done.outcome.status, done.status.state) == (status, "succeeded")


def test_failing_commit_is_no_success(run, view, portal):
    """The response was ready; but what it says was not saved."""

    def work(context, request):
        context.half = True
        transaction.get().addBeforeCommitHook(_raise(ValueError("late")), (None, None))
        return "all is well"

    done = run(view("work", work))
    assert not done.outcome.ok
    assert done.outcome.reason == "ValueError: late"
    assert not hasattr(portal.aq_base, "half")


def test_retry_after_of_the_response(run, view):
    def busy(context, request):
        request.response.setStatus(429)
        request.response.setHeader("Retry-After", "120")

    done = run(view("busy", busy), max_attempts=2)
    assert done.outcome.retry_after == 120
    assert done.status.state == "scheduled"
    assert done.status.due == pytest.approx(done.outcome.started + 120, abs=TIMEOUT)


def test_retry_after_is_no_longer_than_the_queue_allows(run, view):
    """A view that answers so is not in charge; with `RetryLater` it is."""

    def busy(context, request):
        request.response.setStatus(429)
        request.response.setHeader("Retry-After", "99999999")

    done = run(view("busy", busy), max_attempts=2, max_backoff=60)
    assert done.status.due == pytest.approx(done.outcome.started + 60, abs=TIMEOUT)
    done = run(view("later", _raise(RetryLater(9000))), max_attempts=2, max_backoff=60)
    assert done.status.due == pytest.approx(done.outcome.started + 9000, abs=TIMEOUT)


def test_statuses_of_the_queue(run, view):
    """N38, U31: which client errors are tried again is for the queue to say."""

    def answer(context, request):
        request.response.setStatus(int(request.form["status"]))

    url = view("answer", answer)
    with task_queue("patient", transient_statuses=(404,), max_attempts=2):
        for status, state in ((404, "scheduled"), (429, "failed"), (503, "scheduled")):
            done = run(url, params={"status": status}, queue="patient")
            assert (done.status.state, done.status.status) == (state, status)


def test_many_headers_of_the_response(run, view):
    """What is kept has a limit, and it is said that something is missing."""

    def talk(context, request):
        for number in range(20):
            request.response.setHeader(f"X-{number}", "x" * 1000)

    done = run(view("talk", talk))
    assert sum(len(name) + len(value) for name, value in done.status.headers) <= 16 * 1024
    assert done.status.truncated


def test_retry_later(run, view):
    done = run(view("work", _raise(RetryLater(300, "not yet"))), max_attempts=2)
    assert (done.outcome.verdict, done.outcome.retry_after) == ("retry", 300)
    assert done.outcome.reason == "RetryLater: not yet"
    assert done.status.state == "scheduled"
    assert done.status.due == pytest.approx(done.outcome.started + 300, abs=TIMEOUT)


def test_discard(run, view):
    done = run(view("work", _raise(Discard("pointless"))), max_attempts=5)
    assert done.outcome.verdict == "discard"
    assert (done.status.state, done.status.reason) == ("failed", "Discard: pointless")


@pytest.mark.parametrize("timeout", [None, 60])
def test_task_timeout_raised_by_hand(run, view, timeout):
    done = run(view("work", _raise(TaskTimeout("by hand"))), timeout=timeout, max_attempts=2)
    assert done.outcome.reason.startswith("TaskTimeout")
    assert done.status.state == "scheduled"


def test_timeout(run, view, portal):
    """The view is interrupted, although it catches whatever it can; nothing is committed."""

    def work(context, request):
        context.half = True
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            try:
                sum(range(100))
            except Exception:
                raise AssertionError("a timeout is no Exception") from None
        return "never interrupted"

    done = run(view("work", work), timeout=0.05)
    assert done.outcome.reason == "TaskTimeout: the task took more than 0.05 s"
    assert done.status.state == "failed"
    assert not hasattr(portal.aq_base, "half")


def test_traceback_is_capped(run, view):
    done = run(view("work", _raise(ValueError("x" * 100_000))))
    assert len(done.outcome.error) == publisher.MAX_ERROR + 1
    assert done.outcome.error.startswith("…")


# the response


@pytest.mark.parametrize(
    ("size", "truncated"), [(publisher.MAX_BODY, False), (publisher.MAX_BODY + 1, True)]
)
def test_body_is_capped(run, view, size, truncated):
    """D24c."""
    done = run(view("large", lambda context, request: "x" * size))
    assert done.outcome.ok
    assert len(done.outcome.body) == publisher.MAX_BODY
    assert done.outcome.truncated is truncated
    assert (len(done.status.body), done.status.truncated) == (publisher.MAX_BODY, truncated)


def test_streamed_body(run, view):
    def stream(context, request):
        for _ in range(3):
            request.response.write(b"part ")

    assert run(view("stream", stream)).outcome.body == b"part part part "


@implementer(IUnboundStreamIterator)
class Endless:
    """A body without an end, which has to be closed."""

    def __init__(self):
        self.produced = 0
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        self.produced += 1
        return b"x" * 1024

    def close(self):
        self.closed = True


def test_response_is_closed(run, view):
    """And not read any further than is kept."""
    endless = Endless()
    done = run(view("endless", lambda context, request: endless))
    assert done.outcome.ok
    assert done.outcome.truncated
    assert endless.closed
    assert endless.produced <= publisher.MAX_BODY // 1024 + 1


def test_response_is_closed_after_an_error(run, view):
    class Broken(Endless):
        def __next__(self):
            raise OSError("disk on fire")

    broken = Broken()
    done = run(view("broken", lambda context, request: broken))
    assert broken.closed
    assert done.outcome.reason == "OSError: disk on fire"
    assert not done.outcome.ok


def test_secrets_of_the_response_are_not_recorded(run, view):
    def cookie(context, request):
        request.response.setCookie("__ac", "secret")
        request.response.setHeader("WWW-Authenticate", "basic realm=x")
        request.response.setHeader("X-Fine", "fine")

    done = run(view("cookie", cookie))
    for recorded in (done.outcome.headers, done.status.headers):
        names = {name.lower() for name, _ in recorded}
        assert "x-fine" in names
        assert not names & {"set-cookie", "www-authenticate"}


def test_no_csrf_tokens_in_the_result(run, view, http):
    """They are secrets of the user; a page from outside has them in all of its forms."""

    def page(context, request):
        request.response.setHeader("Content-Type", "text/html; charset=utf-8")
        return "<html><body><form method='post' action='/'></form></body></html>"

    url = view("page", page)
    _, _, outside = http(url, HTTP_AUTHORIZATION=BASIC)
    assert b'name="_authenticator"' in outside
    done = run(url)
    assert done.task.user is not None
    assert b"<form" in done.outcome.body
    assert b"_authenticator" not in done.outcome.body


# log


def test_access_log(run, view, caplog):
    """C87, C88: one line for a task, and no other for a success."""
    caplog.set_level(logging.INFO, "collective.taskqueue")
    done = run(f"{view('fine', lambda context, request: 'fine')}?a=1", "POST")
    (record,) = [r for r in caplog.records if r.name == "collective.taskqueue.access"]
    assert record.args[:4] == (done.task.id, "POST", "/plone/@@fine?a=1", 200)
    assert record.args[5:] == (1, TEST_USER_ID)
    assert record.getMessage().startswith(f'task {done.task.id}: "POST /plone/@@fine?a=1" 200 0.')
    assert record.getMessage().endswith(f" s, attempt 1, user {TEST_USER_ID}")
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("broken"), "ValueError: broken, failed"),
        (NotFound("gone"), "NotFound: gone, failed"),
        (Redirect("/away"), "redirected to /away, not followed"),
    ],
)
def test_failures_are_logged(run, view, caplog, error, text):
    """C87."""
    done = run(view("work", _raise(error)))
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.name == "collective.taskqueue"
    assert record.getMessage().startswith(f"task {done.task.id}: ")
    assert text in record.getMessage()


# writing


def test_write_on_get_persists(run, view, portal, http):
    """A task is not cross-site; the same from outside is what it is protected from."""
    setRoles(portal, TEST_USER_ID, ["Manager"])
    transaction.commit()

    def write(context, request):
        context.written = getattr(context, "written", 0) + 1
        return "<html><body>written</body></html>"

    url = view("write", write)
    http(url, HTTP_AUTHORIZATION=BASIC)
    transaction.begin()
    assert not hasattr(portal.aq_base, "written")
    assert run(url).outcome.ok
    assert portal.written == 1


def test_post_without_a_token_persists(run, view, portal):
    def write(context, request):
        context.written = IDisableCSRFProtection.providedBy(request)

    assert run(view("write", write), "POST", payload="a=1").outcome.ok
    assert portal.written is True


def test_tasks_of_a_task_that_fails_are_not_queued(run, view, queue):
    """C39."""

    def work(context, request):
        taskqueue.add("/plone/@@other")
        raise ValueError("no")

    assert not run(view("work", work)).outcome.ok
    assert len(queue) == 0
    assert run_tasks() == []


def test_task_whose_tasks_cannot_be_queued_fails(run, view, queue, portal, monkeypatch):
    """C34: the storage goes down while a task runs."""

    def work(context, request):
        context.half = True
        taskqueue.add("/plone/@@other")

        def stage(*args):
            raise StorageUnavailable("down")

        monkeypatch.setattr(queue.storage, "stage", stage)

    done = run(view("work", work))
    assert done.outcome.reason == "StorageUnavailable: down"
    assert not hasattr(portal.aq_base, "half")


# what is left behind


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
    """A body that is produced when the request is over, and nobody else tidies up."""

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
    # Somebody else's bug: the connection belongs to the transaction and is not closed.
    transaction.begin()
    context.other_half = True
    raise KeyboardInterrupt


def _open_connections(database):
    return len([item for item in database.connectionDebugInfo() if item["opened"]])


@pytest.mark.parametrize(
    "then",
    [
        lambda context, request: "fine",
        _raise(ValueError("broken")),
        _raise(SystemExit(1)),
        _raise(ConflictError()),
        _raise(TaskTimeout()),
        _end_interaction,
        _nest_interaction,
        _open_connection,
    ],
)
@pytest.mark.parametrize("url", ["/plone/@@work", "/@@work", "/plone/missing", "/%00"])
def test_thread_is_clean_afterwards(view, functional, delays, then, url):
    """Whatever the view does, and however it ends."""
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
    """One thread, one task after the other, whatever became of those before."""
    outcomes = []
    view("fine", lambda context, request: "fine")
    endings = [ValueError(), SystemExit(), ConflictError(), KeyboardInterrupt()]
    for number, error in enumerate(endings):
        view(f"bad-{number}", _litter(_raise(error)))

    def work():
        for number in range(len(endings)):
            publish(_attempt(f"/plone/@@bad-{number}"))
            outcomes.append(publish(_attempt("/plone/@@fine")).body)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(TIMEOUT)
    assert outcomes == [b"fine"] * len(endings)


def test_task_of_another_user_does_not_leak_into_the_next(run, seen, functional):
    look = seen(user=lambda r: _user())
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
