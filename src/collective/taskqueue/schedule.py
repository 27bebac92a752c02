"""What a storage keeps of a schedule: its last tick, its last runs, and whether it is paused."""

from __future__ import annotations

from collective.taskqueue.task import Task
from typing import NamedTuple


#: Most runs that are kept of a schedule.
RUNS = 20


class Run(NamedTuple):
    """A task that a schedule has queued, and the time of the tick in seconds since the epoch."""

    tick: float
    task_id: str


class ScheduleState(NamedTuple):
    """What a storage keeps of a schedule; `last` is None before its first tick."""

    last: float | None = None
    paused: bool = False
    #: The newest first.
    runs: tuple[Run, ...] = ()
    #: The time by the clock of the storage.
    now: float = 0.0

    def may_tick(self, at: float, now: float) -> bool:
        """Return whether a tick at a time comes next, is not in the future, and is not paused."""
        return not self.paused and at <= now and (self.last is None or self.last < at)

    def ticked(self, at: float, task: Task | None, moves: bool) -> ScheduleState:
        """Return the state after a tick, or after a run that does not move the last tick."""
        runs = self.runs if task is None else (Run(at, task.id), *self.runs)[:RUNS]
        return self._replace(last=at if moves else self.last, runs=runs)

    def resumed(self, now: float) -> ScheduleState:
        """Return the state after a pause: ticks until now are left out."""
        if not self.paused:
            return self
        return self._replace(paused=False, last=max(now, self.last or now))
