"""A task sees the urls and the language of the person who queued it."""

from collective.taskqueue import taskqueue
from collective.taskqueue.testing import run_tasks
from OFS.Folder import Folder
from plone import api
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from zope.globalrequest import setRequest
import pytest
import transaction


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
    """C86: with any virtual host or mount point of the queuing request."""
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
