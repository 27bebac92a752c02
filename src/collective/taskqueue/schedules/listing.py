"""The schedules of a process, as people see and steer them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.config import schedules as config
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.errors import UnknownSchedule
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.schedule import Run
from collective.taskqueue.storages.protocols import Admin
from collective.taskqueue.task import State
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScheduleRun:
    """A task that a schedule has queued; `state` is None if its record is no longer kept."""

    #: Seconds since the epoch.
    tick: float
    task_id: str
    state: State | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """What is known of a schedule; times are seconds since the epoch."""

    settings: ScheduleSettings
    #: When, in words.
    explanation: str
    paused: bool
    last: float | None
    #: None if there is none: it is off, or paused.
    next: float | None
    #: The newest first.
    runs: tuple[ScheduleRun, ...]

    @property
    def name(self) -> str:
        """The name of the schedule."""
        return self.settings.name


class Schedules:
    """The schedules of a configuration; `admin` returns that of a queue by its name."""

    def __init__(self, settings: Sequence[ScheduleSettings], admin: Callable[[str], Admin]) -> None:
        self._settings = {each.name: each for each in settings}
        self._admin = admin

    def names(self) -> list[str]:
        """Return the names, in the order of the alphabet."""
        return sorted(self._settings)

    def get(self, name: str) -> ScheduleSettings:
        """Return the settings of a schedule; raises `UnknownSchedule`."""
        if name not in self._settings:
            known = ", ".join(self.names()) or "none"
            raise UnknownSchedule(f"there is no schedule {name!r} (known: {known})")
        return self._settings[name]

    def status(self, name: str, runs: int = 20) -> ScheduleStatus:
        """Return what is known of a schedule, with its last runs.

        Raises `UnknownSchedule` and `StorageUnavailable`.
        """
        settings = self.get(name)
        admin = self._admin(settings.queue)
        state = admin.schedule(name)
        timing = config.timing(settings)
        is_on = settings.enabled and not state.paused
        return ScheduleStatus(
            settings,
            timing.explain(),
            state.paused,
            state.last,
            timing.next(state.now) if is_on else None,
            tuple(_run(admin, run) for run in state.runs[:runs]),
        )

    def pause(self, name: str) -> None:
        """Let a schedule have no ticks until `resume`, in all processes; also after a restart."""
        self._admin(self.get(name).queue).pause_schedule(name)

    def resume(self, name: str) -> None:
        """Let a schedule tick again; what was due in the meantime is left out."""
        self._admin(self.get(name).queue).resume_schedule(name)


def _run(admin: Admin, run: Run) -> ScheduleRun:
    try:
        status = admin.get(run.task_id, brief=True)
    except UnknownTask:
        return ScheduleRun(run.tick, run.task_id, None)
    return ScheduleRun(run.tick, run.task_id, status.state, status.reason)
