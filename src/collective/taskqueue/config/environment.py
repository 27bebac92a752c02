"""The variables of the environment whose names begin with TASKQUEUE_."""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.config.keys import converted
from collective.taskqueue.config.refusal import nearest
from collective.taskqueue.config.refusal import refuse
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any
import re


PREFIX = "TASKQUEUE_"

#: The consumers that a process starts.
CONSUMERS = "TASKQUEUE_CONSUMERS"

#: The path of zope.conf, for the command line.
CONFIG = "TASKQUEUE_CONFIG"

#: Keys of a queue that a variable may set: the last word of its name.
KEYS = {"URL": "url", "PASSWORD": "password", "SECRET": "secret"}

#: Keys of a schedule that a variable may set.
SCHEDULE_KEYS = ("CRON", "PERIOD", "ENABLED")

_OF_SCHEDULE = re.compile(rf"TASKQUEUE_SCHEDULE_(\w+)_({'|'.join(SCHEDULE_KEYS)})")

_FORM = re.compile(rf"TASKQUEUE(?:_(\w+))?_({'|'.join(KEYS)})(_FILE)?")

#: Kubernetes sets these for a service whose name begins with `taskqueue`.
_OF_KUBERNETES = re.compile(
    r"(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|(\w+_)?PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)

_KNOWN = (
    f"known are {CONFIG}, {CONSUMERS}, TASKQUEUE_URL, TASKQUEUE_PASSWORD, TASKQUEUE_SECRET, the"
    " last three also with the name of a queue, such as TASKQUEUE_<QUEUE>_URL, and with _FILE at"
    " the end, and TASKQUEUE_SCHEDULE_<NAME>_CRON, _PERIOD and _ENABLED"
)


@dataclass(frozen=True)
class Variable:
    """A variable that sets a key of a queue, or of a schedule."""

    #: Its name.
    name: str
    #: The name of the queue as `folded` returns it.
    queue: str
    key: str
    #: May be or contain a password.
    value: Any = field(repr=False)

    @property
    def place(self) -> str:
        """What the sentence of an error begins with."""
        return place(self.name)


@dataclass(frozen=True)
class Variables:
    """All that the environment says."""

    keys: tuple[Variable, ...]
    #: Names of queues, each with the limit of its consumer or None; None without the variable.
    consumers: tuple[tuple[str, int | None], ...] | None
    #: Changes of schedules: `queue` of each is the name of the schedule.
    schedules: tuple[Variable, ...] = ()


def variables(environ: Mapping[str, str]) -> Variables:
    """Return what the variables say; empty ones count as not set.

    Raises ZConfig's `ConfigurationError` for a variable that is not known, a bad value, two
    variables for one key, and a file that cannot be read.
    """
    found: dict[tuple[str, str], Variable] = {}
    consumers = None
    schedules: list[Variable] = []
    for name in sorted(environ):
        if (
            not name.startswith(PREFIX)
            or name == CONFIG
            or _OF_KUBERNETES.fullmatch(name.removeprefix(PREFIX))
        ):
            continue
        planned = _OF_SCHEDULE.fullmatch(name.upper())
        if planned is not None:
            if environ[name]:
                schedules.append(_of_schedule(name, planned, environ[name]))
            continue
        form = _FORM.fullmatch(name.upper())
        if name.upper() != CONSUMERS and form is None:
            refuse(place(name), f"this variable is not known{_suggestion(name)}; {_KNOWN}")
        if not environ[name]:
            continue
        if form is None:
            consumers = _consumers(environ[name], place(name))
            continue
        queue, key = form[1] or "DEFAULT", KEYS[form[2]]
        if (queue, key) in found:
            refuse(place(name), f"{found[queue, key].name} sets the same; remove one of the two")
        text = _content(environ[name], place(name)) if form[3] else environ[name]
        value = converted("taskqueue", key, text, place(name))
        found[queue, key] = Variable(name, queue, key, value)
    return Variables(tuple(found.values()), consumers, tuple(schedules))


def folded(name: str) -> str:
    """Return the name of a queue as the name of a variable has it."""
    return re.sub("[-.]", "_", name).upper()


def place(name: str) -> str:
    """Return what the sentence of an error of this variable begins with."""
    return f"{name} in the environment"


def _of_schedule(name: str, form: re.Match[str], text: str) -> Variable:
    key = form[2].lower()
    value = converted("taskqueue-schedule", key, text, place(name))
    return Variable(name, form[1], key, value)


def _suggestion(name: str) -> str:
    # Without what all names have in common, which would make all of them alike.
    rest = name.removeprefix(PREFIX)
    queue = rest.removesuffix("_FILE").rpartition("_")[0]
    keys = [f"{start}{key}" for start in ("", f"{queue}_") for key in KEYS]
    keys += [f"{key}_FILE" for key in keys]
    words = [*(each.removeprefix(PREFIX) for each in (CONFIG, CONSUMERS)), *keys]
    return nearest(rest, words, PREFIX)


def _content(path: str, where: str) -> str:
    # The path is shown only if it is one: the variable may contain the secret itself.
    if not path.startswith("/"):
        refuse(where, "the value is no absolute path of a file")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
    except ValueError:
        reason = "it is not a text in UTF-8"
    else:
        if text.strip():
            return text.removesuffix("\n").removesuffix("\r")
        reason = "it is empty"
    return refuse(where, f"the file {path} cannot be read: {reason}")


def _consumers(text: str, where: str) -> tuple[tuple[str, int | None], ...]:
    found: dict[str, int | None] = {}
    if text.strip().lower() == "off":
        return ()
    for item in text.split(","):
        name, colon, limit = (part.strip() for part in item.partition(":"))
        if name in found:
            refuse(where, f"the queue {name} is named twice")
        converted("taskqueue", "queue", name, where)
        key = "concurrent_limit"
        found[name] = converted("taskqueue-server", key, limit, where) if colon else None
    return tuple(found.items())
