"""A task finds its content where its url says, and no namesake further up."""

from collective.taskqueue import taskqueue
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from OFS.DTMLMethod import DTMLMethod
from OFS.Folder import Folder
from OFS.Image import File
from OFS.OrderedFolder import OrderedFolder
from OFS.SimpleItem import SimpleItem
from plone import api
from plone.app.testing import logout
from plone.app.testing import SITE_OWNER_NAME
from Products.CMFCore.interfaces import ISiteRoot
from Products.PythonScripts.PythonScript import PythonScript
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from zope.component import getGlobalSiteManager
from zope.interface import alsoProvides
from zope.interface import Interface
from zope.publisher.interfaces.browser import IDefaultBrowserLayer
from zope.traversing.interfaces import ITraversable
import pytest
import transaction
import zope.traversing.namespace


#: What a url goes through before and after the object that was deleted.
SPELLINGS = [
    "/plone/news/about/@@touch",
    "/plone/news//./about/touch",
    "/plone/news/x/../about/@@touch",
    "/plone/news/%61bout/@@touch",
    "/plone/news/portal_catalog/about/@@touch",
    "/plone/@@look/../news/about/@@touch",
    "/plone/news/about",
    "/plone/news/about/view",
    "/plone/news/about/more/@@touch",
]


class OurTool(SimpleItem):
    """A tool that nothing marks as one."""

    id = "our_tool"

    def answer(self):
        """A method that every user may call."""
        return "42"


@pytest.fixture
def site(portal):
    """The folder `news` with nothing in it, and `about` beside it, where `more` is."""
    with api.env.adopt_user(SITE_OWNER_NAME):
        api.content.create(portal, "Folder", id="news")
        about = api.content.create(portal, "Folder", id="about")
        api.content.create(about, "Document", id="more")
    transaction.commit()
    return portal


@pytest.fixture
def touched(view):
    """The paths of what `@@touch` was called on."""
    found = []
    view("touch", lambda context, request: found.append("/".join(context.getPhysicalPath())))
    view("look", lambda context, request: "")
    return found


@pytest.mark.parametrize("url", SPELLINGS)
def test_no_namesake_is_acquired(site, run, touched, url):
    """In any spelling of the url."""
    done = run(url, max_attempts=3)
    assert touched == []
    assert done.status.state == "failed"
    assert done.outcome.status == 404
    assert done.outcome.reason.endswith(
        " any more (about was found at /plone/about by acquisition)"
    )
    assert done.status.reason == done.outcome.reason


def test_the_reason_names_both_places(site, run, touched):
    done = run("/plone/news/about/@@touch")
    assert done.status.reason == (
        "there is no about at /plone/news any more (about was found at /plone/about by acquisition)"
    )


def test_the_status_is_not_tried_again_by_a_queue_that_waits_for_404(site, touched):
    with task_queue("patient", transient_statuses=(404,), max_attempts=5):
        taskqueue.add("/plone/news/about/@@touch", queue="patient")
        transaction.commit()
        (done,) = run_tasks(queue="patient")
        assert done.status.state == "failed"


def test_a_waiting_task_whose_object_is_deleted_meanwhile(site, run, touched):
    """As it happens: queued for one, published on the other."""
    with api.env.adopt_user(SITE_OWNER_NAME):
        api.content.create(site.news, "Document", id="about")
    transaction.commit()
    assert run("/plone/news/about/@@touch").status.state == "succeeded"
    with api.env.adopt_user(SITE_OWNER_NAME):
        site.news.manage_delObjects(["about"])
    transaction.commit()
    assert run("/plone/news/about/@@touch").status.state == "failed"
    assert touched == ["/plone/news/about"]


def test_a_moved_object_fails_although_a_redirect_knows_where_it_is(site, run, touched):
    """What plone.app.redirector answers is not the outcome, the exception is."""
    with api.env.adopt_user(SITE_OWNER_NAME):
        api.content.create(site.news, "Document", id="moved")
        transaction.savepoint(optimistic=True)
        api.content.move(site.news.moved, target=site.about)
    transaction.commit()
    done = run("/plone/news/moved/@@touch", max_attempts=3)
    assert (done.outcome.status, done.status.state) == (404, "failed")
    assert done.outcome.reason.startswith("NotFound: ")
    assert touched == []


def test_an_object_of_its_own_name_inside_itself(site, run, touched):
    done = run("/plone/news/news/@@touch")
    assert "there is no news at /plone/news any more" in done.outcome.reason
    assert "there is no about at /plone/about any more" in run("/plone/about/about").outcome.reason
    assert touched == []


@pytest.mark.parametrize("kind", [Folder, OrderedFolder, File])
def test_content_of_zope_is_not_acquired_either(functional, run, touched, kind):
    """Without Plone; from the root, and past a site."""
    logout()
    app = functional["app"]
    app._setObject("away", kind("away") if kind is not File else File("away", "", b"x"))
    app._setObject("shelf", Folder("shelf"))
    transaction.commit()
    for place in ("/shelf", "/plone"):
        done = run(f"{place}/away/@@touch")
        assert f"there is no away at {place} any more" in done.outcome.reason
        assert (done.outcome.status, done.status.state) == (404, "failed")
    assert run("/away/@@touch").status.state == "succeeded"
    assert touched == ["/away"]


def test_the_site_of_another_folder_is_not_acquired(functional, run, touched):
    """A whole site may be the namesake."""
    logout()
    app = functional["app"]
    for container in (app, Folder("a")):
        twin = Folder("twin")
        alsoProvides(twin, ISiteRoot)
        container._setObject("twin", twin)
    app._setObject("a", container)
    transaction.commit()
    assert run("/a/twin/@@touch").status.state == "succeeded"
    app.a._delObject("twin")
    transaction.commit()
    assert "no twin at /a any more" in run("/a/twin/@@touch").outcome.reason
    assert touched == ["/a/twin"]


def test_behind_a_virtual_host(site, functional, view, http, touched):
    """The virtual host of the person who queued the task is no step of its url."""
    manage_addVirtualHostMonster(functional["app"])
    site._setObject("tool", Folder("tool"))
    transaction.commit()
    view("adder", lambda context, request: taskqueue.add(request.form["url"]))
    prefix = "/VirtualHostBase/https/example.org:443/plone/VirtualHostRoot/_vh_cms"
    for url in ("/plone/about/@@touch", "/plone/about/more/@@touch", "/plone/news/about/@@touch"):
        assert http(f"{prefix}/@@adder?url={url}")[0] == 200
    first, second, third = run_tasks()
    assert (first.status.state, second.status.state) == ("succeeded", "succeeded")
    assert "there is no about at /plone/news any more" in third.outcome.reason
    assert touched == ["/plone/about", "/plone/about/more"]


@pytest.mark.parametrize(
    "url",
    [
        "/plone/@@touch",
        "/plone/touch",
        "/plone/news/@@touch",
        "/plone/news/++view++touch",
        "/plone/about/more/@@touch",
    ],
)
def test_what_stands_where_the_url_says(site, run, touched, url):
    assert run(url).status.state == "succeeded"
    assert touched == ["/".join(part for part in url.split("/") if "touch" not in part)]


def test_items_of_a_folder_are_not_acquired(site, functional, run, touched):
    """An item of any class that is in no root is no tool."""
    logout()
    shelf = Folder("shelf")
    functional["app"]._setObject("shelf", shelf)
    for name, kind in (("box", Folder), ("thing", SimpleItem)):
        item = kind()
        item.id = name
        shelf._setObject(name, item)
    transaction.commit()
    done = run("/shelf/box/thing/@@touch")
    assert "there is no thing at /shelf/box any more" in done.outcome.reason
    assert run("/shelf/thing/@@touch").status.state == "succeeded"
    assert touched == ["/shelf/thing"]


def test_code_is_acquired_as_ever(site, functional, run):
    """Scripts and methods act on what they are called on; tools are for all of a site."""
    script = PythonScript("where")
    script.write("return '/'.join(context.getPhysicalPath())")
    site._setObject("where", script)
    functional["app"]._setObject("greet", DTMLMethod("Hello <dtml-var getId>"))
    functional["app"]._setObject("our_tool", OurTool())
    functional["app"].our_tool.id = "our_tool"
    site.news._setObject("say", DTMLMethod("I am <dtml-var getId>"))
    with api.env.adopt_user(SITE_OWNER_NAME):
        api.content.create(site.news, "Document", id="item")
    transaction.commit()
    assert run("/plone/news/our_tool/answer").outcome.body == b"42"
    assert run("/plone/news/item/say").outcome.body == b"I am item"
    assert run("/plone/news/where").outcome.body == b"/plone/news"
    assert run("/plone/about/more/greet").outcome.body == b"Hello more"
    with api.env.adopt_user(SITE_OWNER_NAME):
        for tool in ("portal_catalog", "portal_setup", "acl_users", "portal_types", "MailHost"):
            done = run(f"/plone/news/{tool}/getId")
            assert "any more" not in done.outcome.reason, tool


@pytest.mark.parametrize("namespace", ["acquire", "item"])
def test_namespaces_that_acquire(site, run, touched, namespace):
    """Plone has none of them, but an add-on may."""
    registry = getGlobalSiteManager()
    factory = getattr(zope.traversing.namespace, namespace)
    required = (Interface, IDefaultBrowserLayer)
    registry.registerAdapter(factory, required, ITraversable, namespace)
    try:
        done = run(f"/plone/news/++{namespace}++about/@@touch")
    finally:
        registry.unregisterAdapter(factory, required, ITraversable, namespace)
    assert done.outcome.status == 404
    assert touched == []


def test_a_default_page(site, run):
    """Steps that an object adds by itself lead to its children."""
    with api.env.adopt_user(SITE_OWNER_NAME):
        api.content.create(site.news, "Document", id="front", title="The front")
        site.news.setDefaultPage("front")
        for item in (site.news, site.news.front):
            item.manage_permission("View", ["Anonymous"])
    transaction.commit()
    done = run("/plone/news")
    assert done.status.state == "succeeded"
    assert b"The front" in done.outcome.body


def test_what_a_view_traverses_by_itself(site, run, view):
    """It is not the url of the task: acquisition works as in any request."""
    seen = []

    def resolve(context, request):
        seen.append(request.resolve_url(f"{request['SERVER_URL']}/plone/news/about").getId())

    run(view("resolve", resolve))
    assert seen == ["about"]
