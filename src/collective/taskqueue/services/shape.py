"""The JSON that the services return for tasks, responses and consumers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection
from collections.abc import Iterable
from collective.taskqueue.services.keys import shown_key
from collective.taskqueue.services.reasons import HIDDEN
from collective.taskqueue.services.reasons import kind_of
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import Progress
from collective.taskqueue.task import Result
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from datetime import datetime
from datetime import UTC
from typing import Any
from typing import TYPE_CHECKING
import math


if TYPE_CHECKING:
    # The command line has the same words, and does not load Zope.
    from collective.taskqueue.services.access import Access


#: Task headers whose values are shown, in lower case. The value of any other may be a token.
SHOWN_HEADERS = frozenset(
    {
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "content-encoding",
        "content-language",
        "content-length",
        "content-type",
        "prefer",
        "traceparent",
        "x-request-id",
    }
)

#: The body of a response, before it becomes JSON.
Json = dict[str, Any]


def shown(status: TaskStatus, access: Access) -> tuple[str, str]:
    """Return the url and the reason of a task, as much of them as the user may see.

    The query of the url, or a quote in a reason, may contain a token: only a user that may
    steer the task gets these.
    """
    if access.may_steer(status.task):
        return status.task.url, status.reason
    path, _, _ = status.task.url.partition("?")
    return path, kind_of(status.reason, status.state)


def summary(status: TaskStatus, site: str, access: Access) -> Json:
    """Return the entry of a task in a list; `site` is the url of the site."""
    task = status.task
    url, reason = shown(status, access)
    return {
        "@id": task_url(site, status.id),
        "id": status.id,
        "queue": task.queue,
        "url": url,
        "method": task.method,
        "description": task.description,
        "user": task.user and task.user.id,
        "state": status.state,
        "reason": reason,
        "created": moment(task.created),
        "due": moment(status.due),
        "started": moment(status.time_of("running")),
        "finished": moment(status.changes[-1][1] if status.finished else None),
        "attempts": status.attempts_made,
        "max_attempts": task.max_attempts,
        "status": status.status,
        "progress": _progress(status.progress),
    }


def whole(status: TaskStatus, site: str, access: Access) -> Json:
    """Return all that the caller may know of a task: never credentials, and payload rarely."""
    task = status.task
    history = [_attempt(attempt, access, task) for attempt in status.attempts]
    found = summary(status, site, access) | {
        "response": f"{task_url(site, status.id)}/response",
        "key": shown_key(task),
        "timeout": task.timeout,
        "consumer": status.consumer,
        "cancel_requested": status.cancel_requested,
        "changes": [{"state": state, "time": moment(when)} for state, when in status.changes],
        "history": history,
    }
    if access.may_look_inside(task):
        shown = [(name, shown_header(name, value)) for name, value in task.headers]
        found["headers"] = _headers(shown)
        # The payload of a succeeded task is not kept; an empty one would be wrong.
        if status.state != SUCCEEDED:
            found |= _bytes("payload", task.payload)
    return found


def response(status: TaskStatus, result: Result, site: str) -> Json:
    """Return the last response of a task."""
    url = task_url(site, status.id)
    return {
        "@id": f"{url}/response",
        "task": url,
        "state": status.state,
        "status": result.status,
        "reason": status.reason,
        "headers": _headers(result.headers),
        "truncated": result.truncated,
        "started": moment(result.started),
        "finished": moment(result.finished),
        "elapsed": result.elapsed,
        "attempts": result.attempts,
        **_bytes("body", result.body),
    }


def consumer(status: ConsumerStatus, site: str, seen: Collection[str]) -> Json:
    """Return a consumer, with those of its running tasks whose ids are in `seen`."""
    running = [task_id for task_id in status.running if task_id in seen]
    return {
        "name": status.name,
        "host": status.host,
        "pid": status.pid,
        "age": status.age,
        "alive": status.alive,
        "running": [{"@id": task_url(site, task_id), "id": task_id} for task_id in running],
    }


def task_url(site: str, task_id: str) -> str:
    """Return the url of a task."""
    return f"{site}/@tasks/{task_id}"


def moment(seconds: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC; None also for a time that no calendar has."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (OSError, OverflowError, ValueError):
        return None


def _attempt(attempt: AttemptRecord, access: Access, task: Task) -> Json:
    found = {
        "number": attempt.number,
        "consumer": attempt.consumer,
        "started": moment(attempt.started),
        "elapsed": attempt.seconds,
        "status": attempt.status,
        "reason": attempt.reason if access.may_steer(task) else kind_of(attempt.reason),
    }
    return {**found, "traceback": attempt.error} if access.may_look_inside(task) else found


def _progress(progress: Progress | None) -> Json | None:
    if progress is None:
        return None
    total = None if progress.total is None else _finite(progress.total)
    return {"done": _finite(progress.done), "total": total, "message": progress.message}


def _finite(number: float) -> float | None:
    # A view may report any number, but JSON has neither infinity nor NaN.
    try:
        return number if math.isfinite(number) else None
    except (TypeError, OverflowError):
        return None


def shown_header(name: str, value: str) -> str:
    """Return the value of a header of a task, or that it is hidden: it may be a secret."""
    return value if name.lower().replace("_", "-") in SHOWN_HEADERS else HIDDEN


def _headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _bytes(name: str, value: bytes) -> dict[str, str]:
    # JSON has no bytes, and a guess at their encoding could not be undone by the client.
    try:
        return {name: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(value).decode("ascii")}
