"""One task as one request of Zope's own publisher, through the front door.

Traversal, authentication, browser layers, conflict retry and commit are ZPublisher's; here
the environment is built, and an outcome is made of what comes back: a status, an exception
or both.
"""

from __future__ import annotations

from AccessControl import getSecurityManager
from AccessControl.SecurityManagement import noSecurityManager
from collections.abc import Iterable
from collective.taskqueue.attempt import Attempt
from collective.taskqueue.errors import Cancelled
from collective.taskqueue.errors import described
from collective.taskqueue.errors import Discard
from collective.taskqueue.errors import RetryLater
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.identity import identity_in
from collective.taskqueue.identity import identity_of
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.language import LANGUAGE_COOKIE
from collective.taskqueue.resolve import url_now
from collective.taskqueue.response import clean
from collective.taskqueue.response import MAX_BODY
from collective.taskqueue.response import recorded
from collective.taskqueue.response import retry_after
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Origin
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from io import BytesIO
from itertools import takewhile
from plone.protect.interfaces import IDisableCSRFProtection
from typing import Any
from urllib.parse import quote
from urllib.parse import unquote
from urllib.parse import urlsplit
from zExceptions import HTTPException
from zExceptions import Unauthorized
from zExceptions import upgradeException
from zope.component import adapter
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import clearRequest
from zope.globalrequest import getRequest
from zope.interface import implementer
from zope.security.management import endInteraction
from zope.security.management import queryInteraction
from ZPublisher.HTTPRequest import WSGIRequest
from ZPublisher.interfaces import IPubAfterTraversal
from ZPublisher.interfaces import IPubFailure
from ZPublisher.WSGIPublisher import get_module_info
from ZPublisher.WSGIPublisher import load_app
from ZPublisher.WSGIPublisher import publish as publish_request
from ZPublisher.WSGIPublisher import publish_module
import logging
import random
import sys
import time
import traceback
import transaction


logger = logging.getLogger("collective.taskqueue")
access = logging.getLogger("collective.taskqueue.access")

#: Name of the server and of the user agent of every task.
IDENT = "TaskQueueServer"

#: Key of the environment under which the attempt reaches the request and its retries.
ATTEMPT = "collective.taskqueue.attempt"

#: Characters of a traceback that are kept.
MAX_ERROR = 16 * 1024

#: Characters of a reason that are kept: room for where a task is redirected to, and why.
LONGEST_REASON = 2000

#: Longest pause in seconds before a request is retried after a conflict.
MAX_CONFLICT_PAUSE = 0.5

_ASCII = "".join(map(chr, range(128)))


@implementer(ITaskQueueLayer, IDisableCSRFProtection)
class TaskRequest(WSGIRequest):
    """The request of a task. Marked as a class, so that it survives a retry."""

    def __init__(self, stdin: Any, environ: Any, response: Any, clean: int = 0) -> None:
        super().__init__(stdin, environ, response, clean)
        self.attempt: Attempt = environ[ATTEMPT]
        self.retry_max_count = self.attempt.retry_max_count
        origin = self.attempt.task.origin
        if origin is not None:
            if origin.language is not None:
                self.cookies.setdefault(LANGUAGE_COOKIE, origin.language)
            if origin.root is not None:
                # Virtual hosting sets it again, unless the path is outside of the root.
                self.other["VirtualRootPhysicalPath"] = tuple(origin.root.split("/"))

    def delay_retry(self) -> None:
        """Sleep a moment; ZPublisher's own delay grows up to 17 minutes."""
        time.sleep(random.uniform(0, min(0.01 * 2**self.retry_count, MAX_CONFLICT_PAUSE)))


def publish(attempt: Attempt) -> Outcome:
    """Make the request of a task in this thread and return its outcome.

    Raises nothing that the task raises. Afterwards the thread is as clean as before: no
    request, user, site, interaction or transaction is left. Called by the consumer.
    """
    task = attempt.task
    answer = _Answer()
    started = time.time()
    clock = time.perf_counter()
    try:
        environ = make_environ(attempt, _url_now(task))
        answer.read(
            publish_module(
                environ, answer.start, _publish=_publish_task, _request_factory=TaskRequest
            )
        )
    except BaseException as exc:
        # Also SystemExit: a view must not be able to stop a consumer.
        answer.status = None
        if attempt.failure is None:
            attempt.failure = exc
    finally:
        _clean_up()
    seconds = time.perf_counter() - clock
    outcome = _outcome(task, answer, attempt.failure, started, seconds)
    attempt.failure = None
    access.info(
        'task %s: "%s %s" %s %.3f s, attempt %d, user %s',
        task.id,
        task.method,
        task.url,
        outcome.status,
        seconds,
        attempt.number,
        task.user.id if task.user else "-",
    )
    return outcome


def current_attempt() -> Attempt | None:
    """Return the attempt whose task runs in this thread; None outside of a task."""
    request = getRequest()
    return request.attempt if isinstance(request, TaskRequest) else None


def _url_now(task: Task) -> str:
    """Return the url of a task; the path is that of its content object, wherever it is now."""
    if task.uid is None:
        return task.url
    with load_app(get_module_info("Zope2")) as (root, _, _):
        return url_now(root, task)


def make_environ(attempt: Attempt, url: str | None = None) -> dict[str, Any]:
    """Return the WSGI environment of the request of a task, by default for its own url."""
    task = attempt.task
    path, _, query = (task.url if url is None else url).partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": task.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path, errors="strict"),
        "QUERY_STRING": quote(query, safe=_ASCII),
        "SERVER_NAME": "nohost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": IDENT,
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_USER_AGENT": IDENT,
        "CONTENT_LENGTH": str(len(task.payload)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(task.payload),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        ATTEMPT: attempt,
    }
    if task.origin is not None:
        _place(environ, task.origin)
    for name, value in task.headers:
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    environ |= {
        "HTTP_X_TASK_ID": task.id,
        "HTTP_X_TASK_QUEUE": task.queue,
        "HTTP_X_TASK_ATTEMPT": str(attempt.number),
        "HTTP_X_TASK_MAX_ATTEMPTS": str(task.max_attempts),
    }
    if task.user is not None:
        environ["HTTP_X_TASK_USER_ID"] = task.user.id
    # WSGI wants the bytes of the path as latin-1.
    environ["PATH_INFO"] = environ["PATH_INFO"].encode("utf-8").decode("latin-1")
    return environ


def _place(environ: dict[str, Any], origin: Origin) -> None:
    """Make `absolute_url()` what it was where the task was queued."""
    parts = urlsplit(origin.server_url)
    environ["HTTP_HOST"] = parts.netloc
    environ["SERVER_NAME"] = parts.hostname or "nohost"
    environ["SERVER_PORT"] = str(parts.port or (443 if parts.scheme == "https" else 80))
    environ["wsgi.url_scheme"] = parts.scheme
    inside = None if origin.root is None else _below(environ["PATH_INFO"], origin.root)
    if inside is None:
        environ["SCRIPT_NAME"] = quote(origin.script)
        return
    names = [name for name in origin.script.split("/") if name]
    prefix = ["", "VirtualHostBase", parts.scheme, parts.netloc]
    prefix += [name for name in (origin.root or "").split("/") if name]
    prefix += ["VirtualHostRoot", *(f"_vh_{name}" for name in names)]
    environ["PATH_INFO"] = f"{'/'.join(prefix)}/{inside}"


def _below(path: str, root: str) -> str | None:
    """The rest of the path below the root; None if it is not below."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    above = [name for name in root.split("/") if name]
    same = list(takewhile(lambda pair: pair[0] == pair[1], zip(names, above, strict=False)))
    if len(same) < len(above) or ".." in names:
        return None
    return "/".join(names[len(above) :])


class _Answer:
    """What a WSGI application answers, read up to a limit."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: tuple[tuple[str, str], ...] = ()
        self.body = b""
        self.truncated = False

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        self.status = int(status.split(" ", 1)[0])
        self.headers = tuple(headers)

    def read(self, chunks: Iterable[bytes]) -> None:
        try:
            body = bytearray()
            for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY:
                    self.truncated = True
                    break
            self.body = bytes(body[:MAX_BODY])
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()


def _publish_task(request: Any, module_info: Any) -> Any:
    """Traverse, authenticate and call the view: the part that may be interrupted.

    What comes after it may not: an exception view, the commit or the abort, the return of
    the connection to its pool.
    """
    attempt: Attempt = request.attempt
    try:
        return attempt.call(publish_request, request, module_info)
    except Exception:
        raise
    except BaseException as exc:
        # ZPublisher tells nobody of these, and without an exception view it stumbles over
        # them at the end of the request: what it raises there is not the cause.
        attempt.failure = exc
        raise


def _outcome(
    task: Task, answer: _Answer, failure: BaseException | None, started: float, seconds: float
) -> Outcome:
    headers, cut = recorded(answer.headers)
    status = answer.status
    wait = retry_after(answer.headers, started + seconds, task.max_backoff)
    verdict = ""
    if failure is None:
        reason = _reason(status, headers)
    else:
        reason = described(failure)
        if status is None or 200 <= status < 300:
            status = _status_of(failure)
        elif 300 <= status < 400:
            reason = f"{_reason(status, headers)} ({reason})"
        if isinstance(failure, TaskTimeout) and task.timeout is not None:
            # The interruption itself carries no message.
            reason = f"TaskTimeout: the task took more than {task.timeout:g} s"
        elif isinstance(failure, RetryLater):
            verdict = "retry"
            wait = failure.seconds if failure.seconds is not None else wait
        elif isinstance(failure, (Discard, Cancelled)):
            verdict = "discard"
    return Outcome(
        status=status,
        reason=clean(reason, LONGEST_REASON),
        headers=headers,
        body=answer.body,
        truncated=answer.truncated or cut,
        error=_traceback(failure),
        retry_after=wait,
        verdict=verdict,  # type: ignore[arg-type]
        started=started,
        seconds=seconds,
    )


def _reason(status: int | None, headers: Iterable[tuple[str, str]]) -> str:
    if status is None:
        return "no response"
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        location = {name.lower(): value for name, value in headers}.get("location", "?")
        return f"status {status}, redirected to {location}, not followed"
    return f"status {status}"


def _status_of(failure: BaseException) -> int:
    # Without an exception view the publisher raises; a server would answer this.
    kind, _ = upgradeException(failure.__class__, None)
    if isinstance(kind, type) and issubclass(kind, HTTPException):
        return int(getattr(kind, "status", None) or kind().getStatus())
    return 500


def _traceback(failure: BaseException | None) -> str:
    if failure is None:
        return ""
    text = "".join(traceback.format_exception(failure))
    return text if len(text) <= MAX_ERROR else f"…{text[-MAX_ERROR:]}"


def _clean_up() -> None:
    # The publisher leaves the user behind for the next request to clear, and whatever it
    # was doing when the view tore it apart.
    try:
        # Asked like Zope's own publisher does: to abort none, one would have to be made.
        if transaction.manager.manager._txn is not None:
            transaction.abort()
    except Exception:
        logger.exception("a data manager that a task left behind could not abort, ignored")
    noSecurityManager()
    if getSite() is not None:
        setSite(None)
    clearRequest()
    if queryInteraction() is not None:
        endInteraction()


@adapter(IPubAfterTraversal)
def check_identity(event: Any) -> None:
    """Raise `Unauthorized` unless the task is authenticated as who queued it.

    Never as another user, nor as Anonymous because the user is gone.
    """
    if not isinstance(event.request, TaskRequest):
        return
    expected = event.request.attempt.task.user
    if expected is None:
        return
    if _current_identity() != expected:
        raise Unauthorized(_stranger(event.request, expected) or _GONE.format(expected))


def _current_identity() -> Identity | None:
    return identity_of(getSecurityManager().getUser())


#: Said of who is gone, and of who never was where the task is.
_GONE = "queued by {0.id} of {0.folder}, who cannot be authenticated any more"
_REPLACED = "queued by {0.id} of {0.folder}, who was deleted since; who has that id now is another"
_ELSEWHERE = "queued by {0.id} of {0.folder}, whose users are not known at {1}"


def _stranger(request: TaskRequest, user: Identity) -> str:
    """Why the task could not be authenticated as this user; empty if they are known here."""
    parents = [item for item in request.get("PARENTS", ()) if hasattr(item, "getPhysicalPath")]
    if not parents:
        return ""
    site = user.folder.rpartition("/")[0]
    if site and site not in ("/".join(item.getPhysicalPath()) for item in parents):
        return _ELSEWHERE.format(user, request.attempt.task.url.partition("?")[0])
    folder = parents[-1].getPhysicalRoot().unrestrictedTraverse(user.folder, None)
    if folder is None or folder.getUserById(user.id) is None:
        return _GONE.format(user)
    return "" if identity_in(folder, user.id) == user else _REPLACED.format(user)


@adapter(IPubAfterTraversal)
def begin_task(event: Any) -> None:
    """The view is found and is called next: from here on it may be interrupted."""
    if isinstance(event.request, TaskRequest):
        event.request.attempt.interruptible()


def no_tokens(published: Any, request: Any) -> None:
    """Take the place of the transform that puts CSRF tokens into pages, and do nothing.

    Nobody submits the forms of a page that a task renders, and tokens of its user must not
    lie in a queue with its result.
    """


@adapter(IPubFailure)
def remember_failure(event: Any) -> None:
    """Keep the exception that an exception view has turned into a page.

    Who is not known is not authorized either, and that is what people should be told.
    """
    if not isinstance(event.request, TaskRequest) or event.retry:
        return
    failure, user = event.exc_info[1], event.request.attempt.task.user
    if isinstance(failure, Unauthorized) and user is not None and _current_identity() != user:
        reason = _stranger(event.request, user)
        failure = Unauthorized(reason).with_traceback(failure.__traceback__) if reason else failure
    event.request.attempt.failure = failure
