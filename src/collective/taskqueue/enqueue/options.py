"""The options of `add()`: checked here, so that no invalid value ever joins a transaction."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.text import one_line
from collective.taskqueue.errors import InvalidTask
from datetime import datetime
from hashlib import blake2b
from typing import Any


#: Upper limit of a delay, timeout or age: ten years, in seconds.
LONGEST = 10 * 366 * 86400.0

#: Defaults of a web hook, if neither the task nor its queue has a value.
HOOK_TIMEOUT = 60.0
HOOK_ATTEMPTS = 36

#: Most characters of a key, and of a key that is stored as it is; characters kept of the
#: beginning of any other key; most characters of a description.
LONGEST_KEY = 1000
LONGEST_PLAIN_KEY = 255
READABLE_KEY = 60
LONGEST_LABEL = 255

ON_CONFLICT = ("skip", "replace", "after_running")


def check_options(
    options: dict[str, Any], settings: QueueSettings, now: float, is_hook: bool = False
) -> dict[str, Any]:
    """Return the fields of a `Task` for these options.

    A missing option is that of the queue; if the queue has none, it is built in. `now` is in
    seconds since the epoch. Raises `ValueError` for a value that is out of range and for
    an option that does not exist. Called when a task is added.
    """
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        known = ", ".join(OPTIONS)
        raise InvalidTask(min(unknown), f"unknown option {min(unknown)!r} (known: {known})")
    given = {
        name: OPTIONS[name](name, value) for name, value in options.items() if value is not None
    }
    task: dict[str, Any] = {
        "timeout": _first(settings.timeout, HOOK_TIMEOUT if is_hook else None),
        "max_attempts": _first(settings.max_attempts, HOOK_ATTEMPTS if is_hook else 1),
        "backoff": settings.backoff,
        "min_backoff": settings.min_backoff,
        "max_backoff": settings.max_backoff,
        "due": _due(given, now),
    }
    task |= {name: value for name, value in given.items() if name not in _DUE}
    if task["min_backoff"] > task["max_backoff"]:
        raise InvalidTask("min_backoff", "min_backoff is greater than max_backoff")
    if "on_conflict" in task and "key" not in task:
        raise InvalidTask(
            "on_conflict", "on_conflict says what to do with tasks of one key; there is no key"
        )
    return task


def _first(*values: Any) -> Any:
    for value in values:
        if value is not None:
            return value
    return None


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


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTask(name, f"{name} is a number of seconds, not {value!r}")
    if not 0 <= value <= LONGEST:
        raise InvalidTask(name, f"{name} must be between 0 and {LONGEST:g} seconds, not {value!r}")
    return float(value)


def _positive_seconds(name: str, value: Any) -> float:
    number = _seconds(name, value)
    if not number:
        raise InvalidTask(name, f"{name} must be more than 0 seconds")
    return number


def _moment(name: str, value: Any) -> float:
    # A time zone may still not know its offset.
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidTask(name, f"{name} is a datetime with a time zone, not {value!r}")
    return value.timestamp()


def _attempts(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise InvalidTask(name, f"{name} is an integer from 1 to 1000, not {value!r}")
    return value


def _one_of(*allowed: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in allowed:
            raise InvalidTask(name, f"{name} is one of {', '.join(allowed)}, not {value!r}")
        return str(value)

    return check


def _key(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_KEY:
        raise InvalidTask(name, f"{name} is a text of 1 to {LONGEST_KEY} characters")
    if len(value) <= LONGEST_PLAIN_KEY and value.isprintable():
        return "".join(value)
    # No storage can index every key. The beginning that is kept still tells people something.
    digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{one_line(value, READABLE_KEY)} #{digest}"


def _label(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidTask(name, f"{name} is a text, not {type(value).__name__}")
    return one_line(value, LONGEST_LABEL)


#: Every option and the function that checks it; None is the same as not giving it.
OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "delay": _seconds,
    "countdown": _seconds,
    "eta": _moment,
    "timeout": _positive_seconds,
    "max_attempts": _attempts,
    "backoff": _one_of("exponential", "linear"),
    "min_backoff": _seconds,
    "max_backoff": _seconds,
    "max_age": _positive_seconds,
    "key": _key,
    "on_conflict": _one_of(*ON_CONFLICT),
    "description": _label,
    "keep": _seconds,
}
_DUE = ("delay", "countdown", "eta")
