"""Which part of a response is kept, be it of a view or of a web hook."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parsedate_to_datetime
import codecs


#: Most bytes of a response body that are kept.
MAX_BODY = 64 * 1024

#: Response headers that are not recorded.
SECRET_HEADERS = frozenset({"set-cookie", "www-authenticate"})

#: Most characters that are recorded of one response header, and of all of them together.
MAX_HEADER = 4096
MAX_HEADERS = 16 * 1024

#: Most characters of a reason, which may quote a view or a remote server.
MAX_REASON = 500


def recorded(headers: Iterable[tuple[str, str]]) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Return the headers that are kept, and whether any header was cut or left out.

    Secret headers are left out without notice. The end of a long value is cut, and a header
    that does not fit into `MAX_HEADERS` any more is left out.
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
    """Return the part of a body that is kept: `MAX_BODY` bytes at most.

    UTF-8 is cut between two characters, so that the part is text; other bytes anywhere.
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
    # A byte that does not continue the last character shows that this is no UTF-8.
    return short[:-begun] if begun and rest[0] & 0xC0 == 0x80 else short


def clean(text: str, longest: int = MAX_REASON) -> str:
    """Return a text for a log and a status: one line, printable, and not too long."""
    # Cut before, too: the text may be megabytes.
    line = " ".join(text[: 2 * longest].split())[:longest]
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def retry_after(headers: Iterable[tuple[str, str]], now: float, longest: float) -> float | None:
    """Return the seconds that `Retry-After` asks to wait, `longest` at most; None if it does not.

    The header has a number of seconds or a date; `now` is in seconds since the epoch. The
    bound keeps a server from delaying a task for years, until the task is forgotten.
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
