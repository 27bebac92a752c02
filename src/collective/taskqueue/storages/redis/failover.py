"""After a failover: which of the tasks that this process has queued the new master has not.

A replica may become the master before it has received the last writes of the former one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.task import Task
from typing import NamedTuple
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds for which promoted batches are remembered: most likely, a failover is over by then.
REMEMBERED = 600.0

#: Most batches that are remembered; each is one call after a failover.
MOST = 5000


class Batch(NamedTuple):
    """A batch that this process has promoted, and when, in monotonic seconds."""

    id: str
    tid: bytes | None
    tasks: tuple[str, ...]
    when: float


class Promoted:
    """The batches that this process has promoted in the last minutes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verifying = threading.Lock()
        self._batches: deque[Batch] = deque(maxlen=MOST)
        self._master = ""
        #: How often a verification has begun.
        self.verified = 0

    def remember(self, batch_id: str, tid: bytes | None, tasks: Sequence[Task]) -> None:
        """Note that a batch has been promoted."""
        now = time.monotonic()
        ids = tuple(task.id for task in tasks)
        with self._lock:
            self._batches.append(Batch(batch_id, tid, ids, now))
            while self._batches[0].when < now - REMEMBERED:
                self._batches.popleft()

    def verify(self, queue: str, master: str, promote: Callable[[Batch], int]) -> bool:
        """Promote each batch again on a new master, and log each task that is lost.

        Returns False if another thread does so at this moment: call again, for what this thread
        has promoted since.

        `promote` returns 0 if the master has the tasks, 1 if it had the batch staged, and a
        negative number if it knows nothing of it. Its errors are raised; call again then.
        """
        # Other threads need not wait: this may take a second.
        if not self._verifying.acquire(blocking=False):
            return False
        try:
            self._verify(queue, master, promote)
        finally:
            self._verifying.release()
        return True

    def _verify(self, queue: str, master: str, promote: Callable[[Batch], int]) -> None:
        with self._lock:
            self.verified += 1
            batches = tuple(self._batches)
        lost = [batch for batch in batches if promote(batch) < 0]
        # Each thread that comes from the former master calls this.
        before, self._master = self._master, master
        if lost or before != master:
            self._log(queue, batches, lost)
        # The next call must not report them again.
        with self._lock:
            kept = [batch for batch in self._batches if batch not in lost]
            self._batches = deque(kept, maxlen=MOST)

    def _log(self, queue: str, batches: Sequence[Batch], lost: Sequence[Batch]) -> None:
        tasks = [task_id for batch in lost for task_id in batch.tasks]
        for task_id in tasks:
            logger.error("task %s: the new master of its queue does not have it, lost", task_id)
        for batch in lost:
            if not batch.tasks:
                logger.error("batch %s: the new master does not have it, its tasks lost", batch.id)
        logger.warning(
            "queue %s: failover, the master is now %s; of %d batches that this process has queued"
            " in the last minutes, %d are lost, with %d tasks",
            queue,
            self._master,
            len(batches),
            len(lost),
            len(tasks),
        )
