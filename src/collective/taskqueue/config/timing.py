"""The ticks of a schedule: the times at which it is due, in seconds since the epoch.

Those of a cron expression are computed by cronsim, as Debian's cron does in the two nights of the
year: a tick in the hour that is left out comes an hour later; one at a fixed time in the hour that
is repeated comes once, one of every few minutes in both.
"""

from __future__ import annotations

from collective.taskqueue.config.refusal import nearest
from cronsim import CronSim
from cronsim import CronSimError
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from zoneinfo import available_timezones
from zoneinfo import ZoneInfo
import math


#: Short forms of cron expressions.
SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


#: Units of a period, in seconds.
_UNITS = {"day": 86400.0, "hour": 3600.0, "minute": 60.0, "second": 1.0}


class Timing(Protocol):
    """The ticks of one schedule."""

    def next(self, after: float) -> float | None:
        """Return the first tick after a time; None if there is none."""

    def latest(self, now: float) -> float | None:
        """Return the last tick at or before a time; None if there is none."""

    def explain(self) -> str:
        """Return the ticks in words."""


def zone(name: str) -> ZoneInfo:
    """Return the time zone of a name, such as Europe/Berlin; raises `ValueError` for another."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        hint = nearest(name, available_timezones())
        raise ValueError(f"there is no time zone {name!r}{hint}") from None


@dataclass(frozen=True)
class Cron:
    """The ticks of a cron expression of five fields, in a time zone.

    Raises `ValueError`, with a sentence, for an expression that is none or that is never due.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        text = self.expression.strip().lower()
        if text == "@reboot":
            raise ValueError("@reboot is no time; call the view when the process starts")
        if text.startswith("@") and text not in SHORT:
            raise ValueError(f"{text} is not known; known are {', '.join(SHORT)}")
        fields = SHORT.get(text, self.expression.upper()).split()
        if len(fields) != 5:
            raise ValueError(
                f"a cron expression has five fields (minute, hour, day, month, weekday), not"
                f" {len(fields)}"
            )
        object.__setattr__(self, "_fields", " ".join(fields))
        object.__setattr__(self, "_zone", zone(self.timezone))
        try:
            self._iterator(0.0)
        except CronSimError as exc:
            raise ValueError(f"{self.expression!r} is no cron expression ({exc})") from None
        if self.next(0.0) is None:
            raise ValueError(f"{self.expression!r} is never due")

    def next(self, after: float) -> float | None:
        """See `Timing`."""
        for moment in self._iterator(after):
            if moment.timestamp() > after:
                return moment.timestamp()
        return None

    def latest(self, now: float) -> float | None:
        """See `Timing`."""
        # The iteration begins before its start, and the ticks are whole minutes.
        for moment in self._iterator(now + 60.0, reverse=True):
            if moment.timestamp() <= now:
                return moment.timestamp()
        return None

    def explain(self) -> str:
        """See `Timing`."""
        return f"{self._iterator(0.0).explain()} ({self.timezone})"

    def _iterator(self, start: float, reverse: bool = False) -> CronSim:
        zone: ZoneInfo = self._zone  # type: ignore[attr-defined]
        moment = datetime.fromtimestamp(start, zone)
        return CronSim(self._fields, moment, reverse=reverse)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Period:
    """A tick each so many seconds, counted from the epoch: 600 is at 0, 10, 20 … past the hour."""

    seconds: float

    def next(self, after: float) -> float | None:
        """See `Timing`."""
        return (math.floor(after / self.seconds) + 1) * self.seconds

    def latest(self, now: float) -> float | None:
        """See `Timing`."""
        return math.floor(now / self.seconds) * self.seconds

    def explain(self) -> str:
        """See `Timing`."""
        for unit, seconds in _UNITS.items():
            number, rest = divmod(self.seconds, seconds)
            if number and not rest:
                return f"Every {unit}" if number == 1 else f"Every {number:g} {unit}s"
        return f"Every {self.seconds:g} seconds"
