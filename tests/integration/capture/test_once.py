"""What tasks copy is looked up once per request, user and transaction, and never too late."""

from AccessControl import getSecurityManager
from AccessControl.SecurityManagement import newSecurityManager
from collective.taskqueue.enqueue import author
from collective.taskqueue.enqueue.headers import environ_of
from collective.taskqueue.pasplugin.identity import begin_generation
from integration.capture.conftest import headers
from plone import api
from plone.app.testing import applyProfile
from zope.globalrequest import setRequest
import pytest
import transaction


@pytest.fixture
def lookups(monkeypatch):
    """The calls of the function that copies headers."""
    calls = []
    real = author.copied_headers

    def copied(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(author, "copied_headers", copied)
    return calls


def test_a_transaction_looks_once(added, current_request, lookups):
    current_request()
    first, second = added(), added()
    assert first.headers == second.headers
    assert len(lookups) == 1
    transaction.abort()
    added()
    assert len(lookups) == 2


def test_what_one_task_is_given_stays_with_it(added, current_request):
    """Its own headers, and those of its body."""
    current_request()
    added(headers={"X-Own": "1"}, payload=b"body", method="POST")
    assert not {"X-Own", "Content-Type"} & headers(added()).keys()


def test_another_header(added, current_request):
    request = current_request()
    added()
    environ_of(request)["HTTP_TRACEPARENT"] = "00-1-1-00"
    assert headers(added())["Traceparent"] == "00-1-1-00"
    del environ_of(request)["HTTP_TRACEPARENT"]
    assert "Traceparent" not in headers(added())


def test_another_user(added, current_request):
    current_request()
    first = added()
    user = api.user.create(email="jane@example.org", username="jane")
    with api.env.adopt_user(user=user):
        assert added().user.id == "jane"
    assert added().user == first.user


def test_the_same_user_of_another_folder(added, functional, current_request):
    """Two wrappers of one user object are equal, whatever their user folders are."""
    current_request()
    assert added().user.folder == "/plone/acl_users"
    user = getSecurityManager().getUser()
    other = user.aq_base.__of__(functional["app"].acl_users)
    assert other == user
    newSecurityManager(None, other)
    assert added().user.folder == "/acl_users"


def test_another_request(added, current_request):
    current_request(HTTP_TRACEPARENT="00-1-1-00")
    assert "Traceparent" in headers(added())
    setRequest(None)
    assert headers(added()) == {}


def test_another_generation_of_the_user(added, current_request, portal):
    """As after the user was deleted, and created anew under the same id."""
    current_request()
    first = added()
    begin_generation(portal.acl_users, first.user)
    assert added().user.generation == first.user.generation + 1


def test_a_plugin_that_comes_and_goes(added, current_request, portal):
    current_request(HTTP_COOKIE="__ac=secret")
    assert "Cookie" not in headers(added())
    applyProfile(portal, "collective.taskqueue.pasplugin:uninstall")
    assert "Cookie" in headers(added())
    applyProfile(portal, "collective.taskqueue.pasplugin:default")
    assert "Cookie" not in headers(added())


def test_a_site_that_is_renamed(added, current_request, portal):
    current_request()
    first = added()
    assert first.user.folder == "/plone/acl_users"
    portal.__of__(portal.aq_parent)._setId("renamed")
    try:
        assert added().user.folder == "/renamed/acl_users"
    finally:
        portal._setId("plone")


def test_credentials_of_another_user(added, current_request, portal):
    """The request turns out to be of another user than the one that is current."""
    applyProfile(portal, "collective.taskqueue.pasplugin:uninstall")
    request = current_request(HTTP_COOKIE="__ac=secret")
    assert "Cookie" in headers(added())
    other = api.user.create(email="jane@example.org", username="jane")
    request.other["AUTHENTICATED_USER"] = other.getUser()
    assert "Cookie" not in headers(added())
