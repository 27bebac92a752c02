"""One task is one request of the real publisher."""

from collective.taskqueue import taskqueue
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.testing import run_tasks
from integration.publisher.conftest import user_id
from OFS.Folder import Folder
from OFS.SimpleItem import SimpleItem
from plone.app.testing import logout
from plone.app.testing import TEST_USER_ID
from zope.globalrequest import setRequest
import pytest
import transaction


def test_headers_that_the_publisher_sets(run, seen):
    """C03, C11, C101."""
    names = ["Id", "User-Id", "Queue", "Attempt", "Max-Attempts"]
    look = seen(
        agent=lambda r: r.getHeader("User-Agent"),
        task=lambda r: [r.getHeader(f"X-Task-{name}") for name in names],
    )
    forged = {f"X-Task-{name}": "forged" for name in names}
    done = run(look.url, headers=forged, max_attempts=3)
    assert look == [
        {
            "agent": "TaskQueueServer",
            "task": [done.task.id, TEST_USER_ID, "default", "1", "3"],
        }
    ]


def test_anonymous_task_has_no_user_header(run, seen):
    """C101."""
    look = seen(user=lambda r: r.getHeader("X-Task-User-Id"), who=lambda r: user_id())
    logout()
    assert run(look.url).outcome.ok
    assert look == [{"user": None, "who": None}]


def test_layer_of_tasks(run, view, http):
    """C84: no request from outside, with any headers, finds a view on that layer."""
    url = view("inside", lambda context, request: "inside", layer=ITaskQueueLayer)
    assert run(url).outcome.body == b"inside"
    assert http(url)[0] == 404
    assert http(url, HTTP_X_TASK_ID="x", HTTP_X_TASK_USER_ID="admin")[0] == 404


ENVIRONMENT = {
    "REMOTE_ADDR": "127.0.0.1",
    "SERVER_NAME": "nohost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_SOFTWARE": "TaskQueueServer",
    "SCRIPT_NAME": "",
}


def test_environment(run, seen):
    """C85, C90."""
    look = seen(
        environ=lambda r: {key: r.environ[key] for key in ENVIRONMENT},
        url=lambda r: r["URL"],
        address=lambda r: r.getClientAddr(),
    )
    setRequest(None)
    run(look.url)
    assert look == [
        {
            "environ": ENVIRONMENT,
            "url": "http://nohost/plone/@@look",
            "address": "127.0.0.1",
        }
    ]


@pytest.mark.parametrize(
    "url",
    ["/plone/@@look", "//plone/@@look", "/plone/%40%40look", "/plone//@@look"],
)
def test_spellings_of_a_path(run, seen, url):
    """C05."""
    look = seen(form=lambda r: dict(r.form))
    assert run(f"{url}?a=1", params={"b": "2"}).outcome.ok
    assert look == [{"form": {"a": "1", "b": "2"}}]


@pytest.mark.parametrize("path", ["/%C3%A4 ö/@@look", "/ä%20ö/@@look", "/%C3%A4%20%C3%B6/@@look"])
def test_path_beyond_ascii(run, seen, functional, path):
    """C05: decoded exactly once."""
    functional["app"]._setObject("ä ö", Folder("ä ö"))
    transaction.commit()
    # A user of the site is unknown in the root.
    logout()
    look = seen(parents=lambda r: r["PARENTS"][0].getId())
    assert run(path).outcome.ok
    assert look == [{"parents": "ä ö"}]


def test_path_is_unquoted_once(run):
    done = run("/plone/%2540%2540look")
    assert done.outcome.status == 404


@pytest.mark.parametrize("query", ["u=%C3%A4", "u=ä"])
def test_query_beyond_ascii(run, seen, query):
    """C09."""
    look = seen(form=lambda r: dict(r.form))
    run(f"{look.url}?{query}", params={"l": ["1", "€"], "e": ""})
    assert look == [{"form": {"u": "ä", "l": ["1", "€"], "e": ""}}]


def test_values_of_headers(run, seen):
    """C14."""
    look = seen(header=lambda r: [r.getHeader(name) for name in ("X-B", "X-I", "X-U", "X-E")])
    run(look.url, headers={"X-B": True, "X-I": 3, "X-U": "ä", "X-E": ""})
    assert look == [{"header": ["true", "3", "ä", None]}]


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_method(run, seen, method):
    """C07."""
    look = seen(method=lambda r: r.method)
    assert run(look.url, method).outcome.ok
    assert look == [{"method": method}]


def test_form(run, seen):
    """C19, D43: the body is parsed, and so is the query."""
    look = seen(form=lambda r: dict(r.form))
    run(f"{look.url}?q=1", "POST", payload="a=1&l=1&l=2&u=%C3%A4")
    assert look == [{"form": {"q": "1", "a": "1", "l": ["1", "2"], "u": "ä"}}]


def test_body(run, seen):
    """C19."""
    look = seen(
        body=lambda r: r["BODY"],
        length=lambda r: r.environ["CONTENT_LENGTH"],
        type=lambda r: r.getHeader("Content-Type"),
    )
    payload, own = b'{"a": 1}', {"Content-Type": "application/json"}
    run(look.url, "POST", payload=payload, headers=own)
    assert look == [{"body": payload, "length": "8", "type": "application/json"}]


class Resource(SimpleItem):
    """An object that is published with methods of its own."""

    id = "resource"

    PUT__roles__ = PATCH__roles__ = DELETE__roles__ = None

    def PUT(self, REQUEST):
        """Published, as its docstring tells Zope."""
        self.last = (REQUEST.method, REQUEST["BODY"])

    PATCH = DELETE = PUT


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_methods_of_an_object(run, functional, method):
    """C07."""
    functional["app"]._setObject("resource", Resource())
    transaction.commit()
    logout()
    assert run("/resource", method, payload=b"new").outcome.ok
    assert functional["app"].resource.last == (method, b"new")


def test_no_body(run, seen):
    """C18, C20."""
    look = seen(length=lambda r: r.environ["CONTENT_LENGTH"], form=lambda r: dict(r.form))
    assert run(look.url, "POST", payload=None).outcome.ok
    assert run(look.url, "POST").outcome.ok
    assert look == [{"length": "0", "form": {}}] * 2


def test_form_of_the_queuing_request(view, seen, http):
    """C10, C17, U10: a form that is worked on later; and the first view can read it, too."""
    look = seen(form=lambda r: dict(r.form), language=lambda r: r.getHeader("Accept-Language"))

    def adder(context, request):
        taskqueue.add(look.url, method="POST")
        return request.form["message"] + str(len(request["BODY"]))

    body = b"message=M%C3%B6we"
    status, _, answer = http(
        view("adder", adder),
        "POST",
        body,
        CONTENT_TYPE="application/x-www-form-urlencoded",
        HTTP_ACCEPT_LANGUAGE="fi",
    )
    assert (status, answer.decode()) == (200, f"Möwe{len(body)}")
    (done,) = run_tasks()
    assert done.outcome.ok
    assert look == [{"form": {"message": "Möwe"}, "language": "fi"}]


def test_request_that_fails_queues_nothing(view, http, queue):
    """C31: an exception in a view."""

    def adder(context, request):
        taskqueue.add("/plone")
        raise ValueError("no")

    assert http(view("adder", adder))[0] == 500
    assert len(queue) == 0
