"""What a web hook takes along: nothing of the current request."""

from collective.taskqueue import taskqueue
from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.task import Identity
from collective.taskqueue.testing import task_queue
from integration.capture.conftest import BASIC
from integration.capture.conftest import FORM
from integration.capture.conftest import FORM_TYPE
from integration.capture.conftest import headers
from integration.capture.conftest import URL
from plone.app.testing import TEST_USER_ID
import pytest
import transaction


HOOK = "https://example.org/hook"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://example.org/hook?a=1#fragment", "https://example.org/hook?a=1"),
        ("  HTTP://example.org  ", "http://example.org"),
        ("https://Example.org:8443/ä b?c=ö", "https://Example.org:8443/%C3%A4%20b?c=%C3%B6"),
        ("https://example.org/%2F%20?a=%26", "https://example.org/%2F%20?a=%26"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]/"),
    ],
)
def test_url_of_a_web_hook(added, given, expected):
    """C06, O12: never published as a path of that name."""
    task = added(given)
    assert (task.url, task.is_hook) == (expected, True)


def test_a_path_is_no_web_hook(added):
    """O12."""
    assert not added("/plone/http://example.org/").is_hook


def test_nothing_of_the_current_request_is_sent_away(added, current_request, without_plugin):
    """Its cookie least of all: neither headers nor body, nor where it came from."""
    current_request(
        "/",
        "PUT",
        FORM,
        CONTENT_TYPE=FORM_TYPE,
        HTTP_COOKIE="__ac=secret",
        HTTP_AUTHORIZATION=BASIC,
        HTTP_ACCEPT_LANGUAGE="fi",
        HTTP_X_CUSTOM="mine",
    )
    task = added(HOOK)
    assert (task.method, task.headers, task.payload, task.origin) == ("POST", (), b"", None)


def test_user_of_a_web_hook(added):
    """It may be seen and cancelled by who queued it."""
    assert added(HOOK).user == Identity("/plone/acl_users", TEST_USER_ID)


@pytest.mark.parametrize(
    ("method", "expected"), [(None, "POST"), ("get", "GET"), ("DELETE", "DELETE"), ("PUT", "PUT")]
)
def test_method_of_a_web_hook(added, method, expected):
    """O01."""
    assert added(HOOK, method).method == expected


@pytest.mark.parametrize("method", [None, "post"])
def test_params_of_a_web_hook_are_its_form(added, method):
    """O01: as a browser would post it."""
    task = added(f"{HOOK}?x=y", method, {"a": "ä b", "l": ["1", "2"]})
    assert (task.url, task.payload) == (f"{HOOK}?x=y", b"a=%C3%A4+b&l=1&l=2")
    assert headers(task) == {"Content-Type": FORM_TYPE}


@pytest.mark.parametrize(
    ("method", "payload"),
    [
        ("GET", {}),
        ("PUT", {}),
        ("DELETE", {}),
        ("POST", {"payload": b"x"}),
        ("POST", {"payload": None}),
    ],
)
def test_params_of_a_web_hook_are_its_query(added, method, payload):
    """O01: if the body is another one, or the method means none."""
    task = added(f"{HOOK}?x=y", method, {"a": "ä b"}, **payload)
    assert task.url == f"{HOOK}?x=y&a=%C3%A4+b"
    assert task.payload == (payload.get("payload") or b"")


@pytest.mark.parametrize("payload", [bytes(range(256)), bytearray(b"x"), memoryview(b"y")])
def test_payload_of_a_web_hook(added, payload):
    """N07: byte for byte."""
    task = added(HOOK, payload=payload, headers={"content-type": "application/x-thing"})
    assert task.payload == bytes(payload)
    assert headers(task) == {"content-type": "application/x-thing"}


def test_payload_of_a_web_hook_without_a_type(added):
    """C19."""
    assert headers(added(HOOK, payload="a=1")) == {"Content-Type": FORM_TYPE}


def test_own_headers_of_a_web_hook(added):
    """Credentials too: nothing else could prove to other people's servers who calls."""
    own = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Task-Id": "forged", "X-Up": True}
    task = added(HOOK, headers=own)
    assert headers(task) == {"Authorization": "Bearer x", "Cookie": "a=b", "X-Up": "true"}


def test_largest_payload_of_a_web_hook(functional):
    """Also if it is a form."""
    with task_queue("q", max_payload=10) as queue:
        taskqueue.add(HOOK, params={"a": "x" * 8}, queue="q")
        with pytest.raises(ValueError, match=r"max_payload \(10 bytes\)$"):
            taskqueue.add(HOOK, params={"a": "x" * 9}, queue="q")
        assert len(pending(queue)) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "no valid host"),
        ("http:example.org", "no valid host"),
        ("https:///path", "no valid host"),
        ("http://ex ample.org/", "no valid host"),
        ("http://ä.example.org/", "no valid host"),
        ("http://example.org:port/", "no url"),
        ("http://user@example.org/", "no user and no password"),
        ("https://user:secret@example.org/", "no user and no password"),
        ("http://example.org:22/", "port 22 is none of the web"),
        ("http://example.org:6379/", "port 6379 is none of the web"),
        ("http://example.org/\r\nX-A: b", "control characters"),
        ("ftp://example.org/", "ftp: urls cannot be queued"),
        ("gopher://example.org/", "gopher: urls cannot be queued"),
    ],
)
def test_bad_web_hook_joins_nothing(functional, url, message):
    """C04, C06: what can be told from the url is told at once."""
    with pytest.raises(ValueError, match=message):
        taskqueue.add(url)
    assert transaction.get()._resources == []


@pytest.mark.parametrize("url", ["http://localhost:9000/x", "http://10.1.2.3:9000/x"])
def test_a_port_that_is_allowed(functional, url):
    """By the allow_hosts of the queue, and of no other."""
    with task_queue("q", allow_hosts="localhost:9000 10.0.0.0/8") as queue:
        taskqueue.add(url, queue="q")
        assert [task.url for task in pending(queue)] == [url]
    with pytest.raises(ValueError, match="port 9000"):
        taskqueue.add(url, queue="default")


def test_options_of_a_web_hook(added):
    """N06, N41: patience is built in; a task of Zope has none of it."""
    task = added(HOOK)
    assert (task.max_attempts, task.timeout) == (36, 60.0)
    assert (task.backoff, task.min_backoff, task.max_backoff) == ("exponential", 2.0, 7200.0)
    task = added(URL)
    assert (task.max_attempts, task.timeout) == (1, None)


@pytest.mark.parametrize("url", [HOOK, URL])
def test_options_of_the_queue_win(functional, url):
    """And what the call says wins over them."""
    with task_queue("q", max_attempts=3, timeout=5.0) as queue:
        taskqueue.add(url, queue="q")
        taskqueue.add(url, queue="q", max_attempts=7, timeout=9)
        assert [(task.max_attempts, task.timeout) for task in pending(queue)] == [
            (3, 5.0),
            (7, 9.0),
        ]
