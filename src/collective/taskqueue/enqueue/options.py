"""The options of `add()`: checked here, so that no invalid value ever joins a transaction."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.text import one_line
from collective.taskqueue.enqueue.fields import Field
from collective.taskqueue.enqueue.fields import FIELDS
from collective.taskqueue.enqueue.fields import LONGEST
from collective.taskqueue.errors import InvalidTask
from datetime import datetime
from hashlib import blake2b
from typing import Any


#: Every option, in the order of the table.
OPTIONS = {name: field for name, field in FIELDS.items() if field.option}

#: Most characters of a key that is stored as it is; characters kept of the beginning of others.
LONGEST_PLAIN_KEY = 255
READABLE_KEY = 60

_DUE = ("delay", "countdown", "eta")
_OF_QUEUE = [OPTIONS[name] for name in OPTIONS if name in QueueSettings.__dataclass_fields__]


def check_options(
    options: dict[str, object], settings: QueueSettings, now: float, is_hook: bool = False
) -> dict[str, Any]:
    """Return the fields of a `Task` for these options.

    A missing option is that of the queue; if the queue has none, it is built in. None is the
    same as a missing option. `now` is in seconds since the epoch. Raises `ValueError` for a
    value that is out of range and for an option that does not exist. Called when a task is added.
    """
    task = {field.name: _default(field, settings, is_hook) for field in _OF_QUEUE}
    task["due"] = None
    if options:
        task |= _given(options, now)
    if task["min_backoff"] > task["max_backoff"]:
        raise InvalidTask("min_backoff", "min_backoff is greater than max_backoff")
    if is_hook and task["once"]:
        if options.get("once"):
            raise InvalidTask("once", "once is not for a web hook: it may be called twice")
        task["once"] = False
    if "on_conflict" in task and "key" not in task:
        raise InvalidTask(
            "on_conflict", "on_conflict says what to do with tasks of one key; there is no key"
        )
    return task


def _given(options: dict[str, object], now: float) -> dict[str, Any]:
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        known = ", ".join(OPTIONS)
        raise InvalidTask(min(unknown), f"unknown option {min(unknown)!r} (known: {known})")
    given = {
        name: _CHECKS[OPTIONS[name].kind](OPTIONS[name], value)
        for name, value in options.items()
        if value is not None
    }
    task = {name: value for name, value in given.items() if name not in _DUE}
    return task | {"due": _due(given, now)}


def _default(field: Field, settings: QueueSettings, is_hook: bool) -> Any:
    of_queue = getattr(settings, field.name)
    if of_queue is not None:
        return of_queue
    return field.hook_default if is_hook else field.default


def _due(given: dict[str, Any], now: float) -> float | None:
    named = [name for name in _DUE if name in given]
    if len(named) > 1:
        raise InvalidTask(named[0], f"{' and '.join(named)} say the same thing; use one of them")
    if not named:
        return None
    moment = given[named[0]]
    due = float(moment if named[0] == "eta" else now + moment)
    if due > now + LONGEST:
        raise InvalidTask(named[0], f"{named[0]} must be at most {LONGEST:g} seconds from now")
    return due


def _seconds(field: Field, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _invalid(field, f"is a number of seconds, not {value!r}")
    if not _is_within(field, value):
        limits = f"between {field.lowest} and {field.highest:g}"
        raise _invalid(field, f"must be {limits} seconds, not {value!r}")
    if field.positive and not value:
        raise _invalid(field, "must be more than 0 seconds")
    return float(value)


def _moment(field: Field, value: object) -> float:
    # A time zone may still not know its offset.
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise _invalid(field, f"is a datetime with a time zone, not {value!r}")
    return value.timestamp()


def _integer(field: Field, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not _is_within(field, value):
        limits = f"from {field.lowest} to {field.highest}"
        raise _invalid(field, f"is an integer {limits}, not {value!r}")
    return value


def _is_within(field: Field, value: float) -> bool:
    return field.lowest <= value <= field.highest


def _flag(field: Field, value: object) -> bool:
    if not isinstance(value, bool):
        raise _invalid(field, f"is True or False, not {value!r}")
    return value


def _choice(field: Field, value: object) -> str:
    if value not in field.choices:
        raise _invalid(field, f"is one of {', '.join(field.choices)}, not {value!r}")
    return str(value)


def _key(field: Field, value: object) -> str:
    if not isinstance(value, str) or not field.lowest <= len(value) <= field.longest:
        raise _invalid(field, f"is a text of {field.lowest} to {field.longest} characters")
    if len(value) <= LONGEST_PLAIN_KEY and value.isprintable():
        return "".join(value)
    # No storage can index every key. The beginning that is kept still tells people something.
    digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{one_line(value, READABLE_KEY)} #{digest}"


def _label(field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(field, f"is a text, not {type(value).__name__}")
    return one_line(value, field.longest)


def _invalid(field: Field, reason: str) -> InvalidTask:
    return InvalidTask(field.name, f"{field.name} {reason}")


_CHECKS = {
    "seconds": _seconds,
    "moment": _moment,
    "integer": _integer,
    "flag": _flag,
    "choice": _choice,
    "key": _key,
    "label": _label,
}
