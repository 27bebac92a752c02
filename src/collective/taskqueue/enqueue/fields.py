"""One table of what a caller of `taskqueue.add`, and a client over HTTP, can say about a task.

`options` checks by it and `services.envelope` parses by it. Tests compare it with
openapi.json, with the pages of docs/reference, and with the fields of `Task`, whose annotations
are the types of the wire form.
"""

from __future__ import annotations

from collective.taskqueue.config.datatypes import METHODS
from dataclasses import dataclass
from typing import get_args
from typing import Literal


Scalar = Literal["text", "choice", "key", "label", "seconds", "integer", "moment", "flag"]
Structured = Literal["params", "headers", "body", "base64"]
Kind = Scalar | Structured

#: The kinds of fields that have no place in a query.
STRUCTURED: tuple[Kind, ...] = get_args(Structured)

#: Ten years, the upper limit of a delay, timeout or age; and an hour: the timeout that a client
#: may give to a web hook. Both in seconds.
LONGEST = 10 * 366 * 86400.0
MAX_HOOK_TIMEOUT = 3600


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its name, what values it takes, and who may give it."""

    name: str
    kind: Kind
    #: Shown in openapi.json and in docs/reference.
    description: str
    #: Whether it is an option of `add`; whether clients may give it over HTTP.
    option: bool = True
    client: bool = True
    #: Used if neither the caller nor the queue has a value: for a view, and for a web hook.
    default: object = None
    hook_default: object = None
    #: Limits of a number; `positive` excludes 0.
    lowest: int = 0
    highest: float = LONGEST
    positive: bool = False
    #: Most characters of a text, or of all params or headers; a label is cut there.
    longest: int = 0
    choices: tuple[str, ...] = ()
    #: What the description adds for clients.
    note: str = ""


_ROWS = (
    Field(
        "url",
        "text",
        "A path from the root of Zope; or an absolute url, which is called as a web hook.",
        option=False,
        longest=8 * 1024,
    ),
    Field(
        "method",
        "choice",
        "By default GET, and POST for a web hook.",
        option=False,
        choices=METHODS,
    ),
    Field(
        "params",
        "params",
        "Appended to the query of the url; a list repeats a parameter. A web hook without a payload"
        " posts them as a form.",
        option=False,
        longest=64 * 1024,
    ),
    Field(
        "headers",
        "headers",
        "Headers of the request that the task makes.",
        option=False,
        longest=32 * 1024,
    ),
    Field(
        "payload",
        "body",
        "The body: a text, or an object or an array that is sent as JSON.",
        option=False,
    ),
    Field("payload_base64", "base64", "The body as bytes, instead of payload.", option=False),
    Field(
        "queue",
        "text",
        "The name of the queue; by default the first one in the alphabet.",
        option=False,
    ),
    Field("delay", "seconds", "Seconds from now; the task does not run earlier."),
    Field(
        "countdown",
        "seconds",
        "The same as ``delay``; the name is that of the Google App Engine task queue.",
        client=False,
    ),
    Field("eta", "moment", "A moment with a time zone; the task does not run earlier."),
    Field(
        "timeout",
        "seconds",
        "Seconds that one attempt may take. Then the attempt is interrupted and its transaction is"
        " aborted.",
        hook_default=60.0,
        positive=True,
        note=f"A web hook may take {MAX_HOOK_TIMEOUT} at most.",
    ),
    Field(
        "max_attempts",
        "integer",
        "The number of attempts after which the task has failed.",
        default=1,
        hook_default=36,
        lowest=1,
        highest=1000,
    ),
    Field(
        "backoff",
        "choice",
        "How the pause between two attempts grows.",
        client=False,
        default="exponential",
        choices=("exponential", "linear"),
    ),
    Field(
        "min_backoff",
        "seconds",
        "Seconds between the first attempt and the second.",
        client=False,
        default=2.0,
    ),
    Field(
        "max_backoff",
        "seconds",
        "The longest pause in seconds between two attempts.",
        client=False,
        default=7200.0,
    ),
    Field(
        "max_age",
        "seconds",
        "Seconds after which no further attempt is made, even if attempts are left. They count"
        " again from the moment when a person retries the task.",
        client=False,
        positive=True,
    ),
    Field(
        "once",
        "flag",
        "If it is not known whether an attempt has committed before its process was lost, the task"
        " fails, so that a person decides, instead of being run again.",
        client=False,
        default=False,
        hook_default=False,
    ),
    Field(
        "key",
        "key",
        "Tasks with the same key in the same queue are the same work, and are deduplicated.",
        lowest=1,
        longest=1000,
        note="Only tasks of the same user are compared.",
    ),
    Field(
        "on_conflict",
        "choice",
        "What to do if a task with that key waits already: ``skip`` the new task, ``replace`` the"
        " earlier task, or ``after_running``: at most one task runs and one waits, and the newest"
        " task replaces the waiting one.",
        default="skip",
        choices=("skip", "replace", "after_running"),
    ),
    Field(
        "description",
        "label",
        "A label for people; one line of 255 characters is kept.",
        default="",
        longest=255,
    ),
    Field(
        "keep",
        "seconds",
        "Seconds that the record is kept after the task has finished; at least ten, so that"
        " subscribers of the event can still read it.",
        client=False,
    ),
)

FIELDS = {field.name: field for field in _ROWS}
