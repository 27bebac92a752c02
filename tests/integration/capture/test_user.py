"""Whom a task runs as, and the secrets that it takes along or does not."""

from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.users import system
from AccessControl.users import UnrestrictedUser
from collective.taskqueue import taskqueue
from collective.taskqueue.task import Identity
from integration.capture.conftest import BASIC
from integration.capture.conftest import headers
from integration.capture.conftest import URL
from OFS.Folder import Folder
from plone.app.testing import applyProfile
from plone.app.testing import login
from plone.app.testing import logout
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import TEST_USER_ID
import pytest
import transaction


def test_user_of_the_site(added):
    assert added().user == Identity("/plone/acl_users", TEST_USER_ID)


def test_user_of_the_root(added, functional):
    """D10: the same id may exist in both user folders."""
    login(functional["app"], SITE_OWNER_NAME)
    assert added().user == Identity("/acl_users", SITE_OWNER_NAME)


@pytest.mark.parametrize("header", ["HTTP_X_TASK_USER_ID", "HTTP_X_TASK_USER-ID"])
def test_anonymous(added, current_request, header):
    """C101: no identity, even if the browser sent one."""
    current_request(**{header: "admin"})
    logout()
    task = added()
    assert (task.user, task.headers) == (None, ())


@pytest.mark.parametrize("user", [system, UnrestrictedUser("emergency", "", ["manage"], [])])
def test_users_that_may_do_everything(added, functional, caplog, user):
    """They have no id, so that no task can run as them; the log says so."""
    newSecurityManager(None, user.__of__(functional["app"].acl_users))
    first, second = added(), added()
    assert (first.user, second.user) == (None, None)
    assert [record.getMessage() for record in caplog.records] == [
        f"task {task.id}: queued by {user.getUserName()}, which no task can run as;"
        " it will run as Anonymous"
        for task in (first, second)
    ]


def test_no_warning_where_nothing_is_lost(added, caplog):
    """Web hooks run without a user, headers may authenticate, and Anonymous stays Anonymous."""
    newSecurityManager(None, system)
    added("https://example.org/hook")
    added(headers={"authorization": BASIC})
    logout()
    added()
    assert caplog.records == []


class Elevated(UnrestrictedUser):
    """With an id, as add-ons make it of the current user to give them more roles."""

    def getId(self):
        return self.getUserName()


@pytest.mark.parametrize("name", [SITE_OWNER_NAME, TEST_USER_ID])
def test_user_with_other_roles(added, functional, current_request, name):
    """D10: it stands for who has made the request, not for their namesake in the site."""
    root, site = functional["app"].acl_users, functional["portal"].acl_users
    root.userFolderAddUser(TEST_USER_ID, "secret-secret", [], [])
    current_request().other["AUTHENTICATED_USER"] = root.getUser(name)
    newSecurityManager(None, Elevated(name, "", ["Manager"], []).__of__(site))
    assert added().user == Identity("/acl_users", name)


def test_another_user_with_other_roles(added, functional, current_request):
    """The task runs as the user with the id of the current user, not as that of the request."""
    site = functional["portal"].acl_users
    current_request().other["AUTHENTICATED_USER"] = functional["app"].acl_users.getUser(
        SITE_OWNER_NAME
    )
    newSecurityManager(None, Elevated(TEST_USER_ID, "", ["Manager"], []).__of__(site))
    assert added().user == Identity("/plone/acl_users", TEST_USER_ID)


def test_user_that_cannot_be_found_again(functional):
    user = functional["portal"].acl_users.getUserById(TEST_USER_ID).aq_base
    newSecurityManager(None, user)
    with pytest.raises(ValueError, match="without a user folder"):
        taskqueue.add(URL)
    assert transaction.get()._resources == []


# credentials


def test_credentials_stay_out_while_the_plugin_is_active(added, current_request):
    """D11: no secret lies in the queue."""
    current_request(HTTP_COOKIE="__ac=secret", HTTP_AUTHORIZATION=BASIC)
    assert added().headers == ()


def test_credentials_are_copied_without_the_plugin(added, current_request, without_plugin):
    """C100: how else could the task be authenticated?"""
    current_request(HTTP_COOKIE="__ac=secret", HTTP_AUTHORIZATION=BASIC)
    assert headers(added()) == {"Authorization": BASIC, "Cookie": "__ac=secret"}


@pytest.mark.parametrize("active", [True, False])
def test_credentials_of_anonymous_are_never_copied(added, current_request, portal, active):
    """D11, D13: a stale cookie is not who asks now."""
    if not active:
        applyProfile(portal, "collective.taskqueue.pasplugin:uninstall")
    current_request(
        HTTP_COOKIE="__ac=stale", HTTP_AUTHORIZATION=BASIC, HTTP_CGI_AUTHORIZATION=BASIC
    )
    logout()
    assert added().headers == ()


@pytest.mark.parametrize(
    "name", ["Authorization", "authorization", "Cookie", "COOKIE", "cgi_authorization"]
)
def test_own_credentials_are_refused_while_the_plugin_is_active(functional, name):
    with pytest.raises(ValueError, match=f"header {name} would lie in the queue"):
        taskqueue.add(URL, headers={name: "secret"})
    assert transaction.get()._resources == []


@pytest.mark.parametrize("name", ["Authorization", "cookie"])
def test_own_credentials_are_kept_without_the_plugin(added, without_plugin, name):
    assert headers(added(headers={name: "secret"})) == {name: "secret"}


def test_plugin_of_one_folder_does_not_count_for_the_other(added, functional, current_request):
    """C100: what counts is the user folder of the person."""
    portal = functional["portal"]
    portal.acl_users.manage_delObjects(["taskauth"])
    current_request(HTTP_COOKIE="__ac=secret")
    assert headers(added()) == {"Cookie": "__ac=secret"}
    login(functional["app"], SITE_OWNER_NAME)
    assert added().headers == ()


@pytest.mark.parametrize("interface", ["IExtractionPlugin", "IAuthenticationPlugin"])
def test_plugin_that_is_only_half_active_does_not_count(added, portal, current_request, interface):
    plugins = portal.acl_users.plugins
    plugins.deactivatePlugin(plugins._getInterfaceFromName(interface), "taskauth")
    current_request(HTTP_COOKIE="__ac=secret")
    assert headers(added()) == {"Cookie": "__ac=secret"}


def test_user_folder_that_is_no_pas(added, functional):
    """An old user folder has no plugins: credentials are copied."""
    folder = Folder("folder")
    functional["app"]._setObject("folder", folder)
    folder = functional["app"].folder
    folder.manage_addUserFolder()
    folder.acl_users._doAddUser("old", "secret", ["Member"], [])
    newSecurityManager(None, folder.acl_users.getUser("old").__of__(folder.acl_users))
    task = added(headers={"Authorization": "x"})
    assert task.user == Identity("/folder/acl_users", "old")
    assert headers(task) == {"Authorization": "x"}
