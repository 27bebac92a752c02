"""What is kept of a response, whoever gave it."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parsedate_to_datetime
import codecs


#: Bytes of a response body that are kept.
MAX_BODY = 64 * 1024

#: Response headers that are not recorded.
SECRET_HEADERS = frozenset({"set-cookie", "www-authenticate"})

#: Characters of one response header, and of all of them together, that are recorded at most.
MAX_HEADER = 4096
MAX_HEADERS = 16 * 1024

#: Characters of a reason in which the other side has a say.
MAX_REASON = 500


def recorded(headers: Iterable[tuple[str, str]]) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Return the headers that are kept, and whether others had to go.

    No secrets, of which nothing is said, and not too many: long ones are kept without their
    end, and those for which there is no room any more are not.
    """
    kept: list[tuple[str, str]] = []
    room, truncated = MAX_HEADERS, False
    for name, value in headers:
        if name.lower() in SECRET_HEADERS:
            continue
        short = value[:MAX_HEADER]
        size = len(name) + len(short)
        truncated = truncated or size > room or short != value
        if size <= room:
            room -= size
            kept.append((name, short))
    return tuple(kept), truncated


def kept(body: bytes) -> bytes:
    """Return what is kept of a body: `MAX_BODY` bytes at most.

    UTF-8 is cut between two characters, so that what is left is text; other bytes anywhere.
    """
    short, rest = body[:MAX_BODY], body[MAX_BODY:]
    if not rest:
        return short
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(short)
    except UnicodeDecodeError:
        return short
    begun = len(decoder.getstate()[0])
    # A byte that does not go on with the last character shows that this is no UTF-8.
    return short[:-begun] if begun and rest[0] & 0xC0 == 0x80 else short


def clean(text: str, longest: int = MAX_REASON) -> str:
    """Return a text for a log and a status: one line, printable, and not too long."""
    # Cut before, too: it may be megabytes.
    line = " ".join(text[: 2 * longest].split())[:longest]
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def retry_after(headers: Iterable[tuple[str, str]], now: float, longest: float) -> float | None:
    """Return the seconds that `Retry-After` asks to wait, `longest` at most; None if it does not.

    It is a number of seconds or a date; `now` is in seconds since the epoch. Whoever answers
    must not park a task for years: nobody would look for it any more.
    """
    found = next((value for name, value in headers if name.lower() == "retry-after"), None)
    if found is None:
        return None
    value = found.strip()
    try:
        if value.isascii() and value.isdigit():
            return min(float(value), longest)
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - now), longest)
    except (ValueError, TypeError, OverflowError):
        return None
