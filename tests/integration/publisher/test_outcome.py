"""What a view answers or raises decides what becomes of its task."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import Discard
from collective.taskqueue.errors import RetryLater
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.publisher import answer
from collective.taskqueue.testing import task_queue
from integration.publisher.conftest import raising
from integration.publisher.conftest import TIMEOUT
from plone.app.testing import logout
from zExceptions import NotFound
from zExceptions import Redirect
from zExceptions import Unauthorized
import pytest
import time
import transaction


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("broken"), 500, "ValueError: broken"),
        (NotFound("gone"), 404, "NotFound: gone"),
        (Unauthorized("not for you"), 401, "Unauthorized: not for you"),
        (Redirect("http://nohost/elsewhere"), 302, "redirected to http://nohost/elsewhere"),
        (SystemExit(1), 500, "SystemExit: 1"),
        (KeyboardInterrupt(), 500, "KeyboardInterrupt"),
        (GeneratorExit("x"), 500, "GeneratorExit: x"),
        (MemoryError(), 500, "MemoryError"),
    ],
)
@pytest.mark.parametrize("place", ["/plone", ""])
def test_exceptions(run, view, error, status, reason, place):
    """C87, D06: with an exception view and without one; never a success."""
    view("work", raising(error))
    logout()
    done = run(f"{place}/@@work")
    assert done.outcome.status == status
    assert reason in done.outcome.reason
    assert type(error).__name__ in done.outcome.error
    assert (done.outcome.ok, done.status.state) == (False, "failed")


def test_exception_without_an_exception_view(run, view, monkeypatch):
    """C87: the publisher raises, a server would answer with a status."""
    monkeypatch.setattr("ZPublisher.WSGIPublisher._exc_view_created_response", lambda *args: False)
    view("broken", raising(ValueError("broken")))
    view("missing", raising(NotFound("gone")))
    broken, missing = run("/plone/@@broken"), run("/plone/@@missing")
    assert (broken.outcome.status, broken.outcome.reason) == (500, "ValueError: broken")
    assert (missing.outcome.status, missing.outcome.reason) == (404, "NotFound: gone")
    assert broken.outcome.body == b""


def test_status_that_is_set(run, view):
    """C87."""

    def teapot(context, request):
        request.response.setStatus(418)
        return "short and stout"

    done = run(view("teapot", teapot))
    assert (done.outcome.status, done.outcome.reason) == (418, "status 418")
    assert done.outcome.body == b"short and stout"


@pytest.mark.parametrize(
    ("status", "state"), [(302, "succeeded"), (404, "failed"), (503, "failed")]
)
def test_status_that_is_set_aborts_nothing(run, view, portal, status, state):
    """As in any request: what it wrote and added is there, also if the task fails."""
    child = view("child", lambda context, request: "")

    def work(context, request):
        context.half = True
        taskqueue.add(child, delay=3600)
        request.response.setStatus(status)
        request.response.setHeader("Location", "/elsewhere")

    done = run(view("work", work))
    assert done.status.state == state
    assert portal.aq_base.half
    assert len(taskqueue.tasks(state="scheduled")) == 1


def test_doomed_transaction_is_a_success(run, view, portal):
    """As in any request: it was the view's wish that nothing is written, and no task added."""

    def work(context, request):
        context.half = True
        taskqueue.add("/plone/@@never")
        transaction.doom()
        return "looked, and left everything as it was"

    done = run(view("work", work))
    assert done.status.state == "succeeded"
    assert not hasattr(portal.aq_base, "half")
    assert len(taskqueue.tasks()) == 1


@pytest.mark.parametrize("failure", [ValueError, NotFound])
def test_reason_is_one_line_and_not_too_long(run, view, failure):
    """It stands in lists and in logs; the traceback has room for more."""
    done = run(view("work", raising(failure("first\r\n second\x00 " + "x" * 1_000_000))))
    reason = done.status.reason
    assert reason.startswith(f"{failure.__name__}: first second\ufffd xxx")
    assert len(reason) == 2000
    assert done.status.attempts[0].reason == reason


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_success(run, view, status):
    """N36, T08: not 200 alone."""

    def work(context, request):
        request.response.setStatus(status)
        return "body"

    done = run(view("work", work))
    assert (done.outcome.status, done.status.state) == (status, "succeeded")


def test_failing_commit_is_no_success(run, view, portal):
    """The response was ready; but what it says was not saved."""

    def work(context, request):
        context.half = True
        transaction.get().addBeforeCommitHook(raising(ValueError("late")), (None, None))
        return "all is well"

    done = run(view("work", work))
    assert not done.outcome.ok
    assert done.outcome.reason == "ValueError: late"
    assert not hasattr(portal.aq_base, "half")


def test_retry_after_of_the_response(run, view):
    def busy(context, request):
        request.response.setStatus(429)
        request.response.setHeader("Retry-After", "120")

    done = run(view("busy", busy), max_attempts=2)
    assert done.outcome.retry_after == 120
    assert done.status.state == "scheduled"
    assert done.status.due == pytest.approx(done.outcome.started + 120, abs=TIMEOUT)


def test_retry_after_is_no_longer_than_the_queue_allows(run, view):
    """A view that answers so is not in charge; with `RetryLater` it is."""

    def busy(context, request):
        request.response.setStatus(429)
        request.response.setHeader("Retry-After", "99999999")

    done = run(view("busy", busy), max_attempts=2, max_backoff=60)
    assert done.status.due == pytest.approx(done.outcome.started + 60, abs=TIMEOUT)
    done = run(view("later", raising(RetryLater(9000))), max_attempts=2, max_backoff=60)
    assert done.status.due == pytest.approx(done.outcome.started + 9000, abs=TIMEOUT)


def test_statuses_of_the_queue(run, view):
    """N38, U31: which client errors are tried again is for the queue to say."""

    def answer(context, request):
        request.response.setStatus(int(request.form["status"]))

    url = view("answer", answer)
    with task_queue("patient", transient_statuses=(404,), max_attempts=2):
        for status, state in ((404, "scheduled"), (429, "failed"), (503, "scheduled")):
            done = run(url, params={"status": status}, queue="patient")
            assert (done.status.state, done.status.status) == (state, status)


def test_many_headers_of_the_response(run, view):
    """What is kept has a limit, and it is said that something is missing."""

    def talk(context, request):
        for number in range(20):
            request.response.setHeader(f"X-{number}", "x" * 1000)

    done = run(view("talk", talk))
    assert sum(len(name) + len(value) for name, value in done.status.headers) <= 16 * 1024
    assert done.status.truncated


def test_retry_later(run, view):
    done = run(view("work", raising(RetryLater(300, "not yet"))), max_attempts=2)
    assert (done.outcome.verdict, done.outcome.retry_after) == ("retry", 300)
    assert done.outcome.reason == "RetryLater: not yet"
    assert done.status.state == "scheduled"
    assert done.status.due == pytest.approx(done.outcome.started + 300, abs=TIMEOUT)


def test_discard(run, view):
    done = run(view("work", raising(Discard("pointless"))), max_attempts=5)
    assert done.outcome.verdict == "discard"
    assert (done.status.state, done.status.reason) == ("failed", "Discard: pointless")


@pytest.mark.parametrize("timeout", [None, 60])
def test_task_timeout_raised_by_hand(run, view, timeout):
    done = run(view("work", raising(TaskTimeout("by hand"))), timeout=timeout, max_attempts=2)
    assert done.outcome.reason.startswith("TaskTimeout")
    assert done.status.state == "scheduled"


def test_timeout(run, view, portal):
    """The view is interrupted, although it catches every `Exception`; nothing is committed."""

    def work(context, request):
        context.half = True
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            try:
                sum(range(100))
            except Exception:
                raise AssertionError("a timeout is no Exception") from None
        return "never interrupted"

    done = run(view("work", work), timeout=0.05)
    assert done.outcome.reason == "TaskTimeout: the task took more than 0.05 s"
    assert done.status.state == "failed"
    assert not hasattr(portal.aq_base, "half")


def test_traceback_is_capped(run, view):
    done = run(view("work", raising(ValueError("x" * 100_000))))
    assert len(done.outcome.error) == answer.MAX_ERROR + 1
    assert done.outcome.error.startswith("…")
