"""The parameters that several commands have: moments, durations, and the filters of tasks."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskFilter
from datetime import datetime
from typing import Any
from typing import TypeVar
import click
import re
import time


F = TypeVar("F", bound=Callable[..., Any])

#: Seconds of the units of a duration.
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)


class Duration(click.ParamType[float]):
    """A number of seconds, such as ``90``, ``10m``, ``2h``, ``3d``."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the seconds."""
        seconds = _seconds(value, "s") if isinstance(value, str) else float(value)
        if seconds is None:
            self.fail(f"{value!r} is no duration; write 90, 90s, 10m, 2h or 3d", param, ctx)
        return seconds


class Moment(click.ParamType[float]):
    """A moment: ``2026-11-30``, ``2026-11-30T14:00``, with a zone or local, or ``2h`` ago."""

    name = "moment"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the seconds since the epoch."""
        ago = _seconds(value, "")
        if ago is not None:
            return time.time() - ago
        try:
            # Without a zone it is local time.
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is no moment; write 2026-11-30, '2026-11-30 14:00',"
                " 2026-11-30T14:00+01:00, or how long ago: 10m, 2h, 3d",
                param,
                ctx,
            )


def filters(command: F) -> F:
    """Add the options that say which tasks a command is about; the command gets a `filter`."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def filter_of(options: dict[str, Any]) -> TaskFilter:
    """Return the filter of these options, and remove them; other options stay."""
    states = options.pop("state")
    given = {name: options.pop(name) for name in ("url", "user", "since", "until", "reason")}
    try:
        return TaskFilter(states=tuple(dict.fromkeys(states)), **given)
    except InvalidTask as exc:
        raise click.UsageError(str(exc)) from None


_FILTERS = (
    click.option("--queue", metavar="NAME", help="Only tasks of this queue; default: of all."),
    click.option(
        "--state",
        type=click.Choice(STATES),
        multiple=True,
        help="Only tasks in this state; may be repeated.",
    ),
    click.option("--url", metavar="TEXT", help="Only tasks whose url begins with this."),
    click.option("--user", metavar="ID", help="Only tasks of this user id, in any user folder."),
    click.option(
        "--since",
        type=Moment(),
        metavar="MOMENT",
        help="Only tasks added since then: 2026-11-30, '2026-11-30 14:00', or 2h (ago).",
    ),
    click.option(
        "--until", type=Moment(), metavar="MOMENT", help="Only tasks added before that moment."
    ),
    click.option("--reason", metavar="TEXT", help="Only tasks whose reason contains this."),
)


def _seconds(text: str, default: str) -> float | None:
    found = _DURATION.fullmatch(text.strip())
    unit = (found[2].lower() or default) if found else ""
    return float(found[1]) * UNITS[unit] if found and unit in UNITS else None
