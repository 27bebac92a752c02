"""A task runs as the person who queued it."""

from AccessControl.SecurityManagement import newSecurityManager
from collective.taskqueue import taskqueue
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.task import Identity
from collective.taskqueue.testing import run_tasks
from integration.pasplugin.conftest import OWNER
from integration.pasplugin.conftest import put_task
from integration.pasplugin.conftest import UNINSTALL
from plone.app.testing import applyProfile
from plone.app.testing import login
from plone.app.testing import logout
from plone.app.testing import setRoles
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import TEST_USER_ID
import pytest
import transaction


def test_user_of_the_site(who):
    """C101, C102: without any cookie or password."""
    taskqueue.add(who.url)
    transaction.commit()
    (run,) = run_tasks()
    assert run.outcome.ok
    assert who == [("/plone/acl_users", TEST_USER_ID)]


def test_user_of_the_root(app, who):
    """D10: in a site with a user folder of its own, too."""
    login(app, SITE_OWNER_NAME)
    taskqueue.add(who.url)
    taskqueue.add("/@@who")
    transaction.commit()
    assert [run.outcome.ok for run in run_tasks()] == [True, True]
    assert who == [("/acl_users", SITE_OWNER_NAME)] * 2


def test_users_of_one_id(app, portal, who):
    """D10: an id means nothing without its user folder."""
    portal.acl_users.source_users.addUser(SITE_OWNER_NAME, "login", "secret")
    for folder in (app.acl_users, portal.acl_users, app.acl_users):
        newSecurityManager(None, folder.getUserById(SITE_OWNER_NAME).__of__(folder))
        taskqueue.add(who.url)
    transaction.commit()
    assert all(run.outcome.ok for run in run_tasks())
    folders = [path for path, _ in who]
    assert folders == ["/acl_users", "/plone/acl_users", "/acl_users"]


def test_anonymous(who):
    """C101."""
    logout()
    taskqueue.add(who.url)
    transaction.commit()
    assert run_tasks()[0].outcome.ok
    assert who == [(None, None)]


@pytest.mark.parametrize("folder", ["site", "root"])
def test_user_who_is_gone(app, portal, who, folder):
    """C102, D13: the task fails, also for a public view, and the view is never called."""
    acl_users = portal.acl_users if folder == "site" else app.acl_users
    users = acl_users.source_users if folder == "site" else acl_users.users
    users.addUser("gone", "gone", "secret-secret")
    newSecurityManager(None, acl_users.getUserById("gone").__of__(acl_users))
    taskqueue.add(who.url, max_attempts=3)
    users.removeUser("gone")
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert "gone" in run.outcome.reason
    assert "cannot be authenticated any more" in run.outcome.reason
    assert run.status.state == "failed"
    assert who == []


@pytest.mark.parametrize("folder", ["site", "root"])
def test_user_who_is_gone_is_told_of_a_protected_view_too(app, portal, view, folder):
    """C102: not that they are not authorized, as if more roles could mend it."""
    url = view("guarded", lambda context, request: "never", roles=["Manager"])
    acl_users = portal.acl_users if folder == "site" else app.acl_users
    users = acl_users.source_users if folder == "site" else acl_users.users
    users.addUser("gone", "gone", "secret-secret")
    newSecurityManager(None, acl_users.getUserById("gone").__of__(acl_users))
    taskqueue.add(url)
    users.removeUser("gone")
    transaction.commit()
    (run,) = run_tasks()
    place = "/".join(acl_users.getPhysicalPath())
    expected = f"queued by gone of {place}, who cannot be authenticated any more"
    assert expected in run.outcome.reason
    assert "You are not authorized" not in run.outcome.reason


def test_user_who_asks_for_the_same_work(portal, who):
    """A waiting task keeps its user when a task of another user is skipped for it."""
    first = taskqueue.add(who.url, key="work")
    transaction.commit()
    portal.acl_users.source_users.addUser("other", "other", "secret-secret")
    newSecurityManager(None, portal.acl_users.getUserById("other").__of__(portal.acl_users))
    second = taskqueue.add(who.url, key="work")
    transaction.commit()
    (run,) = run_tasks()
    assert run.task.id == first == taskqueue.status(second).id
    assert who == [("/plone/acl_users", TEST_USER_ID)]


def test_user_who_may_not(functional, portal, view):
    """They are there, and lack a role: so it says."""
    url = view("guarded", lambda context, request: "never", roles=["Manager"])
    setRoles(portal, TEST_USER_ID, ["Member"])
    taskqueue.add(url)
    transaction.commit()
    (run,) = run_tasks()
    assert "You are not authorized" in run.outcome.reason
    assert "queued by" not in run.outcome.reason


@pytest.mark.parametrize("roles", [None, ["Manager"]])
def test_user_of_a_site_at_the_root(functional, view, roles):
    """The url is the path from the root of Zope, not that of the browser: so it says."""
    view("guarded", lambda context, request: "never", roles=roles)
    taskqueue.add("/@@guarded?token=secret")
    transaction.commit()
    (run,) = run_tasks()
    assert run.outcome.reason == (
        f"Unauthorized: queued by {TEST_USER_ID} of /plone/acl_users, whose users are not known"
        " at /@@guarded"
    )


def test_user_who_is_gone_while_another_one_has_the_id(queue, who):
    """D10, D13: not even if that other one is who the headers authenticate."""
    user = Identity("/plone/acl_users", SITE_OWNER_NAME)
    queue.put(put_task(who.url, user, "Authorization", OWNER))
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert who == []


def test_user_outside_of_the_site(who):
    """A user of the site is unknown in the root: refused rather than run as Anonymous."""
    taskqueue.add("/@@who")
    transaction.commit()
    (run,) = run_tasks()
    assert run.outcome.status == 401
    assert who == []


def test_plugin_that_was_removed_meanwhile(portal, who):
    """C102: the task has nothing else to show."""
    taskqueue.add(who.url)
    applyProfile(portal, UNINSTALL)
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert who == []


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("name", ["Authorization", "X-Task-User-Id"])
def test_headers_of_another_user_in_the_queue(portal, queue, who, active, name):
    """D13: with headers of another user, the task runs as its own user or not at all."""
    if not active:
        applyProfile(portal, UNINSTALL)
        transaction.commit()
    value = OWNER if name == "Authorization" else SITE_OWNER_NAME
    user = Identity("/plone/acl_users", TEST_USER_ID)
    queue.put(put_task(who.url, user, name, value))
    (run,) = run_tasks()
    assert run.outcome.ok is active
    assert who == ([("/plone/acl_users", TEST_USER_ID)] if active else [])


def test_permissions_are_checked(portal, view):
    """C105: of who queued it, as for any other request."""
    url = view("manage", lambda context, request: "done", ITaskQueueLayer, roles=("Manager",))
    taskqueue.add(url)
    transaction.commit()
    (run,) = run_tasks()
    assert "Unauthorized" in run.outcome.reason
    setRoles(portal, TEST_USER_ID, ["Manager"])
    taskqueue.add(url)
    transaction.commit()
    (run,) = run_tasks()
    assert run.outcome.body == b"done"
