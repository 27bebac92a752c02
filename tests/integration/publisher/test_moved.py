"""A task of a content object runs where that is now, and nowhere if it is gone."""

from collective.taskqueue import taskqueue
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from OFS.Folder import Folder
from plone import api
from plone.app.testing import login
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from plone.uuid.interfaces import IUUID
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from zope.component.hooks import setSite
import pytest
import transaction


@pytest.fixture
def site(portal):
    setRoles(portal, TEST_USER_ID, ["Manager"])
    for name in ("news", "archive"):
        api.content.create(portal, "Folder", name)
    transaction.commit()
    return portal


@pytest.fixture
def about(site):
    page = api.content.create(site.news, "Document", "about")
    transaction.commit()
    return page


@pytest.fixture
def called(view):
    """Where a view was called, and with what form."""
    found = []

    def where(context, request):
        found.append(("/".join(context.getPhysicalPath()), dict(request.form)))

    view("where", where)
    return found


def run_one():
    transaction.commit()
    (done,) = run_tasks()
    return done


def test_where_it_was(about, called):
    taskqueue.add(about, view="where", params={"a": "ä"})
    assert run_one().outcome.ok
    assert called == [("/plone/news/about", {"a": "ä"})]


def test_moved(site, about, called, caplog):
    """A namesake that came in its place is not meant."""
    caplog.set_level("INFO", "collective.taskqueue")
    task_id = taskqueue.add(about, view="@@where", params={"a": 1}, delay=0)
    transaction.commit()
    # Plone's catalog loses its UID on the way.
    api.content.move(about, site.archive, id="what is this#?")
    api.content.create(site.news, "Document", "about")
    api.content.create(site, "Document", "about")
    assert run_one().outcome.ok
    assert called == [("/plone/archive/what is this#?", {"a": "1"})]
    place = "/plone/archive/what%20is%20this%23%3F/@@where"
    assert f"task {task_id}: its object was moved, runs at {place}" in caplog.messages


def test_its_folder_was_renamed(site, about, called):
    taskqueue.add(about, view="where")
    transaction.commit()
    api.content.rename(site.news, "olds")
    assert run_one().outcome.ok
    assert called[0][0] == "/plone/olds/about"


def test_renamed_in_the_transaction_that_queued_it(site, about, called):
    taskqueue.add(about, view="where")
    api.content.rename(about, "later")
    assert run_one().outcome.ok
    assert called[0][0] == "/plone/news/later"


def test_added_in_the_transaction_that_queued_it(site, called):
    page = api.content.create(site.news, "Document", "page")
    taskqueue.add(page, view="where")
    page = api.content.move(page, site)
    assert run_one().outcome.ok
    assert called[0][0] == "/plone/page"


@pytest.mark.parametrize("name", ["view", "sharing"])
@pytest.mark.parametrize("more", [None, "where"])
def test_an_id_that_means_something_else_to_its_folder(site, called, name, more):
    """To a folder these are methods of its own, and the task would act on the folder."""
    page = api.content.create(site.news, "Document", name)
    taskqueue.add(page, view=more, max_attempts=3)
    done = run_one()
    assert (done.outcome.status, done.status.state, called) == (404, "failed", [])
    assert done.status.attempts_made == 1


def test_deleted(site, about, called, caplog):
    """It is not retried, and no namesake is taken for it."""
    taskqueue.add(about, view="where", max_attempts=3)
    transaction.commit()
    api.content.delete(about)
    api.content.create(site, "Document", "about")
    api.content.create(site.news, "Document", "about")
    done = run_one()
    assert (done.outcome.status, done.status.state) == (404, "failed")
    assert "the object that was /plone/news/about is gone" in done.outcome.reason
    assert done.status.attempts_made == 1
    assert called == []


def test_deleted_in_a_queue_that_waits_for_404(about, called):
    """It may wait for what is not there yet, and this will not come back."""
    with task_queue("patient", transient_statuses=(404,), max_attempts=5):
        taskqueue.add(about, view="where", queue="patient")
        transaction.commit()
        api.content.delete(about)
        done = run_one()
    assert done.status.state == "failed"
    assert "is gone" in done.outcome.reason


def test_moved_to_where_the_path_would_choose_the_public_host(site, about, called):
    """A user who may rename a folder must not choose the public host of the task by that."""
    taskqueue.add(about, view="where")
    transaction.commit()
    api.content.create(site, "Folder", "x")
    site.manage_renameObject("x", "VirtualHostRoot")
    api.content.move(about, site.VirtualHostRoot)
    done = run_one()
    assert (done.outcome.status, called) == (404, [])
    assert "chooses the public host" in done.outcome.reason


def test_the_catalog_is_behind(site, about, called):
    """What it says is looked up; and it need not know of an object that is where it was."""
    uid = IUUID(about)
    site.portal_catalog.uncatalog_object("/plone/news/about")
    taskqueue.add(about, view="where")
    assert run_one().outcome.ok
    taskqueue.add(about, view="where")
    transaction.commit()
    site.portal_catalog.catalog_object(about, "/plone/news/about", idxs=["UID"])
    site.news._delOb("about")
    assert site.portal_catalog.unrestrictedSearchResults(UID=uid)
    assert run_one().outcome.status == 404
    assert len(called) == 1


def test_a_moved_object_is_as_private_as_before(site, about, view):
    """The task finds the object by its UID, but its user needs permissions for it there."""
    view("secret", lambda context, request: "seen", roles=("Manager",))
    setRoles(site, TEST_USER_ID, ["Member"])
    taskqueue.add(about, view="secret")
    transaction.commit()
    setRoles(site, TEST_USER_ID, ["Manager"])
    api.content.move(about, site.archive)
    setRoles(site, TEST_USER_ID, ["Member"])
    assert not run_one().outcome.ok


def test_behind_a_virtual_host(functional, site, about, view, http):
    """The new place has its public url, too."""
    manage_addVirtualHostMonster(functional["app"])
    urls = []
    view("where", lambda context, request: urls.append(context.absolute_url()))
    view("adder", lambda context, request: taskqueue.add(context, view="where"))
    transaction.commit()
    base = "/VirtualHostBase/https/www.example.org:443/plone/news/VirtualHostRoot/_vh_cms"
    status, _, _ = http(f"{base}/about/@@adder")
    assert status == 200
    setSite(site)
    login(site, TEST_USER_NAME)
    api.content.rename(about, "later")
    assert run_one().outcome.ok
    http(f"{base}/later/@@adder")
    setSite(site)
    login(site, TEST_USER_NAME)
    api.content.move(site.news.later, site.archive)
    assert run_one().outcome.ok
    assert urls[0] == "https://www.example.org/cms/later"
    assert urls[1].endswith("/archive/later")


def test_an_object_without_a_uid_is_its_path(site, view):
    site._setObject("plain", Folder("plain"))
    path = view("where", lambda context, request: "ok").removeprefix("/plone/")
    taskqueue.add(site.plain, view=path)
    transaction.commit()
    assert run_one().outcome.ok


def test_the_site_itself(site, called):
    taskqueue.add(site, view="where")
    assert run_one().outcome.ok
    assert called[0][0] == "/plone"
