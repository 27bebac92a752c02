"""Tasks that nothing could authenticate are told; who needs credentials keeps them."""

from AccessControl.SecurityManagement import newSecurityManager
from collective.taskqueue import taskqueue
from collective.taskqueue.task import Identity
from collective.taskqueue.testing import run_tasks
from integration.capture.conftest import BASIC
from integration.capture.conftest import headers
from plone import api
from plone.app.testing import logout
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import TEST_USER_ID
from Products.PluggableAuthService.interfaces.plugins import IAuthenticationPlugin
from Products.PluggableAuthService.interfaces.plugins import IExtractionPlugin
from Products.PluggableAuthService.interfaces.plugins import IUserEnumerationPlugin
from Products.PluggableAuthService.plugins.BasePlugin import BasePlugin
from zope.component.hooks import setSite
from zope.globalrequest import setRequest
from zope.interface import implementer
import pytest
import transaction


TICKET = "sso=ticket-of-jane"


@implementer(IExtractionPlugin, IAuthenticationPlugin)
class SingleSignOn(BasePlugin):
    """Authenticates a cookie; it finds no user by id."""

    def __init__(self, id):
        self._setId(id)

    def extractCredentials(self, request):
        return {"ticket": "jane"} if TICKET in (request.getHeader("Cookie") or "") else {}

    def authenticateCredentials(self, credentials):
        return ("jane", "jane") if credentials.get("ticket") == "jane" else None


@implementer(IUserEnumerationPlugin)
class Directory(BasePlugin):
    """Counts how often it is asked; it may be unavailable, or find a user by any id."""

    asked = 0
    away = False
    found = None

    def __init__(self, id):
        self._setId(id)

    def enumerateUsers(self, id=None, **criteria):
        Directory.asked += 1
        if Directory.away:
            raise ConnectionError("nobody there")
        name = Directory.found
        return () if name is None else ({"id": name, "login": name, "pluginid": self.getId()},)


def add_plugin(portal, plugin, *interfaces):
    folder = portal.acl_users
    folder._setObject(plugin.getId(), plugin)
    for interface in interfaces:
        folder.plugins.activatePlugin(interface, plugin.getId())


@pytest.fixture
def sso(portal):
    """The site lets jane in, who is in no user source."""
    add_plugin(portal, SingleSignOn("sso"), IExtractionPlugin, IAuthenticationPlugin)
    transaction.commit()
    return portal.acl_users


@pytest.fixture
def directory(portal):
    Directory.asked, Directory.away, Directory.found = 0, False, None
    add_plugin(portal, Directory("directory"), IUserEnumerationPlugin)
    transaction.commit()
    return Directory


def as_jane(folder):
    newSecurityManager(None, folder._createUser(folder.plugins, "jane", "jane").__of__(folder))


def warned(caplog, task):
    return [text for text in caplog.messages if text.startswith(f"task {task.id}: ")]


# without the plugin


def test_a_script_that_adopts_a_user(added, without_plugin, caplog):
    """Nothing that could be copied: the task will fail, which is told when it is added."""
    setRequest(None)
    with api.env.adopt_user(user=api.user.get(TEST_USER_ID)):
        task = added()
    (message,) = warned(caplog, task)
    assert f"queued by '{TEST_USER_ID}' of /plone/acl_users" in message
    assert message.endswith("it will fail")
    transaction.commit()
    (done,) = run_tasks()
    assert not done.outcome.ok


def test_a_script_whose_headers_authenticate(added, without_plugin, caplog):
    setRequest(None)
    assert warned(caplog, added(headers={"Authorization": BASIC})) == []


def test_a_request_with_credentials(added, without_plugin, current_request, caplog):
    current_request(HTTP_COOKIE="__ac=secret")
    assert warned(caplog, added()) == []


def test_the_credentials_of_another_user(
    added, functional, without_plugin, current_request, caplog
):
    """The owner sends the request, another user adds the task: no credentials are copied."""
    request = current_request(HTTP_COOKIE="__ac=secret", HTTP_AUTHORIZATION=BASIC, HTTP_X_SSO="a")
    request.other["AUTHENTICATED_USER"] = functional["app"].acl_users.getUser(SITE_OWNER_NAME)
    task = added()
    assert (task.user, task.headers) == (Identity("/plone/acl_users", TEST_USER_ID), ())
    assert len(warned(caplog, task)) == 1


def test_hooks_need_no_authentication(added, without_plugin, caplog):
    setRequest(None)
    assert warned(caplog, added("https://example.org/hook")) == []


# with the plugin


def test_a_user_of_the_site_needs_nothing(added, current_request, caplog):
    task = added()
    current_request(HTTP_COOKIE="__ac=secret")
    assert (added().headers, warned(caplog, task)) == ((), [])


def test_a_script_for_a_user_whom_no_plugin_knows(added, sso, caplog):
    setRequest(None)
    as_jane(sso)
    task = added()
    (message,) = warned(caplog, task)
    assert "'jane' of /plone/acl_users" in message
    assert "no plugin finds them by id" in message


def test_who_is_known_by_a_cookie_alone_keeps_it(added, sso, current_request, caplog):
    current_request(HTTP_COOKIE=TICKET, HTTP_X_SSO="more")
    as_jane(sso)
    task = added(headers={"Authorization": "mine"})
    assert headers(task) == {"Cookie": TICKET, "X-Sso": "more", "Authorization": "mine"}
    assert warned(caplog, task) == []


def test_the_cookie_authenticates_the_task(sso, view, http, caplog):
    seen = []
    task = view("look", lambda context, request: seen.append(api.user.get_current().getId()))
    view("adder", lambda context, request: taskqueue.add(task))
    status, _, _ = http("/plone/@@adder", HTTP_COOKIE=TICKET)
    (done,) = run_tasks()
    assert (status, done.outcome.ok, seen) == (200, True, ["jane"])
    assert done.task.user == Identity("/plone/acl_users", "jane")


def test_a_directory_is_asked_once_for_a_user(added, sso, directory, current_request):
    """Not for each of a thousand tasks."""
    current_request(HTTP_COOKIE=TICKET)
    as_jane(sso)
    before = directory.asked
    for _ in range(20):
        added()
    assert directory.asked - before <= 1


def test_a_directory_that_is_away(added, directory, current_request, caplog, portal):
    """It may be back when the task runs: no secret is copied for that."""
    current_request(HTTP_COOKIE=TICKET)
    as_jane(portal.acl_users)
    directory.away = True
    assert added().headers == ()
    assert any("cannot be looked up (nobody there)" in text for text in caplog.messages)


@pytest.mark.parametrize("found", ["Jane", "janet"])
def test_a_directory_that_finds_another_user_by_the_id(
    added, sso, directory, current_request, caplog, found
):
    """One that ignores case, or looks for beginnings: no task is run as them."""
    directory.found = found
    current_request(HTTP_COOKIE=TICKET)
    as_jane(sso)
    assert headers(added()) == {"Cookie": TICKET}
    setRequest(None)
    task = added()
    (message,) = warned(caplog, task)
    assert "no plugin finds them by id" in message


# anonymous


def test_anonymous_in_the_root(added, functional, current_request):
    """The user folder of the root counts, where there is no site."""
    request = current_request(HTTP_REFERER="/reset?token=secret")
    request.other["PARENTS"] = [functional["app"]]
    setSite(None)
    logout()
    assert added().headers == ()
    functional["app"].acl_users.manage_delObjects(["taskauth"])
    assert headers(added()) == {"Referer": "/reset?token=secret"}
