"""A storage that does not answer makes no 500 of a page or a form, but a 503."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import StorageUnavailable
from integration.publisher.conftest import BASIC
from integration.publisher.conftest import raising
from plone import api
from plone.protect.interfaces import IDisableCSRFProtection
from zope.interface import alsoProvides
import json
import pytest
import transaction


@pytest.fixture
def down(queue, monkeypatch):
    def fail(*args, **kwargs):
        raise StorageUnavailable("ConnectionError: redis://:s3cret@db.example.org:6379/0")

    for name in ("stage", "tasks"):
        part = queue.storage if name == "stage" else queue.storage.admin
        monkeypatch.setattr(part, name, fail)


def assert_unavailable(answer):
    status, headers, body = answer
    headers = {name.lower(): value for name, value in headers.items()}
    assert status == 503
    assert int(headers["retry-after"]) > 0
    assert headers["cache-control"] == "no-store"
    for secret in ("s3cret", "db.example.org", "Traceback"):
        assert secret not in body.decode() + str(headers)
    return headers, body.decode()


@pytest.mark.parametrize("place", ["/plone", ""])
@pytest.mark.parametrize("credentials", [{}, {"HTTP_AUTHORIZATION": BASIC}])
def test_a_save_that_cannot_be_queued(view, http, portal, down, place, credentials):
    """The commit is the first to know; nothing of the answer of the view is left."""

    def save(context, request):
        # A form would bring a token.
        alsoProvides(request, IDisableCSRFProtection)
        portal = context.restrictedTraverse("/plone")
        portal.saved = True
        taskqueue.add("/plone/@@later", queue="default")
        request.response.setHeader("ETag", "x")
        request.response.setHeader("Content-Disposition", "attachment")
        request.response.redirect("/plone/saved", lock=1)

    view("save", save)
    headers, page = assert_unavailable(
        http(f"{place}/@@save", HTTP_ACCEPT="text/html", **credentials)
    )
    assert headers["content-type"].startswith("text/html")
    assert "Please try again in a moment" in page
    assert not {"location", "etag", "content-disposition"} & set(headers)
    transaction.begin()
    assert not hasattr(portal.aq_base, "saved")


@pytest.mark.parametrize("accept", ["text/html,application/xhtml+xml", "", "*/*"])
def test_a_view_that_asks_the_queue(view, http, down, accept):
    """Raised by the view itself."""
    view("look", lambda context, request: len(taskqueue.tasks(state="queued", queue="default")))
    _, page = assert_unavailable(http("/plone/@@look", HTTP_ACCEPT=accept))
    assert "does not answer at the moment" in page


def test_a_person_is_answered_in_the_language_of_the_browser(view, http, down):
    api.portal.set_registry_record("plone.available_languages", ["en", "de"])
    api.portal.set_registry_record("plone.use_request_negotiation", True)
    transaction.commit()
    view("look", lambda context, request: len(taskqueue.tasks(state="queued", queue="default")))
    _, page = assert_unavailable(
        http("/plone/@@look", HTTP_ACCEPT="text/html", HTTP_ACCEPT_LANGUAGE="de")
    )
    assert 'lang="de"' in page
    assert "Bitte versuchen Sie es gleich noch einmal" in page
    assert "Hierfür wird die Aufgabenwarteschlange gebraucht" in page
    assert "wenden Sie sich an die Betreiber" in page


def test_a_program_is_answered_in_its_language(view, http, down):
    view("look", lambda context, request: len(taskqueue.tasks(state="queued", queue="default")))
    headers, body = assert_unavailable(http("/plone/@@look", HTTP_ACCEPT="application/json"))
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error_type"] == "StorageUnavailable"


def test_a_task_is_tried_again_by_its_own_pause(run, view):
    """The page is not the outcome, the exception is."""
    done = run(view("work", raising(StorageUnavailable("gone"))), max_attempts=2, min_backoff=100)
    assert done.outcome.reason == "StorageUnavailable: gone"
    assert done.outcome.retry_after is None
    assert done.status.state == "scheduled"
