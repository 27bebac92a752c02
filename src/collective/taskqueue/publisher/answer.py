"""The outcome of a task's request: from its response, or from what was raised in it."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collective.taskqueue.consumer.response import clean
from collective.taskqueue.consumer.response import kept
from collective.taskqueue.consumer.response import MAX_BODY
from collective.taskqueue.consumer.response import recorded
from collective.taskqueue.consumer.response import retry_after
from collective.taskqueue.errors import Cancelled
from collective.taskqueue.errors import described
from collective.taskqueue.errors import Discard
from collective.taskqueue.errors import RetryLater
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.publisher.accesslog import shown_url
from collective.taskqueue.publisher.redirects import leads_to_login
from collective.taskqueue.publisher.resolve import ObjectGone
from collective.taskqueue.publisher.traversal import ForeignHost
from collective.taskqueue.publisher.traversal import Misplaced
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from itertools import chain
from typing import Any
from zExceptions import HTTPException
from zExceptions import upgradeException
import time
import traceback


#: Most characters of a traceback that are kept.
MAX_ERROR = 16 * 1024

#: Most characters of a reason that are kept: room for the target of a redirect, and its cause.
LONGEST_REASON = 2000


#: Most bytes of a body that a slot keeps.
MAX_COMMITTED = 1024

#: What a slot keeps: status, headers, body, whether something is missing, login pages of the site,
#: start in seconds since the epoch, and duration in seconds.
Record = tuple[int, tuple[tuple[str, str], ...], bytes, bool, tuple[str, ...], float, float]


class Answer:
    """The answer of a WSGI application, read up to a limit. Used by the publisher."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: tuple[tuple[str, str], ...] = ()
        self.body = b""
        self.truncated = False
        #: The login pages of the site, if the view has ended with a redirect.
        self.logins: Collection[str] = ()

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        """Store status and headers; the `start_response` of the application."""
        self.status = int(status.split(" ", 1)[0])
        self.headers = tuple(headers)

    def read(self, chunks: Iterable[bytes]) -> None:
        """Store the body, and close it."""
        try:
            body = bytearray()
            for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY:
                    self.truncated = True
                    break
            self.body = kept(bytes(body[: MAX_BODY + 1]))
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()


def outcome_of(
    task: Task,
    answer: Answer,
    failure: BaseException | None,
    started: float,
    seconds: float,
    drops_slot: bool = False,
) -> Outcome:
    """Return the outcome of an attempt, from its answer or from what was raised.

    `started` is in seconds since the epoch, `seconds` is the duration; see `Outcome` for
    `drops_slot`.
    """
    headers, cut = recorded(answer.headers)
    status = answer.status
    wait = retry_after(answer.headers, started + seconds, task.max_backoff)
    verdict = ""
    if failure is None:
        reason = _reason(status, answer)
    else:
        # An exception view answers with a page about the error, not with the task's own result.
        if not isinstance(failure, HTTPException):
            wait = None
        status = _status_of(failure) or (status if status and status >= 400 else 500)
        reason = _reason_of(failure, task)
        if isinstance(failure, RetryLater):
            verdict = "retry"
            wait = failure.seconds if failure.seconds is not None else wait
        elif isinstance(failure, (Discard, Cancelled, Misplaced, ForeignHost, ObjectGone)):
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
        drops_slot=drops_slot,
        started=started,
        seconds=seconds,
    )


def record_of(response: Any, logins: Collection[str], started: float) -> Record:
    """Return what a slot keeps of a `WSGIResponse` before the commit: as it is, this is fast.

    `logins` are the login pages of the site, `started` is in seconds since the epoch. A body that
    is sent while it is made is not known yet.
    """
    headers, cut = recorded(chain(response.headers.items(), response.accumulated_headers))
    known = isinstance(response.body, bytes) and not response._streaming
    body = response.body[: MAX_COMMITTED + 1] if known else b""
    cut = cut or not known or len(body) > MAX_COMMITTED
    seconds = max(0.0, time.time() - started)
    status = response.status
    pages = tuple(logins) if 300 <= status < 400 else ()
    return status, headers, body[:MAX_COMMITTED], cut, pages, started, seconds


def outcome_of_record(task: Task, record: Record) -> Outcome:
    """Return the outcome of an attempt by the record in its slot.

    Raises `ValueError` for a record of another version.
    """
    answer = Answer()
    try:
        status, headers, answer.body, answer.truncated, answer.logins, started, seconds = record
        answer.start(f"{status} ", [(name.title(), value) for name, value in headers])
        return outcome_of(task, answer, None, started, seconds)
    except (TypeError, ValueError, AttributeError) as exc:
        raise ValueError(f"its record is of another version: {type(exc).__name__}") from exc


def _reason(status: int | None, answer: Answer) -> str:
    """Return why a response without an exception is a failure; empty if it is none."""
    if status is None:
        return "no response"
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        location = {name.lower(): value for name, value in answer.headers}.get("location", "")
        if not leads_to_login(location, answer.logins):
            return ""
        return f"status {status}, redirected to {shown_url(location)} to log in or confirm"
    return f"status {status}"


def _reason_of(failure: BaseException, task: Task) -> str:
    if isinstance(failure, TaskTimeout) and task.timeout is not None:
        # The exception of an interruption carries no message.
        return f"TaskTimeout: the task took more than {task.timeout:g} s"
    if isinstance(failure, (Misplaced, ForeignHost)):
        return str(failure)
    status = _status_of(failure)
    if status is not None and 300 <= status < 400:
        location = getattr(failure, "headers", {}).get("Location") or str(failure)
        raised = type(failure).__name__
        return f"{raised} raised, redirected to {shown_url(location)}, what it wrote is undone"
    return described(failure)


def _status_of(failure: BaseException) -> int | None:
    """Return the status that an exception stands for; None if it stands for none."""
    kind, _ = upgradeException(failure.__class__, None)
    if isinstance(failure, HTTPException):
        return int(failure.getStatus())
    if isinstance(kind, type) and issubclass(kind, HTTPException):
        return int(getattr(kind, "status", None) or kind().getStatus())
    return None


def _traceback(failure: BaseException | None) -> str:
    if failure is None:
        return ""
    text = "".join(traceback.format_exception(failure))
    return text if len(text) <= MAX_ERROR else f"…{text[-MAX_ERROR:]}"
