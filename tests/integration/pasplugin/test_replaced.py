"""A user is deleted, and another user gets the id."""

from AccessControl.SecurityManagement import newSecurityManager
from collective.taskqueue import taskqueue
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.services.access import Access
from collective.taskqueue.testing import run_tasks
from integration.pasplugin.conftest import UNINSTALL
from plone.app.testing import applyProfile
from Products.PluggableAuthService.events import PrincipalDeleted
from zope.component import getUtility
from zope.event import notify
import pytest
import transaction


#: Nothing here takes longer than a moment; only a failure takes this long.
TIMEOUT = 30.0


@pytest.fixture(params=["site", "root"])
def acl_users(request, app, portal):
    """The user folder of the person."""
    return portal.acl_users if request.param == "site" else app.acl_users


@pytest.fixture
def jane(acl_users):
    """Makes, and logs in, a user of the id jane."""

    def make():
        users_of(acl_users).addUser("jane", "jane", "secret-secret")
        newSecurityManager(None, acl_users.getUserById("jane").__of__(acl_users))

    return make


def users_of(acl_users):
    return acl_users.source_users if "source_users" in acl_users else acl_users.users


def delete(acl_users):
    """Delete her; the user folder of the root has no plugin that does, and tells others."""
    if "source_users" in acl_users:
        acl_users.userFolderDelUsers(["jane"])
    else:
        acl_users.users.removeUser("jane")
        notify(PrincipalDeleted("jane"))


def settle():
    assert outbox.flush(TIMEOUT)


@pytest.fixture
def only_in_the_database(monkeypatch):
    """The process dies right after the deletion has been committed: nothing is cancelled."""
    monkeypatch.setattr(outbox, "cancel_later", lambda *args: None)


def test_what_waits_is_cancelled(acl_users, jane, who):
    """C2: in each queue that this process knows, with that as the reason; others' tasks stay."""
    other = taskqueue.add(who.url)
    jane()
    mine = [taskqueue.add(who.url), taskqueue.add(who.url, delay=3600.0)]
    transaction.commit()
    delete(acl_users)
    settle()
    assert taskqueue.counts()["queued"] == 2
    transaction.commit()
    settle()
    found = [taskqueue.status(task_id) for task_id in mine]
    assert [status.state for status in found] == ["cancelled", "cancelled"]
    reason = f"queued by jane of {'/'.join(acl_users.getPhysicalPath())}, who was deleted"
    assert [status.reason for status in found] == [reason, reason]
    assert taskqueue.status(other).state == "queued"


def test_more_than_one_page(acl_users, jane, who, monkeypatch):
    """However many there are."""
    monkeypatch.setattr(outbox, "PAGE", 3)
    jane()
    for _ in range(10):
        taskqueue.add(who.url)
    transaction.commit()
    delete(acl_users)
    transaction.commit()
    settle()
    assert taskqueue.counts()["cancelled"] == 10


def test_what_runs_is_asked_to_stop(acl_users, jane, who):
    jane()
    task_id = taskqueue.add(who.url)
    transaction.commit()
    queue = getUtility(ITaskQueue, name="default")
    queue.storage.reserve("consumer", timeout=0)
    delete(acl_users)
    transaction.commit()
    settle()
    assert taskqueue.status(task_id).cancel_requested


@pytest.mark.parametrize("plugin", ["with the plugin", "without"])
def test_a_later_user_inherits_no_task(acl_users, jane, portal, who, only_in_the_database, plugin):
    """The later user of that id is another one, also if nothing but the database survived."""
    jane()
    task_id = taskqueue.add(who.url, headers={"Accept-Language": "fi"})
    transaction.commit()
    delete(acl_users)
    jane()
    if plugin == "without":
        applyProfile(portal, UNINSTALL)
    transaction.commit()
    (run,) = run_tasks()
    assert not run.outcome.ok
    assert taskqueue.status(task_id).state == "failed"
    assert who == []


def test_the_reason_says_so(acl_users, jane, who, only_in_the_database):
    jane()
    task_id = taskqueue.add(who.url)
    transaction.commit()
    delete(acl_users)
    jane()
    transaction.commit()
    run_tasks()
    assert "who was deleted" in taskqueue.status(task_id).reason


def test_the_new_one_has_tasks(acl_users, jane, who):
    """And they run, however often the id was given away."""
    for _ in range(3):
        jane()
        taskqueue.add(who.url)
        transaction.commit()
        (run,) = run_tasks()
        assert run.outcome.ok
        delete(acl_users)
        transaction.commit()
        settle()
    assert [user_id for _, user_id in who] == ["jane"] * 3


def test_a_later_user_inherits_no_response(acl_users, jane, portal, who):
    """The response of the first user is hers alone; a Manager sees it all the same."""
    jane()
    task_id = taskqueue.add(who.url)
    transaction.commit()
    run_tasks()
    task = taskqueue.status(task_id).task
    assert Access(portal).may_see(task)
    delete(acl_users)
    jane()
    transaction.commit()
    access = Access(portal)
    assert not access.may_see(task)
    assert not access.may_steer(task)
    assert not access.may_run(task)
    newSecurityManager(None, portal.getPhysicalRoot().acl_users.getUserById("admin"))
    assert Access(portal).may_steer(task)


def test_a_deletion_that_is_not_committed(acl_users, jane, who):
    """Changes nothing."""
    jane()
    taskqueue.add(who.url)
    transaction.commit()
    delete(acl_users)
    transaction.abort()
    settle()
    (run,) = run_tasks()
    assert run.outcome.ok


def test_a_user_who_is_still_there(jane, who):
    """Deleted by one plugin, and known to another one: no other user can get the id."""
    jane()
    taskqueue.add(who.url)
    transaction.commit()
    notify(PrincipalDeleted("jane"))
    transaction.commit()
    settle()
    (run,) = run_tasks()
    assert run.outcome.ok
