"""The thread of a process that queues the tasks of schedules when they are due."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collective.taskqueue.config import schedules as config
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.config.timing import Timing
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskScheduleMissed
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.schedules.due import due
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.task import Task
from dataclasses import dataclass
from datetime import datetime
from datetime import UTC
from zope.interface import implementer
import logging
import threading
import zope.event


logger = logging.getLogger("collective.taskqueue")

#: Most seconds between two looks at a schedule: another process may have paused or resumed it.
LOOK = 60.0

#: Seconds after a tick at which its task is queued.
MARGIN = 0.01

#: Why ticks that are made up for no more got no task.
LATE_REASON = "no process was there in time"

#: Seconds before the next try after an error.
PAUSE = 5.0

#: Seconds that a process waits for the thread to end.
JOIN = 5.0


@implementer(ITaskScheduleMissed)
@dataclass(frozen=True)
class TaskScheduleMissed:
    """See `ITaskScheduleMissed`."""

    schedule: str
    queue: str
    #: How many ticks, at most 1000.
    number: int
    reason: str


class Entry:
    """A schedule that this process ticks: `make` returns the task of a tick."""

    def __init__(
        self, settings: ScheduleSettings, queue: Queue, make: Callable[[float], Task]
    ) -> None:
        self.settings = settings
        self.timing: Timing = config.timing(settings)
        self._queue = queue
        self._make = make
        self._admin = queue.storage.admin
        self._outage = outage_of(queue.storage)

    def tick(self) -> float:
        """Queue the tasks that are due; return the seconds until the next look, at most `LOOK`.

        Raises `StorageUnavailable`, and what `make` raises.
        """
        state = self._state()
        if not state.paused:
            found = due(self.settings, self.timing, state.last, state.now)
            if found.noted is not None:
                # Or it is the first look: nothing that was before is made up for.
                won = self._outage.call(self._admin.tick, self._name, found.noted)
                if won and found.missed:
                    self._missed(found.missed, LATE_REASON)
            for number, at in enumerate(found.runs):
                self._run(at, state, 0 if number else found.missed)
                state = self._state()
        upcoming = self.timing.next(state.now)
        # A little later: by its own clock the storage might not have come to the tick yet.
        return LOOK if upcoming is None else min(upcoming - state.now + MARGIN, LOOK)

    def _run(self, at: float, state: ScheduleState, missed: int) -> None:
        if self.settings.overlap == "skip" and self._is_unfinished(state):
            if self._outage.call(self._admin.tick, self._name, at):
                self._missed(missed + 1, "the task of the last tick has not ended")
            return
        task = self._make(at)
        if not self._outage.call(self._queue.tick, self._name, at, task):
            # Another process was first.
            return
        logger.info("task %s: queued by schedule %s for %s", task.id, self._name, _shown(at))
        if missed:
            self._missed(missed, LATE_REASON)

    def _is_unfinished(self, state: ScheduleState) -> bool:
        for run in state.runs[:1]:
            try:
                return not self._queue.status(run.task_id, brief=True).finished
            except UnknownTask:
                return False
        return False

    def _missed(self, number: int, reason: str) -> None:
        logger.warning("schedule %s: %d ticks without a task, %s", self._name, number, reason)
        zope.event.notify(TaskScheduleMissed(self._name, self._queue.name, number, reason))

    def _state(self) -> ScheduleState:
        return self._outage.call(self._admin.schedule, self._name)

    @property
    def _name(self) -> str:
        return self.settings.name


class Ticker:
    """Ticks schedules in a thread of its own."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="taskqueue-ticker", daemon=True)
        self._thread.start()

    def begin_stop(self) -> None:
        """Queue no more tasks."""
        self._stopped.set()

    def end_stop(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join(JOIN)

    def step(self) -> float:
        """Tick all schedules once; return the seconds until the next look."""
        waits = [LOOK]
        for entry in self._entries:
            if self._stopped.is_set():
                break
            waits.append(self._tick(entry))
        return min(waits)

    def _tick(self, entry: Entry) -> float:
        try:
            return entry.tick()
        except StorageUnavailable:
            # The outage is logged once for the process; what is due then is made up for.
            return PAUSE
        except Exception:
            logger.exception(
                "schedule %s: its task cannot be queued, trying again", entry.settings.name
            )
            return PAUSE

    def _run(self) -> None:
        wait = 0.0
        while not self._stopped.wait(wait):
            wait = self.step()


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
