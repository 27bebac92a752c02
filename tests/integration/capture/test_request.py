"""What a task takes along of the current request, and what of the call."""

from collective.taskqueue import taskqueue
from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.testing import task_queue
from integration.capture.conftest import FORM
from integration.capture.conftest import FORM_TYPE
from integration.capture.conftest import headers
from integration.capture.conftest import URL
from zope.globalrequest import setRequest
import io
import pytest
import transaction
import zope.publisher.browser


def test_a_request_of_another_publisher_is_none(added):
    """As an add-on's own tests may have it."""
    setRequest(zope.publisher.browser.TestRequest(environ={"HTTP_X_CUSTOM": "mine"}))
    task = added()
    assert (task.headers, task.payload, task.origin) == ((), b"", None)


@pytest.mark.parametrize("name", ["Accept-Language", "accept-language", "ACCEPT_LANGUAGE"])
def test_own_headers_win(added, current_request, name):
    """C13, D44: in any case of the name, and there is one value only."""
    current_request(HTTP_ACCEPT_LANGUAGE="fi")
    assert added(headers={name: "sv"}).headers == ((name, "sv"),)


def test_own_headers_of_one_name(added):
    """D44."""
    assert added(headers={"X-A": "1", "x-a": "2", "x_a": "3"}).headers == (("x_a", "3"),)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, "true"), (False, "false"), (3, "3"), ("ä€", "ä€"), (" a:b ", "a:b"), ("a\tb", "a\tb")],
)
def test_values_of_own_headers(added, value, expected):
    """C14, C15."""
    assert headers(added(headers={"X-A": value})) == {"X-A": expected}


@pytest.mark.parametrize("value", ["", "   "])
def test_empty_own_headers_are_dropped(added, value):
    """C15."""
    assert added(headers={"X-A": value}).headers == ()


@pytest.mark.parametrize(
    "name",
    ["X-Task-User-Id", "x-task-user-id", "X_Task_User_Id", "x-TASK_user-ID", "X-Task-Anything"],
)
def test_own_task_headers_are_dropped(added, name):
    """C03, D01: they are the publisher's to set."""
    assert added(headers={name: "admin"}).headers == ()


def test_arguments_are_not_changed(added, current_request, portal):
    """C26, D40."""
    current_request(HTTP_ACCEPT_LANGUAGE="fi", HTTP_COOKIE="a=b")
    own = {"X-A": " 1 ", "X-Task-Id": "x", "Content-Type": "text/plain"}
    params = {"l": ["1", "2"]}
    payload = bytearray(b"abc")
    task = added(params=params, headers=own, payload=payload)
    assert own == {"X-A": " 1 ", "X-Task-Id": "x", "Content-Type": "text/plain"}
    assert params == {"l": ["1", "2"]}
    payload[0] = 0
    assert task.payload == b"abc"


# payload


@pytest.mark.parametrize("own", ["POST", "PUT", "patch"])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
def test_body_of_the_current_request(added, current_request, method, own):
    """C17: with its type; and the request can still read it."""
    request = current_request("/", method, FORM, CONTENT_TYPE=f"{FORM_TYPE}; charset=utf-8")
    request.stdin.seek(2)
    task = added(method=own)
    assert task.payload == FORM
    assert headers(task) == {"Content-Type": f"{FORM_TYPE}; charset=utf-8"}
    assert request.stdin.tell() == 2


def test_encoded_body_of_the_current_request(added, current_request):
    current_request("/", "PUT", b"\x1f", CONTENT_TYPE="text/plain", HTTP_CONTENT_ENCODING="gzip")
    task = added(method="POST")
    assert headers(task) == {"Content-Type": "text/plain", "Content-Encoding": "gzip"}


def test_body_of_the_current_request_with_an_own_type(added, current_request):
    current_request("/", "POST", FORM, CONTENT_TYPE=FORM_TYPE)
    task = added(method="POST", headers={"content-type": "text/plain"})
    assert headers(task) == {"content-type": "text/plain"}


def test_post_from_a_request_without_a_body(added, current_request):
    """C20."""
    current_request("/", CONTENT_TYPE="", CONTENT_LENGTH="")
    task = added(method="POST")
    assert (task.method, task.payload, task.headers) == ("POST", b"", ())


@pytest.mark.parametrize("length", ["", "0", "-1", "many"])
def test_body_without_a_length_is_none(added, current_request, length):
    """Nothing is read that may never come."""
    request = current_request("/", "GET", FORM)
    request._orig_env["CONTENT_LENGTH"] = length
    assert added(method="POST").payload == b""


def test_body_that_cannot_be_read_twice(added, current_request):
    class Socket(io.BytesIO):
        def seekable(self):
            return False

    request = current_request("/", "POST", FORM, CONTENT_TYPE="text/plain")
    request.stdin = Socket(FORM)
    assert added(method="POST").payload == b""
    assert request.stdin.read() == FORM


class Plain:
    """All that a WSGI server has to offer: no `seekable`, no `tell`."""

    def __init__(self, body):
        self._body = io.BytesIO(body)
        self.read = self._body.read


class Rewindable(Plain):
    """All that Zope needs for a retry."""

    def __init__(self, body):
        super().__init__(body)
        self.seek = self._body.seek


@pytest.mark.parametrize(("stream", "payload"), [(Plain, b""), (Rewindable, FORM)])
def test_body_in_a_stream_that_can_do_little(added, current_request, stream, payload):
    """C17: it is copied if that can be done, and it can still be read afterwards."""
    request = current_request("/", "POST", FORM, CONTENT_TYPE="text/plain")
    request.stdin = stream(FORM)
    assert added(method="POST").payload == payload
    assert request.stdin.read() == FORM


def test_no_payload(added, current_request):
    """C18."""
    current_request("/", "POST", FORM, CONTENT_TYPE=FORM_TYPE)
    task = added(method="POST", payload=None)
    assert (task.payload, task.headers) == (b"", ())


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"\xff\0", b"\xff\0"),
        ("ä", "ä".encode()),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
    ],
)
def test_own_payload(added, current_request, payload, expected):
    """C12, C19, D43: nothing of the current body, and a type that Zope parses."""
    current_request("/", "POST", FORM, CONTENT_TYPE="text/plain", HTTP_CONTENT_ENCODING="gzip")
    task = added(method="POST", payload=payload)
    assert task.payload == expected
    assert headers(task) == {"Content-Type": FORM_TYPE}


def test_own_payload_with_an_own_type(added):
    """C19."""
    own = {"Content-Type": "application/json", "Content-Length": "999"}
    task = added(method="POST", payload=b"{}", headers=own)
    assert headers(task) == {"Content-Type": "application/json"}


def test_largest_payload(functional):
    with task_queue("q", max_payload=10) as queue:
        taskqueue.add(URL, payload=b"x" * 10, queue="q")
        with pytest.raises(ValueError, match=r"max_payload \(10 bytes\)"):
            taskqueue.add(URL, payload=b"x" * 11, queue="q")
        assert len(pending(queue)) == 1


def test_current_body_that_is_too_large(functional, current_request):
    current_request("/", "POST", b"x" * 11, CONTENT_TYPE="text/plain")
    message = "body of the current request; payload=None leaves it out"
    with task_queue("q", max_payload=10), pytest.raises(ValueError, match=message):
        taskqueue.add(URL, "PUT", queue="q")
    assert transaction.get()._resources == []


@pytest.mark.parametrize("method", [None, "GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_method_that_means_no_body_takes_none_along(added, current_request, method, size):
    """A subscriber adds a task while a user uploads a file: the task gets nothing of the file."""
    current_request("/", "POST", b"x" * size, CONTENT_TYPE="text/plain")
    task = added(method=method)
    assert (task.payload, task.headers) == (b"", ())
    assert added(method=method, payload="mine").payload == b"mine"
