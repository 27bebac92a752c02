"""Mistakes in a url that are told at once, and hosts of browsers that are none."""

from collective.taskqueue import taskqueue
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from integration.capture.conftest import URL
from OFS.Folder import Folder
from Testing.makerequest import makerequest
from unit.test_hosts import ODD_HOSTS
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import setRequest
import pytest
import transaction


# a virtual host in the url


@pytest.mark.parametrize(
    "url",
    [
        "/VirtualHostBase/https/evil.example:443/plone/VirtualHostRoot/mail_password",
        "/%56irtualHostBase/https/evil.example:443/plone/VirtualHostRoot/mail_password",
        "/plone/./VirtualHostRoot/view",
        "/plone/../VirtualHostBase/https/evil.example:443/plone/VirtualHostRoot/view",
        "/plone%2fVirtualHostRoot/view",
        "//VirtualHostBase/https/evil.example:443/plone",
        "/plone/_vh_cms/view",
        "/plone?VirtualHostBase/https/evil.example:443/plone/VirtualHostRoot/x:method=1",
    ],
)
def test_a_url_that_would_choose_the_public_host(functional, url):
    with pytest.raises(ValueError, match="would choose the public urls"):
        taskqueue.add(url)
    assert transaction.get()._resources == []


def test_params_that_would_choose_the_public_host(functional):
    """They are part of the query, too."""
    with pytest.raises(ValueError, match="would choose the public urls"):
        taskqueue.add(URL, params={"VirtualHostRoot/x:method": "1"})
    with pytest.raises(ValueError, match="would choose the public urls"):
        taskqueue.add(URL, params={":action": "_vh_x/view"})


# this site


HERE = [
    ({}, "http://localhost:8080/plone/view"),
    ({}, "HTTP://LOCALHOST:8080"),
    ({}, "//localhost:8080/plone/view"),
    ({"HTTP_HOST": "www.example.org"}, "http://www.example.org/plone"),
    ({"HTTP_HOST": "www.example.org"}, "https://WWW.Example.org:443/plone"),
    ({"HTTP_HOST": "www.example.org:443"}, "https://www.example.org/plone"),
    ({"HTTP_HOST": "www.example.org"}, "//www.example.org/plone"),
    ({"HTTP_HOST": "[::1]:8080"}, "http://[::1]:8080/plone"),
    ({"HTTP_HOST": "www.example.org", "wsgi.url_scheme": "https"}, "https://www.example.org/a"),
    ({"HTTP_HOST": "www.example.org", "wsgi.url_scheme": "https"}, "http://www.example.org:80/"),
]


@pytest.mark.parametrize(("environ", "url"), HERE)
def test_a_url_of_this_site(functional, current_request, environ, url):
    """Refused with any `allow_hosts`: a site must not call itself from outside."""
    current_request(**environ)
    with task_queue("q", allow_hosts="localhost:8080 www.example.org [::1]:8080"):
        with pytest.raises(ValueError, match=r"this is a url of this site: pass the object"):
            taskqueue.add(url, queue="q")
        with pytest.raises(ValueError, match=r"this is a url of this site"):
            taskqueue.add(f"  {url} ", "POST", queue="q")
    assert transaction.get()._resources == []


def test_a_url_of_the_virtual_host(functional, current_request):
    request = current_request(HTTP_HOST="backend:8080")
    request.setServerURL("https", "www.example.org", 443)
    with task_queue("q", allow_hosts="backend:8080"):
        for url in ("https://www.example.org/plone", "http://backend:8080/plone"):
            with pytest.raises(ValueError, match="of this site"):
                taskqueue.add(url, queue="q")


def test_a_url_of_this_site_in_a_script(functional):
    """There is no current request, and the one that the root is wrapped in makes the urls."""
    app = makerequest(functional["app"].aq_base, environ={"SERVER_NAME": "foo"})
    setRequest(None)
    setSite(app.plone)
    with pytest.raises(ValueError, match="of this site: pass the object"):
        taskqueue.add(app.plone.absolute_url())
    # Without one they are no urls at all.
    setSite(functional["app"].aq_base.plone)
    with pytest.raises(ValueError, match="a url begins with /"):
        taskqueue.add(getSite().absolute_url())


@pytest.mark.parametrize("url", ["https://example.org/", "http://www.example.org:8443/hook"])
def test_a_url_of_another_site(added, current_request, url):
    current_request(HTTP_HOST="www.example.org")
    with task_queue("q", allow_hosts="www.example.org:8443") as queue:
        taskqueue.add(url, queue="q")
        assert len(queue.tasks()) == 0
    setRequest(None)
    assert added("https://www.example.org/").is_hook


# a path that is none


@pytest.mark.parametrize(
    "url", ["/news/x", "/nothing", "/Plone", "/%C3%A4", "/a/../news/x?a=/plone"]
)
def test_a_path_that_does_not_begin_in_the_root(added, current_request, caplog, url):
    """As the path after a virtual host looks to people: it is a warning, and it is queued."""
    current_request()
    task = added(url)
    (message,) = caplog.messages
    assert message.startswith(f"task {task.id}: there is no ")
    assert message.endswith("begins with /plone")


@pytest.mark.parametrize(
    "url",
    [
        "/",
        "/plone",
        "//plone//view?x=1",
        "/acl_users/view",
        "/x/../plone",
        "/@@view",
        "/++resource++x",
        "/virtual_hosting/plone",
        "/manage_main",
        "/folder/x",
        "/for-everybody",
        "/for-tasks",
        "/%66older",
    ],
)
def test_a_path_that_begins_in_the_root(added, functional, current_request, caplog, view, url):
    """Traversal finds content, attributes and views, also those for tasks alone."""
    functional["app"]._setObject("folder", Folder("folder"))
    functional["app"]._setObject("virtual_hosting", Folder("virtual_hosting"))
    view("for-everybody", lambda context, request: "")
    view("for-tasks", lambda context, request: "", layer=ITaskQueueLayer)
    current_request()
    added(url)
    assert caplog.messages == []


def test_without_a_database_no_path_is_checked(added, caplog):
    setSite(None)
    setRequest(None)
    added("/news/view")
    assert caplog.messages == []


# a host that is none


ODD = [host for host in ODD_HOSTS if "\udc80" not in host]


@pytest.mark.parametrize("host", [*ODD, "\x7f", "a\x1b[31mb"])
def test_an_odd_host_loses_no_task(functional, view, http, caplog, host):
    """B2: it is no origin; the request was answered, and the task runs."""
    seen = []
    task = view("look", lambda context, request: seen.append(context.absolute_url()))
    view("adder", lambda context, request: taskqueue.add(task))
    status, _, body = http("/plone/@@adder", HTTP_HOST=host)
    if status != 200:
        # Zope itself has refused it.
        assert run_tasks() == []
        return
    (done,) = run_tasks()
    assert done.outcome.ok, done.outcome.error
    assert (done.task.origin, seen) == (None, ["http://nohost/plone"])
    (message,) = [text for text in caplog.messages if "cannot be parsed" in text]
    assert message.startswith(f"task {body.decode()}: the host of the request")
    assert message.isascii()
    assert message.isprintable()
    assert "secret" not in message


ODD_VALUES = st.text(st.characters(codec=None, categories=None)) | st.sampled_from(
    [
        "",
        " ",
        "-1",
        "9" * 5000,
        "1_0",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "\udc80",
        "a" * 100_000,
        'a=b; =; I18N_LANGUAGE="\\',
        ";;",
    ]
)
NAMES = """
    HTTP_HOST CONTENT_LENGTH CONTENT_TYPE HTTP_COOKIE HTTP_ACCEPT_LANGUAGE HTTP_X_FORWARDED_FOR
    HTTP_X_FORWARDED_HOST HTTP_X_REQUEST_ID HTTP_TRACEPARENT HTTP_CONTENT_ENCODING HTTP_REFERER
    HTTP_AUTHORIZATION HTTP_X_TASK_ID HTTP_X_HTTP_METHOD_OVERRIDE
"""


@pytest.mark.parametrize("active", [True, False])
def test_no_header_of_a_browser_makes_add_fail(functional, current_request, active, request):
    """The user has done nothing wrong, with any header that the browser sends."""
    if not active:
        request.getfixturevalue("without_plugin")
    good = current_request("/", "POST", b"a=1")

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(NAMES.split()), ODD_VALUES, min_size=1))
    def check(environ):
        # As Zope would have left the request behind, if it lets such a request in.
        good._orig_env = {**good.environ, **environ}
        good.environ.update(environ)
        good.other["SERVER_URL"] = f"http://{environ.get('HTTP_HOST', 'localhost')}"
        good.cookies = {"I18N_LANGUAGE": environ.get("HTTP_COOKIE", "en")}
        task_id = taskqueue.add(URL, "POST")
        transaction.commit()
        assert taskqueue.status(task_id).state == "queued"
        taskqueue.cancel(task_id)

    check()
