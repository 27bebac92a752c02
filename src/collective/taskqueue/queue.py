"""A queue: the utility in front of a storage."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collective.taskqueue import datamanager
from collective.taskqueue import policy
from collective.taskqueue.capture import CURRENT
from collective.taskqueue.capture import make_task
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.events import announce
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from contextlib import contextmanager
from typing import Any
from uuid import uuid4
from zope.interface import implementer
import logging
import time


logger = logging.getLogger("collective.taskqueue")


@implementer(ITaskQueue)
class TaskQueue:
    """See `ITaskQueue`."""

    def __init__(self, settings: QueueSettings, storage: Any) -> None:
        self.name = settings.queue
        self.settings = settings
        self.storage = storage
        self.storage.notify = self.announce
        self._leases: dict[str, Lease] = {}
        #: Tasks that are promoted right now, and whose arrival nobody was told of yet.
        self._arriving: set[str] = set()

    def __len__(self) -> int:
        return len(self.storage)

    def __bool__(self) -> bool:
        # An empty queue is a queue; without this a lookup `or` a default would miss it.
        return True

    def add(
        self,
        url: str,
        method: str | None = None,
        params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        headers: Mapping[str, Any] | None = None,
        payload: bytes | str | None = CURRENT,
        **options: Any,
    ) -> str:
        task = make_task(self.settings, url, method, params, headers, payload, **options)
        datamanager.join(self, task)
        return task.id

    def put(self, task: Task) -> None:
        batch_id = str(uuid4())
        self.storage.stage(batch_id, (task,))
        self.storage.promote(batch_id)

    def get(self, consumer_name: str) -> Task | None:
        leases = self.storage.reserve(consumer_name, limit=1, timeout=0)
        for lease in leases:
            self._leases[lease.task.id] = lease
            return lease.task
        return None

    def task_done(
        self, task: Task, status_line: str, consumer_name: str, consumer_length: int = 0
    ) -> None:
        lease = self._leases.pop(task.id, None)
        if lease is None:
            logger.warning("task %s: done, but not reserved by %s, ignored", task.id, consumer_name)
            return
        words = status_line.removeprefix("HTTP/1.1").split()
        now = time.time()
        outcome = Outcome(int(words[0]) if words else None, started=now)
        if self.storage.finish(lease, policy.decide(lease, outcome, now)) is None:
            logger.warning("task %s: done after its lease expired, ignored", task.id)

    def reset(self) -> int:
        count: int = self.storage.clear()
        logger.warning("queue %s: reset, %d waiting tasks dropped", self.name, count)
        return count

    def status(self, task_id: str) -> TaskStatus:
        status: TaskStatus = self.storage.get(task_id)
        return status

    def tasks(
        self, state: State | None = None, user: str | None = None, start: int = 0, size: int = 50
    ) -> list[TaskStatus]:
        found: list[TaskStatus] = self.storage.tasks(state, user, start, size)
        return found

    def counts(self) -> dict[State, int]:
        counts: dict[State, int] = self.storage.counts()
        return counts

    def cancel(self, task_id: str) -> State:
        state: State = self.storage.cancel(task_id)
        logger.info("task %s: cancellation asked for, now %s", task_id, state)
        if state == CANCELLED:
            self.announce(CANCELLED, task_id)
        return state

    def retry(self, task_id: str) -> None:
        self.storage.retry(task_id)
        logger.info("task %s: queued again", task_id)

    def remove(self, task_id: str) -> None:
        self.storage.remove(task_id)
        logger.info("task %s: record removed", task_id)

    def hasten(self, task_id: str) -> None:
        self.storage.hasten(task_id)
        logger.info("task %s: to be run now, queued", task_id)

    def forget_response(self, task_id: str) -> bool:
        found: bool = self.storage.forget_response(task_id)
        if found:
            logger.info("task %s: response removed", task_id)
        return found

    def purge(self, state: State) -> int:
        count: int = self.storage.purge(state)
        logger.info("queue %s: purged, %d %s tasks forgotten", self.name, count, state)
        return count

    def pause(self) -> None:
        self.storage.pause()
        logger.warning("queue %s: paused, tasks wait", self.name)

    def resume(self) -> None:
        self.storage.resume()
        logger.info("queue %s: resumed", self.name)

    def announce(self, state: str, task_id: str) -> None:
        self._announce_arrival(task_id)
        announce(self.storage, state, task_id)

    @contextmanager
    def arrival(self, task_ids: Collection[str]) -> Iterator[None]:
        self._arriving.update(task_ids)
        yield
        for task_id in task_ids:
            self._announce_arrival(task_id)

    def _announce_arrival(self, task_id: str) -> None:
        # A consumer may be faster than the thread that promotes; whoever comes first tells.
        try:
            self._arriving.remove(task_id)
        except KeyError:
            return
        announce(self.storage, QUEUED, task_id)
