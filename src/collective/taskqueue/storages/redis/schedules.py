"""The ticks of schedules in a Redis queue: the first call for a tick queues its task."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.schedule import Run
from collective.taskqueue.schedule import RUNS
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.storages.redis import wire
from collective.taskqueue.task import Task
from typing import Any


class Schedules:
    """See `ITaskAdmin.tick` and the methods about schedules; `call` runs the script of the road."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def tick(self, schedule: str, at: float, task: Task | None, moves: bool) -> bool:
        """Queue the task of a tick, unless another call has; return whether it did."""
        tasks = () if task is None else wire.portions([task])
        given = {"schedule": schedule, "at": at, "moves": moves, "most": RUNS}
        return bool(self._call("tick", tasks=tasks, **given))

    def state(self, name: str) -> ScheduleState:
        """Return what is kept of a schedule, and the time."""
        found = self._call("schedule", schedule=name)
        runs = tuple(Run(float(tick), task_id.decode()) for tick, task_id in found["runs"])
        last = found.get("last")
        return ScheduleState(
            None if last is None else float(last), bool(found["paused"]), runs, float(found["now"])
        )

    def pause(self, name: str) -> None:
        """Let a schedule have no more ticks."""
        self._call("pause_schedule", schedule=name)

    def resume(self, name: str) -> None:
        """Let a schedule tick again from now on."""
        self._call("resume_schedule", schedule=name)
