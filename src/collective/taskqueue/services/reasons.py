"""The part of a reason for users that may see a task, but not read its content.

A reason quotes exceptions and redirects, and so it may contain text of a view, of a web hook or
of the person that cancelled a task: tokens, addresses, names.
"""

from __future__ import annotations

from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import State
import re


#: Replaces a value that only some users may read.
HIDDEN = "(hidden)"

#: Reasons of the queue itself; the text that follows them is left out.
PHRASES = (
    "a form field",
    "cancelled while running",
    "cancelled",
    "cannot be decoded",
    "its object",
    "its process was lost",
    "its record is damaged",
    "its transaction did not arrive",
    "its url",
    "no response",
    "it is unknown whether its transaction was committed",
    "older than its max_age",
    "replaced",
    "there is no",
)

_STATUS = re.compile(r"status [1-5]\d\d\b(, redirected\b)?", re.ASCII)
_RAISED = re.compile(r"\w{1,100} raised, redirected\b", re.ASCII)
#: The class of an exception, in front of its message or alone; see `described`.
_CLASS = re.compile(r"[^\W\d]\w{0,99}(?=: )|[A-Z][A-Za-z]{0,99}(?=:?$)", re.ASCII)


def kind_of(reason: str, state: State | None = None) -> str:
    """Return the kind of a reason, such as ``status 502``, ``TaskTimeout``, ``cancelled``.

    The kind is the first part of the reason if that part reveals nothing, otherwise
    ``(hidden)``; it is empty for an empty reason. The reason of a cancelled task is the text of
    a person, unless it is one of the queue's own: then its kind is ``cancelled``.
    """
    phrase = next((each for each in PHRASES if re.match(rf"{each}\b", reason)), None)
    if not reason or phrase is not None:
        return phrase or ""
    if state == CANCELLED:
        return "cancelled"
    found = (pattern.match(reason) for pattern in (_STATUS, _RAISED, _CLASS))
    return next((each[0] for each in found if each is not None), HIDDEN)
