"""What is kept of a response, and what is logged of it."""

from collective.taskqueue.consumer import response
from integration.publisher.conftest import BASIC
from integration.publisher.conftest import raising
from plone.app.testing import TEST_USER_ID
from zExceptions import NotFound
from zExceptions import Redirect
from zope.interface import implementer
from ZPublisher.Iterators import IUnboundStreamIterator
import logging
import pytest


@pytest.mark.parametrize(
    ("size", "truncated"), [(response.MAX_BODY, False), (response.MAX_BODY + 1, True)]
)
def test_body_is_capped(run, view, size, truncated):
    """D24c."""
    done = run(view("large", lambda context, request: "x" * size))
    assert done.outcome.ok
    assert len(done.outcome.body) == response.MAX_BODY
    assert done.outcome.truncated is truncated
    assert (len(done.status.body), done.status.truncated) == (response.MAX_BODY, truncated)


def test_streamed_body(run, view):
    def stream(context, request):
        for _ in range(3):
            request.response.write(b"part ")

    assert run(view("stream", stream)).outcome.body == b"part part part "


@implementer(IUnboundStreamIterator)
class Endless:
    """A body without an end, which has to be closed."""

    def __init__(self):
        self.produced = 0
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        self.produced += 1
        return b"x" * 1024

    def close(self):
        self.closed = True


def test_response_is_closed(run, view):
    """And not read any further than is kept."""
    endless = Endless()
    done = run(view("endless", lambda context, request: endless))
    assert done.outcome.ok
    assert done.outcome.truncated
    assert endless.closed
    assert endless.produced <= response.MAX_BODY // 1024 + 1


def test_response_is_closed_after_an_error(run, view):
    class Broken(Endless):
        def __next__(self):
            raise OSError("disk on fire")

    broken = Broken()
    done = run(view("broken", lambda context, request: broken))
    assert broken.closed
    assert done.outcome.reason == "OSError: disk on fire"
    assert not done.outcome.ok


def test_secrets_of_the_response_are_not_recorded(run, view):
    def cookie(context, request):
        request.response.setCookie("__ac", "secret")
        request.response.setHeader("WWW-Authenticate", "basic realm=x")
        request.response.setHeader("X-Fine", "fine")

    done = run(view("cookie", cookie))
    for recorded in (done.outcome.headers, done.status.headers):
        names = {name.lower() for name, _ in recorded}
        assert "x-fine" in names
        assert not names & {"set-cookie", "www-authenticate"}


def test_no_csrf_tokens_in_the_result(run, view, http):
    """They are secrets of the user; a page from outside has them in all of its forms."""

    def page(context, request):
        request.response.setHeader("Content-Type", "text/html; charset=utf-8")
        return "<html><body><form method='post' action='/'></form></body></html>"

    url = view("page", page)
    _, _, outside = http(url, HTTP_AUTHORIZATION=BASIC)
    assert b'name="_authenticator"' in outside
    done = run(url)
    assert done.task.user is not None
    assert b"<form" in done.outcome.body
    assert b"_authenticator" not in done.outcome.body


# log


def test_access_log(run, view, caplog):
    """C87, C88: one line for a task, and no other for a success."""
    caplog.set_level(logging.INFO, "collective.taskqueue")
    done = run(f"{view('fine', lambda context, request: 'fine')}?a=1", "POST")
    (record,) = [r for r in caplog.records if r.name == "collective.taskqueue.access"]
    assert record.args[:4] == (done.task.id, "POST", "/plone/@@fine?a", 200)
    assert record.args[5:] == (1, TEST_USER_ID)
    assert record.getMessage().startswith(f'task {done.task.id}: "POST /plone/@@fine?a" 200 0.')
    assert record.getMessage().endswith(f" s, attempt 1, user {TEST_USER_ID}")
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("broken"), "ValueError: broken, failed"),
        (NotFound("gone"), "NotFound: gone, failed"),
        (Redirect("/away?back=secret"), "redirected to /away?back, what it wrote"),
    ],
)
def test_failures_are_logged(run, view, caplog, error, text):
    """C87."""
    done = run(view("work", raising(error)))
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.name == "collective.taskqueue"
    assert record.getMessage().startswith(f"task {done.task.id}: ")
    assert text in record.getMessage()


def test_a_long_text_is_cut_before_a_character(run, view):
    text = "x" * (response.MAX_BODY - 1) + "€uro"
    done = run(view("page", lambda context, request: text))
    assert done.outcome.body == b"x" * (response.MAX_BODY - 1)
    assert done.outcome.truncated
