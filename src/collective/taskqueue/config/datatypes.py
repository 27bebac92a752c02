"""Datatypes of component.xml: each converts the text of a value, or raises `ValueError`.

The text of the error is the reason in a sentence that names the section and the key.
"""

from __future__ import annotations

from collective.taskqueue.config.refusal import nearest
from collective.taskqueue.config.settings import STORAGES
from collective.taskqueue.config.timing import zone
from urllib.parse import urlsplit
import math
import re


#: Units of a duration, in seconds.
DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

#: Units of a size, in bytes.
SIZES = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}

#: Values of keys of a schedule.
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
CATCH_UPS = ("none", "latest", "all")
OVERLAPS = ("skip", "queue", "parallel")

_DURATION = "seconds, or a duration such as 500ms, 90s, 10m, 2h or 1d"
_NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)"


def name(value: str) -> str:
    """Datatype: a name that can be part of a key in a shared storage."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", value):
        raise ValueError(
            "a name is made of letters, digits, _, - and ., at most 100 of them, and does not"
            " begin with ."
        )
    return value


def names(value: str) -> tuple[str, ...]:
    """Datatype: names of queues, each once, separated by blanks."""
    found = tuple(name(word) for word in value.split())
    if len(set(found)) < len(found):
        raise ValueError("a queue is named twice")
    return found


def storage_type(value: str) -> str:
    """Datatype: a known type of storage, or the dotted path of a class."""
    if value.lower() in STORAGES:
        return value.lower()
    if not re.fullmatch(r"\w+(\.\w+)+", value):
        known = ", ".join(sorted(STORAGES))
        raise ValueError(
            f"unknown type {value!r}{nearest(value, STORAGES)}; use {known} or the dotted path of"
            " a class"
        )
    return value


def backoff(value: str) -> str:
    """Datatype: exponential or linear."""
    known = ("exponential", "linear")
    if value.lower() not in known:
        raise ValueError(f"backoff is exponential or linear{nearest(value, known)}")
    return value.lower()


def boolean(value: str) -> bool:
    """Datatype: yes or no, true or false, on or off."""
    if value.lower() in ("yes", "true", "on"):
        return True
    if value.lower() in ("no", "false", "off"):
        return False
    raise ValueError(f"{value!r} is neither on nor off")


def seconds(value: str) -> float:
    """Datatype: seconds, not negative; with a unit (500ms, 90s, 10m, 2h, 1d) or without one."""
    found = re.fullmatch(_NUMBER + r"\s*(ms|s|m|h|d)?", value, re.IGNORECASE)
    number = float(found[1]) * DURATIONS[(found[2] or "s").lower()] if found else math.inf
    if number == math.inf:
        raise ValueError(f"{value!r} is none: write {_DURATION}, not negative")
    return number


def positive_seconds(value: str) -> float:
    """Datatype: as `seconds`, but more than zero."""
    number = seconds(value)
    if not number:
        raise ValueError(f"it must be more than 0: write {_DURATION}")
    return number


def natural_integer(value: str) -> int:
    """Datatype: an integer, not negative."""
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"{value!r} is no whole number") from None
    if number < 0:
        raise ValueError("the number must not be negative")
    return number


def positive_integer(value: str) -> int:
    """Datatype: an integer, at least 1."""
    number = natural_integer(value)
    if not number:
        raise ValueError("the number must be at least 1")
    return number


def port(value: str) -> int:
    """Datatype: the number of a port."""
    number = natural_integer(value)
    if number > 65535:
        raise ValueError("a port is a number up to 65535")
    return number


def size(value: str) -> int:
    """Datatype: a number of bytes, not negative; with a unit (64KB, 1.5MB, 1GB) or without one."""
    found = re.fullmatch(_NUMBER + r"\s*([kmgt]?b)?", value, re.IGNORECASE)
    number = float(found[1]) * SIZES[(found[2] or "b").lower()] if found else math.inf
    if number == math.inf:
        raise ValueError(f"{value!r} is none: write bytes, or a size such as 64KB, 10MB or 1GB")
    return round(number)


def client_errors(value: str) -> tuple[int, ...]:
    """Datatype: statuses of client errors, separated by blanks."""
    words = value.split()
    if not all(re.fullmatch("4[0-9][0-9]", word) for word in words):
        raise ValueError("the statuses of client errors are those from 400 to 499")
    return tuple(int(word) for word in words)


def header_names(value: str) -> tuple[str, ...]:
    """Datatype: header names, or prefixes that end with an asterisk, separated by blanks."""
    for name in value.split():
        if not re.fullmatch(r"[A-Za-z0-9_-]*\*?", name):
            raise ValueError(f"{name!r} is not the name of a header, nor its beginning and *")
    # WSGI does not distinguish an underscore from a dash.
    return tuple(name.lower().replace("_", "-") for name in value.split())


def timezone(value: str) -> str:
    """Datatype: the name of a time zone."""
    zone(value)
    return value


def http_method(value: str) -> str:
    """Datatype: a method of HTTP that a task can have."""
    return _one_of(value.upper(), METHODS, "method")


def catch_up(value: str) -> str:
    """Datatype: which missed ticks are made up for."""
    return _one_of(value.lower(), CATCH_UPS, "catch_up")


def overlap(value: str) -> str:
    """Datatype: what happens to a tick while the task of the last one has not ended."""
    return _one_of(value.lower(), OVERLAPS, "overlap")


def physical_path(value: str) -> str:
    """Datatype: a path from the root of Zope."""
    if not value.startswith("/") or {"..", "."} & set(value.split("/")):
        raise ValueError(f"{value!r} is no path from the root of Zope, such as /Plone/acl_users")
    return value.rstrip("/") or "/"


def schedule_url(value: str) -> str:
    """Datatype: a path from the root of Zope, or an absolute url."""
    if value.startswith(("http://", "https://")):
        return value
    physical_path(value.partition("?")[0])
    if re.search(r"\s", value):
        raise ValueError("a url has no blanks; write %20")
    return value


def public_host(value: str) -> str:
    """Datatype: what public urls begin with."""
    parts = urlsplit(value)
    try:
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("it begins with http:// or https://, such as https://www.example.org")
    return value.rstrip("/")


def _one_of(value: str, known: tuple[str, ...], key: str) -> str:
    if value not in known:
        raise ValueError(f"{key} is {', '.join(known[:-1])} or {known[-1]}{nearest(value, known)}")
    return value
