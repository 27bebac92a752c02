"""Services traverse in a way of their own, and find no namesakes either."""

from collective.taskqueue import taskqueue
from collective.taskqueue.testing import run_tasks
from plone import api
from plone.app.testing import SITE_OWNER_NAME
import json
import pytest
import transaction


JSON = {"Accept": "application/json"}


@pytest.fixture
def about(portal):
    """The namesake that would be found: `news` has no `about` any more."""
    portal.portal_workflow.setDefaultChain("simple_publication_workflow")
    with api.env.adopt_user(SITE_OWNER_NAME):
        api.content.create(portal, "Folder", id="news")
        about = api.content.create(portal, "Document", id="about")
    transaction.commit()
    return about


def run(url, method="GET", payload=None, headers=JSON):
    with api.env.adopt_user(SITE_OWNER_NAME):
        taskqueue.add(url, method, payload=payload, headers=headers, queue="default")
        transaction.commit()
    (done,) = run_tasks()
    return done


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", "/plone/news/about/@workflow/publish"),
        ("POST", "/plone/++api++/news/about/@workflow/publish"),
        ("POST", "/plone/news/++api++/about/@workflow/publish"),
        ("GET", "/plone/news/about"),
        ("GET", "/plone/news/about/@history"),
        ("PATCH", "/plone/news/about"),
        ("DELETE", "/plone/news/about"),
        ("DELETE", "/plone/++api++/news/about"),
    ],
)
def test_services_find_no_namesake(about, method, url):
    payload = json.dumps({"title": "Overwritten"}).encode() if method == "PATCH" else None
    done = run(url, method, payload)
    assert (done.outcome.status, done.status.state) == (404, "failed"), done.outcome
    assert done.outcome.ok is False
    transaction.begin()
    portal = api.portal.get()
    assert portal.about.title != "Overwritten"
    assert api.content.get_state(portal.about) == "private"


@pytest.mark.parametrize(
    "url",
    [
        "/plone/about/@workflow/publish",
        "/plone/++api++/about/@workflow/publish",
    ],
)
def test_services_find_what_is_there(about, url):
    done = run(url, "POST")
    assert (done.outcome.status, done.status.state) == (200, "succeeded"), done.outcome
    transaction.begin()
    assert api.content.get_state(api.portal.get().about) == "published"


def test_a_redirect_of_a_moved_object_is_not_the_outcome(about):
    """Plone.rest answers the 404 with a redirect; that is the answer of an exception."""
    portal = api.portal.get()
    with api.env.adopt_user(SITE_OWNER_NAME):
        api.content.create(portal.news, "Document", id="moved")
        transaction.savepoint(optimistic=True)
        api.content.move(portal.news.moved, target=portal, id="elsewhere")
    done = run("/plone/news/moved/@workflow/publish", "POST")
    assert (done.outcome.status, done.status.state) == (404, "failed")
    assert done.outcome.reason.startswith("NotFound: ")


def test_unauthorized_service(about):
    """401, with its own reason first."""
    taskqueue.add("/plone/about/@workflow/publish", "POST", headers=JSON, payload=None)
    transaction.commit()
    (done,) = run_tasks()
    assert (done.outcome.status, done.status.state) == (401, "failed")
    assert done.outcome.reason.startswith("Unauthorized")


@pytest.mark.parametrize("view", ["@workflow/publish", "++api++/@workflow/publish"])
def test_services_of_an_object(about, view):
    """Traversal meets the object on its way, with or without `++api++`."""
    with api.env.adopt_user(SITE_OWNER_NAME):
        taskqueue.add(about, "POST", view=view, payload=None, headers=JSON, queue="default")
        transaction.commit()
    (done,) = run_tasks()
    assert done.outcome.ok, done.outcome
    transaction.begin()
    assert api.content.get_state(api.portal.get().about) == "published"
