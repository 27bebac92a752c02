"""Times, durations and texts in the words that people read in a terminal."""

from __future__ import annotations

from collective.taskqueue.consumer.text import one_line
from datetime import datetime


#: Most characters of a text in a table; the terminal cuts it once more.
LONGEST = 500

#: Seconds, and the word for one and for more.
_UNITS = ((86400, "day", "days"), (3600, "h", "h"), (60, "min", "min"), (1, "s", "s"))


def moment(seconds: float | None) -> str:
    """Return a time in the local time zone, with the zone; empty for None."""
    if seconds is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    except (OSError, OverflowError, ValueError):
        return "?"


def duration(seconds: float | None) -> str:
    """Return a number of seconds as ``340 ms``, ``12 s``, ``5 min``, ``3 h``, ``2 days``."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    size, one, more = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    number = int(seconds // size)
    return f"{number} {one if number == 1 else more}"


def line(text: str) -> str:
    """Return a text of others as one line, without characters that steer a terminal."""
    return one_line(text, LONGEST)


def number(count: int, one: str, more: str = "") -> str:
    """Return ``1 task``, ``2 tasks``."""
    return f"{count} {one if count == 1 else more or f'{one}s'}"
