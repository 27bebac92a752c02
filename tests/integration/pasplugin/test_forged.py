"""No other request can pretend to be a task, and no secret reaches a task."""

from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Lease
from collective.taskqueue.testing import run_tasks
from integration.pasplugin.conftest import MEMBER
from integration.pasplugin.conftest import OWNER
from integration.pasplugin.conftest import put_task
from plone.app.testing import logout
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import TEST_USER_ID
from zope.interface import alsoProvides
from ZPublisher.HTTPResponse import HTTPResponse
import pytest
import transaction
import uuid


SPELLINGS = ["HTTP_X_TASK_USER_ID", "HTTP_X_TASK_USER-ID", "HTTP_x_task_user_id", "X-Task-User-Id"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("user_id", [SITE_OWNER_NAME, TEST_USER_ID])
def test_forged_header(who, view, http, spelling, user_id):
    """C102, D01: a browser that sends it is Anonymous."""
    secret = view("secret", lambda context, request: "secret", roles=("Manager", "Member"))
    forged = {spelling: user_id, "HTTP_X_TASK_ID": str(uuid.uuid4())}
    assert http(who.url, **forged)[2] == b"None"
    status, _, body = http(secret, **forged)
    assert status in (302, 401)
    assert b"secret" not in body


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_forged_header_that_is_copied(who, adder, http, spelling):
    """C101, D01: the task of an anonymous visitor is Anonymous."""
    http(adder, **{spelling: SITE_OWNER_NAME})
    (run,) = run_tasks()
    assert run.task.user is None
    assert who == [(None, None)]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_forged_header_of_a_member(who, adder, http, spelling):
    """D01: a member stays who they are."""
    http(adder, HTTP_AUTHORIZATION=MEMBER, **{spelling: SITE_OWNER_NAME})
    run_tasks()
    assert who == [("/plone/acl_users", TEST_USER_ID)]


@pytest.mark.parametrize("name", ["X-Task-User-Id", "x-task-user-id", "X_Task_User_Id"])
def test_forged_header_of_code(who, name):
    """D01: nor can code that lets its caller choose a header."""
    logout()
    taskqueue.add(who.url, headers={name: SITE_OWNER_NAME})
    transaction.commit()
    run_tasks()
    assert who == [(None, None)]


def test_form_of_a_request_is_no_identity(who, http):
    """A request looks up what it does not know in its form."""
    form = "?attempt=x&attempt.task.user.id=admin&user=admin&X-Task-User-Id=admin"
    assert http(f"{who.url}{form}")[2] == b"None"


def test_request_that_is_only_marked(current_request, portal):
    """The interface alone is not believed."""
    request = current_request("/", QUERY_STRING="attempt=x", HTTP_X_TASK_USER_ID=TEST_USER_ID)
    alsoProvides(request, ITaskQueueLayer)
    assert request["attempt"] == "x"
    assert portal.acl_users.taskauth.extractCredentials(request) == {}


def test_request_that_is_not_marked(current_request, portal, queue):
    """A request from outside is no task, even if other code has attached an attempt to it."""
    task = put_task("/plone", Identity("/plone/acl_users", TEST_USER_ID), "X-A", "1")
    request = current_request("/")
    request.attempt = Attempt(Lease(task, "token", "consumer", 1, 0, 0.0), queue.storage)
    extract = portal.acl_users.taskauth.extractCredentials
    assert extract(request) == {}
    alsoProvides(request, ITaskQueueLayer)
    assert extract(request) == {"login": TEST_USER_ID}


@pytest.mark.parametrize("extractor", ["credentials_basic_auth", "", None])
def test_credentials_of_other_extractors(portal, extractor):
    """C102: a login name from a form must not be taken for an id from a task."""
    credentials = {"login": TEST_USER_ID, "extractor": extractor}
    assert portal.acl_users.taskauth.authenticateCredentials(credentials) is None


# secrets


def test_no_secret_reaches_the_task(view, http):
    """D11: neither does the request have one, nor what is stored."""
    seen = []

    def look(context, request):
        seen.append((request.getHeader("Cookie"), request.cookies, request._auth))

    url = view("look", look)
    view("adder", lambda context, request: taskqueue.add(url))
    http("/plone/@@adder", HTTP_AUTHORIZATION=MEMBER, HTTP_COOKIE="__ac=secret; other=1")
    (run,) = run_tasks()
    assert run.outcome.ok
    assert run.task.user.id == TEST_USER_ID
    assert seen == [(None, {}, None)]
    stored = repr(run.task.encode())
    assert MEMBER not in stored
    assert "secret" not in stored


def test_basic_authentication_without_the_plugin(without_plugin, who, adder, http):
    """C100: as the current request is."""
    http(adder, HTTP_AUTHORIZATION=MEMBER)
    http(adder, HTTP_AUTHORIZATION=OWNER)
    assert [run.outcome.ok for run in run_tasks()] == [True, True]
    assert who == [("/plone/acl_users", TEST_USER_ID), ("/acl_users", SITE_OWNER_NAME)]


def test_session_cookie_without_the_plugin(without_plugin, portal, who, adder, http):
    """C100."""
    response = HTTPResponse()
    portal.acl_users.session._setupSession(TEST_USER_ID, response)
    transaction.commit()
    cookie = response.cookies["__ac"]["value"].decode()
    http(adder, HTTP_COOKIE=f'__ac="{cookie}"')
    (run,) = run_tasks()
    assert run.outcome.ok
    assert who == [("/plone/acl_users", TEST_USER_ID)]


def test_password_that_was_changed_without_the_plugin(without_plugin, portal, who, adder, http):
    """D13: the task fails, and the view is not called, not even as Anonymous."""
    http(adder, HTTP_AUTHORIZATION=MEMBER)
    portal.acl_users.source_users.updateUserPassword(TEST_USER_ID, "new-secret")
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert who == []


def test_login_of_a_test_without_the_plugin(without_plugin, who):
    """What the layer of collective.taskqueue.testing has the plugin for."""
    taskqueue.add(who.url)
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert who == []
