"""What the threads of a process share of a local queue, under one lock."""

from __future__ import annotations

from collections import Counter
from collections import defaultdict
from collections import OrderedDict
from collections.abc import Callable
from collective.taskqueue import task as states
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.storages.local.board import Board
from collective.taskqueue.storages.local.board import Notices
from collective.taskqueue.task import is_lost_for_good
from collective.taskqueue.task import Task
import logging
import threading


logger = logging.getLogger("collective.taskqueue")


class Memory:
    """The board of a queue, and what is known besides it. `changed` is the lock of all of it.

    `clock` returns seconds since the epoch, `monotonic` seconds that no correction of the system
    clock changes.
    """

    def __init__(
        self,
        settings: QueueSettings,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.clock = clock
        # Leases use this clock: setting the system clock neither ends nor prolongs them.
        self.monotonic = monotonic
        self.changed = threading.Condition()
        self.board = Board(settings)
        self.paused = False
        #: By batch: its tasks, its witness, and when it was staged by the monotonic clock.
        self.staged: dict[str, tuple[tuple[Task, ...], str | None, float]] = {}
        #: The batches that were promoted or failed last.
        self.promoted: OrderedDict[str, None] = OrderedDict()
        #: By consumer: the time of its last call, and how many of its calls of `reserve` block.
        self.seen: dict[str, float] = {}
        self.blocked: Counter[str] = Counter()
        self.schedules: defaultdict[str, ScheduleState] = defaultdict(ScheduleState)

    def recover(self, notices: Notices) -> list[str]:
        """Move the tasks whose lease expired to the front; return their ids. Needs the lock."""
        board, now = self.board, self.clock()
        if not board.lines.number(states.RUNNING):
            return []
        passed = self.monotonic()
        lost = [one.id for one in board.in_state(states.RUNNING) if one.expires <= passed]
        recovered: list[str] = []
        # Put back the last task first, so that the oldest one ends up at the very front.
        for task_id in reversed(lost):
            record = board.records[task_id]
            board.release(record)
            record.lose(now)
            hopeless = is_lost_for_good(record.lost, record.slot, self.settings.max_deliveries)
            if hopeless and not record.cancel_requested and board.newer(record) is None:
                reason = f"its process was lost {record.lost} times"
                board.conclude(record, states.FAILED, reason, now)
                notices.append((states.FAILED, task_id))
                logger.error("task %s: %s, failed", task_id, reason)
            elif board.put_back(record, now, notices):
                recovered.insert(0, task_id)
                logger.warning(
                    "task %s: lease of consumer %s expired, back to the front",
                    task_id,
                    record.consumer,
                )
        if lost:
            self.changed.notify(len(lost))
        return recovered
