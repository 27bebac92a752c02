"""``POST /@tasks/bulk``: retry, cancel or remove the tasks that match a filter."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping
from collective.taskqueue.enqueue.headers import current_body
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.services import listing
from collective.taskqueue.services.access import Access
from collective.taskqueue.services.access import ADD
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.conditions import CONDITIONS
from collective.taskqueue.services.conditions import filter_of
from collective.taskqueue.services.conditions import narrowed
from collective.taskqueue.services.cursors import opened
from collective.taskqueue.services.cursors import sealed
from collective.taskqueue.services.limits import require_capacity
from collective.taskqueue.services.query import unknown_field
from collective.taskqueue.services.shape import Json
from collective.taskqueue.task import Action
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import TaskStatus
from zope.publisher.interfaces.browser import IBrowserRequest
import json


#: Most bytes of the body.
MAX_BODY = 64 * 1024

#: Most tasks that one request changes.
MOST = 1000

#: Fields of the body.
FIELDS = ("action", "filter", "limit", "cursor")


def change(request: IBrowserRequest, access: Access) -> Json:
    """Do what the body of the request asks for; return how many tasks were changed, and are left.

    Users who may not manage tasks change their own only. Raises `InvalidTask` with the name of
    the field that is wrong, and a `Refusal` if the user may not queue one more task.
    """
    body = _object("body", _json(request), FIELDS)
    action = _action(body)
    limit = _limit(body)
    fields = _conditions(body)
    own = not access.has(MANAGE)
    limits = narrowed(filter_of(fields), access, own)
    queue = _queue(fields)
    cursor = _cursor(body, queue, access)
    if own and action == "retry":
        access.require(ADD)
        # The limit is for the user's own tasks: it does not bind a manager.
        limit = require_capacity(queue, access.user, limit)
    if limits is None:
        return {"done": 0, "left": 0, "cursor": None}
    conditions, wanted = limits

    def allowed(status: TaskStatus) -> bool:
        may = access.may_run if action == "retry" else access.may_steer
        return wanted(status) and may(status.task)

    result = queue.bulk(action, conditions, limit, cursor, allowed)
    following = result.cursor and sealed(queue.name, result.cursor, access.user)
    return {"done": result.done, "left": result.left, "cursor": following}


def _json(request: IBrowserRequest) -> object:
    body = current_body(request, MAX_BODY)
    if len(body) > MAX_BODY:
        raise InvalidTask("body", f"the body has more than {MAX_BODY} bytes")
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise InvalidTask("body", "the body is no JSON") from None


def _object(name: str, value: object, known: Collection[str]) -> Mapping[str, object]:
    """Return an object of JSON without its fields that are null."""
    if not isinstance(value, dict):
        raise InvalidTask(name, f"{name} is an object")
    for field in value:
        if field not in known:
            raise unknown_field(field, known)
    return {field: each for field, each in value.items() if each is not None}


def _action(body: Mapping[str, object]) -> Action:
    for action in ACTIONS:
        if body.get("action") == action:
            return action
    raise InvalidTask("action", f"action is one of {', '.join(sorted(ACTIONS))}")


def _limit(body: Mapping[str, object]) -> int:
    limit = body.get("limit", MOST)
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise InvalidTask("limit", f"limit is a number from 1 to {MOST}")
    return limit


def _conditions(body: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _object("filter", body.get("filter"), ("queue", *CONDITIONS)).items():
        if not isinstance(value, str):
            raise InvalidTask(name, f"{name} is a text")
        found[name] = value
    return found


def _queue(fields: Mapping[str, str]) -> Queue:
    queues = listing.queues_of(fields)
    if not queues:
        raise InvalidTask("queue", "there is no task queue")
    return queues[0]


def _cursor(body: Mapping[str, object], queue: Queue, access: Access) -> str | None:
    text = body.get("cursor")
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidTask("cursor", "cursor is a text")
    name, cursor = opened(text, access.user)
    if name != queue.name:
        raise InvalidTask("cursor", f"cursor is one of queue {name}, not of {queue.name}")
    return cursor
