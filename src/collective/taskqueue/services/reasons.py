"""What those are told of a reason who may see a task, but not what is inside.

A reason quotes exceptions and redirects, and so whatever a view, a web hook or the person who
cancels a task has put there: tokens, addresses, names.
"""

from __future__ import annotations

from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import State
import re


#: What is shown in the place of something that only some may read.
HIDDEN = "(hidden)"

#: Reasons of the queue itself; what follows them is left out.
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
    "nobody can tell whether its transaction was committed",
    "older than its max_age",
    "replaced",
    "there is no",
)

_STATUS = re.compile(r"status [1-5]\d\d\b(, redirected\b)?", re.ASCII)
_RAISED = re.compile(r"\w{1,100} raised, redirected\b", re.ASCII)
#: The class of an exception, in front of its text or alone; see `described`.
_CLASS = re.compile(r"[^\W\d]\w{0,99}(?=: )|[A-Z][A-Za-z]{0,99}(?=:?$)", re.ASCII)


def kind_of(reason: str, state: State | None = None) -> str:
    """Return of which kind a reason is, such as ``status 502``, ``TaskTimeout``, ``cancelled``.

    That is its first part, if it is one that says nothing else; else ``(hidden)``, and an
    empty text for an empty one. Of what is `cancelled` the reason is in the words of a person,
    unless it is one of the queue's own.
    """
    phrase = next((each for each in PHRASES if re.match(rf"{each}\b", reason)), None)
    if not reason or phrase is not None:
        return phrase or ""
    if state == CANCELLED:
        return "cancelled"
    found = (pattern.match(reason) for pattern in (_STATUS, _RAISED, _CLASS))
    return next((each[0] for each in found if each is not None), HIDDEN)
