"""Which ticks of a schedule are due, and which of these are made up for."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.config.timing import Timing
from itertools import islice
from typing import NamedTuple


#: A tick is missed if no process was there for it within so many seconds.
LATE = 90.0

#: Most ticks that are looked at one by one: of a short period, many may have been missed.
MOST = 1000


class Due(NamedTuple):
    """The ticks that are due now: those that get a task, the oldest first, and the others.

    If none gets a task, `noted` is the last one that is due.
    """

    runs: tuple[float, ...] = ()
    noted: float | None = None
    #: How many get no task, `MOST` at most.
    missed: int = 0


def due(settings: ScheduleSettings, timing: Timing, last: float | None, now: float) -> Due:
    """Return which ticks are due.

    `last` is the last tick of the schedule, `now` the time, both by the clock of the storage.
    Without a last tick the schedule begins now.
    """
    newest = timing.latest(now)
    if newest is None or (last is not None and newest <= last):
        return Due()
    if last is None:
        return Due(noted=newest)
    oldest = now - (LATE if settings.catch_up == "none" else max(settings.misfire, LATE))
    runs: tuple[float, ...] = ()
    if settings.catch_up == "all":
        # The oldest one, too.
        runs = tuple(islice(_ticks(timing, max(last, oldest - 0.001), now), MOST))
    elif newest >= oldest:
        runs = (newest,)
    before = runs[0] if runs else newest + 1.0
    missed = sum(tick < before for tick in islice(_ticks(timing, last, now), MOST))
    return Due(runs, None if runs else newest, missed)


def _ticks(timing: Timing, after: float, until: float) -> Iterator[float]:
    """Yield the ticks after a time and not after another one."""
    tick = timing.next(after)
    while tick is not None and tick <= until:
        yield tick
        tick = timing.next(tick)
