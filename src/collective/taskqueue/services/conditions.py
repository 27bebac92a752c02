"""The conditions of a search, as clients write them, and what of them a user may ask for."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.services.access import Access
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.listing import states_of
from collective.taskqueue.services.listing import user_of
from collective.taskqueue.services.shape import shown
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskStatus
from dataclasses import replace
from datetime import datetime


#: Names of the conditions.
CONDITIONS = ("state", "user", "url", "since", "until", "reason")

#: Most characters of each text.
LONGEST = {"url": 8192, "reason": 1000}

#: Whether a task that a storage has found is one that the user asked for, and may see.
Wanted = Callable[[TaskStatus], bool]


def filter_of(fields: Mapping[str, str]) -> TaskFilter:
    """Return the filter that these fields describe.

    Raises `InvalidTask` with the name of the field that is wrong.
    """
    return TaskFilter(
        states=states_of(fields) or (),
        url=_text(fields, "url"),
        user=user_of(fields),
        since=_moment(fields, "since"),
        until=_moment(fields, "until"),
        reason=_text(fields, "reason"),
    )


def narrowed(asked: TaskFilter, access: Access, own: bool) -> tuple[TaskFilter, Wanted] | None:
    """Return what to ask of a storage, and which of its answers to keep; None if there are none.

    With `own`, only tasks of the user are found. A condition on something that the user may not
    see never gets to the storage: from the number of tasks on a page, and from the time that it
    takes, the user could tell what is hidden.
    """
    if own:
        if access.user is None or asked.user not in (None, access.user.id):
            return None
        return replace(asked, user=access.user), lambda status: True
    if access.has(MANAGE) and access.has(MANAGE, everywhere=True):
        return asked, lambda status: True

    def wanted(status: TaskStatus) -> bool:
        if not access.may_see(status.task):
            return False
        url, reason = shown(status, access)
        return asked.matches(replace(status.task, url=url), status.state, reason)

    return replace(asked, url=None, reason=None), wanted


def _text(fields: Mapping[str, str], name: str) -> str | None:
    text = fields.get(name)
    if text is not None and not 1 <= len(text) <= LONGEST[name]:
        raise InvalidTask(name, f"{name} is a text of 1 to {LONGEST[name]} characters")
    return text


def _moment(fields: Mapping[str, str], name: str) -> float | None:
    if name not in fields:
        return None
    try:
        moment = datetime.fromisoformat(fields[name])
        if moment.tzinfo is not None:
            return moment.timestamp()
    except (ValueError, OverflowError):
        pass
    raise InvalidTask(name, f"{name} is a moment in ISO 8601, with its time zone")
