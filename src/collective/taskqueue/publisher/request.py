"""Publishes one task as one request of ZPublisher.

ZPublisher does traversal, authentication, browser layers, conflict retry and commit. This module
builds the environment, and limits what the request of a task may do.
"""

from __future__ import annotations

from AccessControl import getSecurityManager
from AccessControl.SecurityManagement import noSecurityManager
from collections.abc import Callable
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.response import clean
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.pasplugin.identity import identity_in
from collective.taskqueue.pasplugin.identity import identity_of
from collective.taskqueue.publisher.accesslog import log_attempt
from collective.taskqueue.publisher.address import forbidden_step
from collective.taskqueue.publisher.answer import Answer
from collective.taskqueue.publisher.answer import outcome_of
from collective.taskqueue.publisher.answer import Record
from collective.taskqueue.publisher.answer import record_of
from collective.taskqueue.publisher.redirects import login_pages
from collective.taskqueue.publisher.resolve import url_now
from collective.taskqueue.publisher.slot import SlotWriter
from collective.taskqueue.publisher.traversal import check_added_steps
from collective.taskqueue.publisher.traversal import check_place
from collective.taskqueue.publisher.traversal import is_object
from collective.taskqueue.publisher.traversal import Misplaced
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Origin
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from functools import partial
from io import BytesIO
from itertools import takewhile
from plone.protect.interfaces import IDisableCSRFProtection
from typing import Any
from urllib.parse import quote
from urllib.parse import unquote
from urllib.parse import urlsplit
from wsgiref.types import WSGIEnvironment
from zExceptions import Unauthorized
from zope.component import adapter
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import clearRequest
from zope.globalrequest import getRequest
from zope.interface import implementer
from zope.security.management import endInteraction
from zope.security.management import queryInteraction
from ZPublisher.HTTPRequest import WSGIRequest
from ZPublisher.HTTPResponse import WSGIResponse
from ZPublisher.interfaces import IPubAfterTraversal
from ZPublisher.interfaces import IPubBeforeCommit
from ZPublisher.interfaces import IPubFailure
from ZPublisher.WSGIPublisher import get_module_info
from ZPublisher.WSGIPublisher import load_app
from ZPublisher.WSGIPublisher import publish as publish_request
from ZPublisher.WSGIPublisher import publish_module
import logging
import random
import sys
import time
import transaction


logger = logging.getLogger("collective.taskqueue")

#: Name of the server and of the user agent of every task.
IDENT = "TaskQueueServer"

#: Key of the environment under which the attempt reaches the request and its retries.
ATTEMPT = "collective.taskqueue.consumer.attempt"

#: Key of the environment under which the `Answer` reaches the request and its retries.
ANSWER = "collective.taskqueue.publisher.answer"

#: Key of the environment under which the `SlotWriter` reaches the request and its retries.
WRITER = "collective.taskqueue.publisher.writer"

#: Longest pause in seconds before a request is retried after a conflict.
MAX_CONFLICT_PAUSE = 0.5

_ASCII = "".join(map(chr, range(128)))


@implementer(ITaskQueueLayer, IDisableCSRFProtection)
class TaskRequest(WSGIRequest):
    """The request of a task. Its interfaces are those of the class, so that a retry has them."""

    def __init__(self, stdin: Any, environ: Any, response: Any, clean: int = 0) -> None:
        super().__init__(stdin, environ, response, clean)
        self.attempt: Attempt = environ[ATTEMPT]
        self.writer: SlotWriter | None = environ.get(WRITER)
        # A view may traverse with a clone of the request: that path is not the url of the task.
        self._is_clone = bool(clean)
        #: Whether traversal has met the content object of the task; True if it has none.
        self.has_met_object = self.attempt.task.uid is None
        self.retry_max_count = self.attempt.retry_max_count
        origin = self.attempt.task.origin
        if origin is not None and origin.root is not None:
            # Virtual hosting sets it again, unless the path is outside of the root.
            self.other["VirtualRootPhysicalPath"] = tuple(origin.root.split("/"))

    def supports_retry(self) -> bool:
        """Return whether a conflict may be retried: not if the task has committed."""
        if self.writer is not None and not self.writer.may_be_retried():
            return False
        may_be_retried: bool = super().supports_retry()
        return may_be_retried

    def delay_retry(self) -> None:
        """Sleep for `MAX_CONFLICT_PAUSE` at most; ZPublisher's own delay grows to 17 minutes."""
        time.sleep(random.uniform(0, min(0.01 * 2**self.retry_count, MAX_CONFLICT_PAUSE)))

    def processInputs(self) -> None:
        """Read the form; raises `ForeignHost` if the form adds a forbidden step to the path."""
        super().processInputs()
        path = self.other.get("PATH_INFO")
        if path is not None:
            check_added_steps(path, self.environ.get("PATH_INFO", ""))

    def traverseName(self, ob: Any, name: str) -> Any:
        """Take one step of the url; raises `Misplaced` if the content was acquired."""
        found = super().traverseName(ob, name)
        if not self._is_clone:
            # Read afterwards: virtual hosting removes itself and its container from `PARENTS`.
            parents = self.other["PARENTS"]
            check_place(found, parents[-1] if parents else None, name)
            self.has_met_object = self.has_met_object or is_object(found, self.attempt.task.uid)
        return found


class TaskResponse(WSGIResponse):
    """The response of a task. No plugin of a user folder may challenge: a task cannot log in."""

    @property
    def _unauthorized(self) -> Callable[[], None]:
        return _no_challenge

    @_unauthorized.setter
    def _unauthorized(self, challenge: Any) -> None:
        """Ignore the challenge that each user folder on the path tries to set."""

    @_unauthorized.deleter
    def _unauthorized(self) -> None:
        pass


def _no_challenge() -> None:
    """Leave the response as it is: 401."""


def publish(attempt: Attempt) -> Outcome:
    """Publish the request of a task in this thread, and return its outcome.

    Raises nothing that the task raises. Leaves no request, user, site, interaction or
    transaction behind in the thread. Called by the consumer.
    """
    clock = time.perf_counter()
    outcome = _refused(attempt.task) or _published(attempt)
    log_attempt(attempt, outcome, time.perf_counter() - clock)
    return outcome


def _refused(task: Task) -> Outcome | None:
    """Return the outcome of a task that must not be published; None if it may be."""
    step = forbidden_step(task.url)
    if step is None:
        return None
    reason = f"its url has the step {step}, which would choose the public host, refused"
    return Outcome(None, clean(reason), verdict="discard", started=time.time())


def _published(attempt: Attempt) -> Outcome:
    answer = Answer()
    writer = _slot_writer(attempt)
    started = time.time()
    clock = time.perf_counter()
    try:
        environ = make_environ(attempt, _url_now(attempt.task))
        environ |= {ANSWER: answer, WRITER: writer}
        answer.read(
            publish_module(
                environ,
                answer.start,
                _publish=_publish_task,
                _request_factory=TaskRequest,
                _response_factory=TaskResponse,
            )
        )
    except BaseException as exc:
        # BaseException, for SystemExit: a view must not be able to stop a consumer.
        answer.status = None
        if attempt.failure is None:
            attempt.failure = exc
    finally:
        _clean_up()
        if writer is not None:
            transaction.manager.unregisterSynch(writer)
    seconds = time.perf_counter() - clock
    used = writer is not None and writer.is_used
    outcome = outcome_of(attempt.task, answer, attempt.failure, started, seconds, used)
    attempt.failure = None
    return outcome if writer is None else writer.result(outcome)


def _slot_writer(attempt: Attempt) -> SlotWriter | None:
    """Return what adds the slot of the attempt to its transaction, registered; None without."""
    if attempt.slot is None:
        return None
    writer = SlotWriter(attempt.slot, attempt.task, attempt.number)
    transaction.manager.registerSynch(writer)
    return writer


def current_attempt() -> Attempt | None:
    """Return the attempt whose task runs in this thread; None outside of a task."""
    request = getRequest()
    return request.attempt if isinstance(request, TaskRequest) else None


def _url_now(task: Task) -> str:
    """Return the url of a task; its path is where the content object of the task is now."""
    if task.uid is None:
        return task.url
    with load_app(get_module_info("Zope2")) as (root, _, _):
        return url_now(root, task)


def make_environ(attempt: Attempt, url: str | None = None) -> WSGIEnvironment:
    """Return the WSGI environment of the request of a task, by default for its own url."""
    task = attempt.task
    path, _, query = (task.url if url is None else url).partition("?")
    environ: WSGIEnvironment = {
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


def _place(environ: WSGIEnvironment, origin: Origin) -> None:
    """Set the host and virtual root, so that `absolute_url()` is as it was when queued."""
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
    """Return the rest of the path below the root; None if the path is not below the root."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    above = [name for name in root.split("/") if name]
    same = list(takewhile(lambda pair: pair[0] == pair[1], zip(names, above, strict=False)))
    if len(same) < len(above) or ".." in names:
        return None
    return "/".join(names[len(above) :])


def _publish_task(request: WSGIRequest, module_info: Any) -> Any:
    """Traverse, authenticate and call the view: the part that may be interrupted.

    The rest of a request must not be interrupted: an exception view, the commit or the abort,
    the return of the connection to its pool.
    """
    attempt: Attempt = request.attempt
    try:
        response = attempt.call(publish_request, request, module_info)
        if 300 <= response.status < 400:
            # Here, because the site is still set.
            request.environ[ANSWER].logins = login_pages()
        return response
    except Exception:
        raise
    except BaseException as exc:
        # ZPublisher publishes no event for these. Without an exception view it fails at the end
        # of the request, with an exception that is not the cause.
        attempt.failure = exc
        raise


def _clean_up() -> None:
    # The publisher leaves the user for the next request to clear, and whatever else it had
    # open when the exception of the view ended it.
    try:
        # Checked like in Zope's own publisher: `abort` would create a transaction first.
        if transaction.manager.manager._txn is not None:
            transaction.abort()
    except Exception:
        logger.exception("a data manager of a finished task could not abort, ignored")
    noSecurityManager()
    if getSite() is not None:
        setSite(None)
    clearRequest()
    if queryInteraction() is not None:
        endInteraction()


@adapter(IPubAfterTraversal)
def check_object(event: IPubAfterTraversal) -> None:
    """Raise `Misplaced` if the url leads past the content object that the task was added for.

    A folder may use the id of an object for something of its own: its type may define `view`
    as an alias. Then the task would act on the folder.
    """
    if isinstance(event.request, TaskRequest) and not event.request.has_met_object:
        path = event.request.attempt.task.url.partition("?")[0]
        raise Misplaced(f"{path} leads past the object of the task, to something else")


@adapter(IPubAfterTraversal)
def check_identity(event: Any) -> None:
    """Raise `Unauthorized` unless the task is authenticated as the user that queued it.

    A task never runs as another user, nor as Anonymous because its user is gone.
    """
    if not isinstance(event.request, TaskRequest):
        return
    expected = event.request.attempt.task.user
    if expected is None:
        return
    if _current_identity() != expected:
        raise Unauthorized(_unknown_user(event.request, expected) or _GONE.format(expected))


def _current_identity() -> Identity | None:
    return identity_of(getSecurityManager().getUser())


#: Messages: user deleted / user deleted and id reused / user unknown at this path.
_GONE = "queued by {0.id} of {0.folder}, who cannot be authenticated any more"
_REPLACED = "queued by {0.id} of {0.folder}, who was deleted; another user has that id now"
_ELSEWHERE = "queued by {0.id} of {0.folder}, whose users are not known at {1}"


def _unknown_user(request: TaskRequest, user: Identity) -> str:
    """Return why the task cannot be authenticated as this user; empty if known here."""
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


@adapter(IPubBeforeCommit)
def note_view_done(event: IPubBeforeCommit) -> None:
    """Tell the slot of the task that the view is done: what is committed next is all of it."""
    request = event.request
    if isinstance(request, TaskRequest) and request.writer is not None:
        # Later: most tasks need no connection, and other subscribers may change the response.
        request.writer.connection = partial(_connection_of, request)
        request.writer.answer = partial(_record_so_far, request)


def _connection_of(request: TaskRequest) -> Any:
    return request.other["PARENTS"][-1]._p_jar


def _record_so_far(request: TaskRequest) -> Record:
    logins = request.environ[ANSWER].logins
    return record_of(request.response, logins, request.attempt.started)


@adapter(IPubAfterTraversal)
def begin_task(event: Any) -> None:
    """Let the task be interrupted from here on: the view is found and is called next."""
    if isinstance(event.request, TaskRequest):
        event.request.attempt.interruptible()


def no_tokens(published: Any, request: WSGIRequest) -> None:
    """Replace the transform that puts CSRF tokens into pages, and do nothing.

    The forms of a page that a task renders are never submitted, and tokens of its user must
    not be stored in a queue with its result.
    """


@adapter(IPubFailure)
def remember_failure(event: IPubFailure) -> None:
    """Keep the exception that an exception view has turned into a page.

    An unknown user is unauthorized in any case: then the reason says that the user is unknown.
    """
    if not isinstance(event.request, TaskRequest) or event.retry:
        return
    failure, user = event.exc_info[1], event.request.attempt.task.user
    if isinstance(failure, Unauthorized) and user is not None and _current_identity() != user:
        reason = _unknown_user(event.request, user)
        failure = Unauthorized(reason).with_traceback(failure.__traceback__) if reason else failure
    event.request.attempt.failure = failure
