"""What is kept of a response, whoever gave it."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parsedate_to_datetime


#: Bytes of a response body that are kept.
MAX_BODY = 64 * 1024

#: Response headers that are not recorded.
SECRET_HEADERS = frozenset({"set-cookie", "www-authenticate"})

#: Response headers and their characters that are recorded at most.
MAX_HEADERS = 100
MAX_HEADER = 4096

#: Characters of a reason in which the other side has a say.
MAX_REASON = 500


def recorded(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the headers that are kept: no secrets, and not too many."""
    kept = [pair for pair in headers if pair[0].lower() not in SECRET_HEADERS]
    return tuple((name, value[:MAX_HEADER]) for name, value in kept[:MAX_HEADERS])


def clean(reason: str) -> str:
    """Return a reason for a log and a status: one line, printable, and not too long."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in reason[:MAX_REASON]
    )


def retry_after(headers: Iterable[tuple[str, str]], now: float) -> float | None:
    """Return the seconds that `Retry-After` asks to wait; None if it does not.

    It is a number of seconds or a date; `now` is in seconds since the epoch.
    """
    found = next((value for name, value in headers if name.lower() == "retry-after"), None)
    if found is None:
        return None
    value = found.strip()
    try:
        if value.isascii() and value.isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
