"""A task for a content object: where it is, what it is called, and what is none."""

from collective.taskqueue import taskqueue
from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.interfaces import ITaskQueue
from OFS.Folder import Folder
from plone import api
from plone.app.contentlisting.interfaces import IContentListing
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from plone.dexterity.utils import createContent
from plone.uuid.interfaces import IUUID
from Products.Five.browser import BrowserView
from urllib.parse import unquote
from zope.component import getUtility
from zope.globalrequest import setRequest
from zope.lifecycleevent.interfaces import IObjectAddedEvent
import pytest
import zope.component


def queue():
    return getUtility(ITaskQueue, name="default")


@pytest.fixture
def site(portal):
    setRoles(portal, TEST_USER_ID, ["Manager"])
    return portal


@pytest.fixture
def news(site):
    return api.content.create(site, "Folder", "news")


def test_an_object_and_a_view(added, news):
    task = added(news, view="publish-it", params={"a": 1}, method="POST")
    assert (task.url, task.method) == ("/plone/news/publish-it?a=1", "POST")
    assert (task.uid, task.view) == (IUUID(news), "publish-it")


def test_the_queue_itself_takes_one(news):
    queue().add(news, view="@@publish-it")
    (task,) = pending(queue())
    assert (task.url, task.uid) == ("/plone/news/@@publish-it", IUUID(news))


@pytest.mark.parametrize(
    ("view", "path"),
    [
        (None, "/plone/news"),
        ("", "/plone/news"),
        ("/", "/plone/news"),
        ("publish-it", "/plone/news/publish-it"),
        ("@@publish-it", "/plone/news/@@publish-it"),
        ("/@@publish-it/", "/plone/news/@@publish-it"),
        ("@workflow/publish", "/plone/news/@workflow/publish"),
        ("//@@images//image", "/plone/news/@@images/image"),
        ("++add++Document", "/plone/news/++add++Document"),
        ("ä b;c%20", "/plone/news/%C3%A4%20b%3Bc%2520"),
    ],
)
def test_view(added, news, view, path):
    """What can be called on an object; what needs it is quoted."""
    assert taskqueue.path(news, view) == path
    assert added(news, view=view).url == path
    assert added(news, view=view).view == path.removeprefix("/plone/news").removeprefix("/")


@pytest.mark.parametrize(
    "view",
    ["view?a=1", "view#a", "?", "../secret", "a/../b", "./view", "a\nb", "a\0", "\udc80", b"x", 3],
)
def test_what_is_no_view(news, view):
    with pytest.raises(InvalidTask, match="view is") as caught:
        taskqueue.add(news, view=view)
    assert caught.value.field == "view"
    with pytest.raises(InvalidTask, match="view is"):
        taskqueue.path(news, view)
    assert not pending(queue())


@pytest.mark.parametrize(
    "step", ["VirtualHostBase/http/evil.example:80", "VirtualHostRoot", "_vh_a"]
)
def test_a_view_that_would_choose_the_public_host(news, step):
    with pytest.raises(InvalidTask, match="would choose"):
        taskqueue.add(news, view=step)


IDS = [
    "docs#2",
    "what?",
    "100%",
    "%41",
    "a b",
    "ä",
    "日本",
    "a;b",
    "a+b",
    "at:colon",
    "x@y",
]


@pytest.mark.parametrize("name", IDS)
def test_any_id(added, site, name):
    """The physical path is no url: it has to be quoted."""
    site._setObject(name, Folder(name))
    folder = site[name]
    path = taskqueue.path(folder, "@@view")
    assert unquote(path) == f"/plone/{name}/@@view"
    assert not set("#? ;") & set(path)
    assert path.isascii()
    task = added(folder, view="@@view")
    assert (task.url, task.uid) == (path, None)


@pytest.mark.parametrize("name", ["+358-1", "@home", "+", "@"])
def test_an_id_that_looks_like_a_view(added, site, name):
    """It is none, and the task follows its object."""
    page = api.content.create(site, "Document", id="page")
    page.id = name
    site._setObject(name, page)
    task = added(site[name])
    assert (unquote(task.url), task.uid) == (f"/plone/{name}", IUUID(page))


def test_the_site(added, site):
    assert taskqueue.path(site) == "/plone"
    task = added(site, view="view")
    assert (task.url, task.uid) == ("/plone/view", IUUID(site))


def test_the_root_of_zope(added, functional):
    app = functional["app"]
    assert (taskqueue.path(app), taskqueue.path(app, "@@view")) == ("/", "/@@view")
    task = added(app, view="@@view")
    assert (task.url, task.uid) == ("/@@view", None)


def test_an_object_without_a_uid_has_not_that_of_its_container(added, site, news):
    news._setObject("plain", Folder("plain"))
    assert (added(news.plain).url, added(news.plain).uid) == ("/plone/news/plain", None)


@pytest.mark.parametrize("listed", [False, True])
def test_a_brain_stands_for_its_object(added, site, news, listed):
    brains = api.content.find(id="news")
    (brain,) = IContentListing(brains) if listed else brains
    task = added(brain, view="view")
    assert (task.url, task.uid) == ("/plone/news/view", IUUID(news))
    assert taskqueue.path(brain) == "/plone/news"


def test_a_brain_of_what_is_gone(site, news):
    (brain,) = api.content.find(id="news")
    site._delOb("news")
    with pytest.raises(InvalidTask, match="the catalog knows '/plone/news', but there is no such"):
        taskqueue.add(brain)
    assert not pending(queue())


def test_a_brain_of_what_is_gone_while_a_namesake_is_further_up(site, news):
    """Zope acquires it when the catalog looks up its path."""
    api.content.create(news, "Document", "about")
    api.content.create(site, "Document", "about")
    brains = api.content.find(context=news, id="about")
    news._delOb("about")
    for item in (*brains, *IContentListing(brains)):
        with pytest.raises(InvalidTask, match="the catalog knows '/plone/news/about', but there"):
            taskqueue.add(item)
    assert not pending(queue())


# not there yet


def test_an_object_of_this_very_transaction(added, site):
    """It has its place, and the task its UID, before anything is committed."""
    page = api.content.create(site, "Document", "page")
    assert page._p_jar is None or not page._p_serial.strip(b"\0")
    assert added(page).uid == IUUID(page)


def test_an_object_that_was_just_added(added, site):
    """As a subscriber gets it."""
    registry = zope.component.getGlobalSiteManager()
    tasks = []

    def on_added(event):
        if event.object.getId() == "page":
            tasks.append(added(event.object, view="publish-it"))

    registry.registerHandler(on_added, (IObjectAddedEvent,))
    try:
        page = api.content.create(site, "Document", "page")
    finally:
        registry.unregisterHandler(on_added, (IObjectAddedEvent,))
    assert {(task.url, task.uid) for task in tasks} == {("/plone/page/publish-it", IUUID(page))}


@pytest.mark.parametrize("name", ["", None])
def test_an_object_without_an_id(site, news, name):
    """As what was just made has none, inside of a container or not."""
    page = createContent("Document")
    page.id = name
    for nameless in (page, page.__of__(news), createContent("Document")):
        with pytest.raises(InvalidTask, match="has no place in the database yet: add it first"):
            taskqueue.add(nameless)
    assert not pending(queue())


def test_an_object_without_a_place(site, news):
    """Refused, because no task could find the object."""
    page = createContent("Document", id="page")
    for homeless in (page, Folder("item"), page.__of__(news)):
        with pytest.raises(InvalidTask, match="add it first"):
            taskqueue.add(homeless)
    assert not pending(queue())


def test_a_namesake_is_not_meant(site, news):
    """Neither one that is there already, nor one further up."""
    api.content.create(site, "Document", "page")
    api.content.create(news, "Document", "other")
    for name in ("page", "other"):
        with pytest.raises(InvalidTask, match="no such object"):
            taskqueue.add(createContent("Document", id=name).__of__(news))


def test_an_object_that_was_acquired_is_where_it_stands(added, site, news):
    api.content.create(site, "Document", "page")
    assert added(news.page).url == "/plone/page"


@pytest.mark.parametrize(
    "given", [3, 1.5, ["/plone"], ("", "plone"), {"a": 1}, object(), str, True]
)
def test_what_is_neither_a_url_nor_an_object(functional, given):
    with pytest.raises(InvalidTask, match="a task needs a url or a content object"):
        taskqueue.add(given)
    assert not pending(queue())


def test_a_view_is_no_object(site, news):
    """The path of its context is not its own."""
    request = site.REQUEST
    setRequest(request)
    with pytest.raises(InvalidTask, match="not BrowserView"):
        taskqueue.add(BrowserView(news, request))


@pytest.mark.parametrize("given", ["/plone", "", None, b"/plone"])
def test_a_url_has_no_view(functional, given):
    with pytest.raises(InvalidTask, match="view is for a content object"):
        taskqueue.add(given, view="view")
