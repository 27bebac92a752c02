"""When a worker ends by itself: its queues are empty, or it has become too large."""

from __future__ import annotations

from collections.abc import Collection
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from typing import Any
from zope.component import getUtility
import importlib
import logging
import time


logger = logging.getLogger("collective.taskqueue")


class Memory:
    """The memory of this process, and the limit of ``--max-memory`` in bytes.

    Raises `WorkerError` if psutil is not installed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        try:
            self._process: Any = importlib.import_module("psutil").Process()
        except ModuleNotFoundError as exc:
            message = "max_memory needs the extra collective.taskqueue[worker], there is no psutil"
            raise WorkerError(message, Exit.CONFIGURATION) from exc

    def over(self) -> int:
        """Return the resident bytes of the process if they exceed the limit, otherwise 0."""
        used: int = self._process.memory_info().rss
        return used if used > self.limit else 0


class Emptiness:
    """Whether queues are empty: nothing waits that is due, and nothing runs, in any process."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._looks = 0
        self._warned: set[str] = set()

    def seen(self) -> bool:
        """Look, and return whether the queues were empty in this look and in the last one.

        Two looks: a storage may count running and waiting tasks one after the other, and a task
        that ended in between may have added another.
        """
        self._looks = self._looks + 1 if all(map(self._empty, self._names)) else 0
        return self._looks > 1

    def _empty(self, name: str) -> bool:
        queue = getUtility(ITaskQueue, name=name)
        try:
            counts = queue.counts()
            if counts["running"]:
                return False
            if counts["queued"] and not self._paused(queue, counts["queued"]):
                return False
            return not (counts["scheduled"] and _next_is_due(queue))
        except StorageUnavailable:
            # Its outage is logged; the tasks are still there afterwards.
            return False

    def _paused(self, queue: Any, waiting: int) -> bool:
        paused: bool = queue.storage.admin.paused()
        if paused and queue.name not in self._warned:
            self._warned.add(queue.name)
            logger.warning("queue %s: paused, its %d tasks are left", queue.name, waiting)
        return paused


def _next_is_due(queue: Any) -> bool:
    first = queue.tasks("scheduled", size=1)
    return bool(first) and (first[0].due or 0.0) <= time.time()
