"""``@taskqueues``: show queues and their consumers; pause, resume, purge and clear queues."""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.enqueue.headers import current_body
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.services import shape
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.access import VIEW
from collective.taskqueue.services.service import Shape
from collective.taskqueue.services.service import TaskQueueService
from collective.taskqueue.services.shape import Json
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from typing import ClassVar
from zope.component import getUtilitiesFor
from zope.component import queryUtility
import json
import time


#: Most bytes of the body of a request that changes a queue.
MAX_BODY = 1024


class TaskQueues(TaskQueueService):
    """See the module. Reading takes `View tasks`, changing takes `Manage tasks`."""

    routes: ClassVar[Mapping[Shape, Mapping[str, str]]] = {
        (): {"GET": "all"},
        ("*",): {"GET": "one"},
        ("*", "pause"): {"POST": "pause"},
        ("*", "resume"): {"POST": "resume"},
        ("*", "purge"): {"POST": "purge"},
        ("*", "tasks"): {"DELETE": "clear"},
    }

    def all(self) -> Json:
        """Return all queues; those whose storage is unavailable without their state."""
        self._require_view()
        self.fields()
        queues = [self._summary(queue) for _, queue in sorted(getUtilitiesFor(ITaskQueue))]
        return {"@id": f"{self.site_url}/@taskqueues", "items": queues}

    def one(self, name: str) -> Json:
        """Return all that is known of a queue."""
        self._require_view()
        queue = self._queue(name)
        storage = queue.storage
        consumers = storage.admin.consumers()
        running = [task_id for each in consumers for task_id in each.running]
        seen = {task_id for task_id in running if self._may_see(queue, task_id)}
        return {
            **self._brief(queue),
            "available": True,
            "counts": queue.counts(),
            "paused": storage.admin.paused(),
            "oldest": _oldest(queue),
            "last_hour": _last_hour(storage.admin.throughput()),
            "consumers": [shape.consumer(each, self.site_url, seen) for each in consumers],
        }

    def pause(self, name: str) -> None:
        """Start no task of the queue until it is resumed; 204."""
        self.access.require(MANAGE)
        self._queue(name).pause()
        return self.reply_no_content()

    def resume(self, name: str) -> None:
        """Start tasks of the queue again; 204."""
        self.access.require(MANAGE)
        self._queue(name).resume()
        return self.reply_no_content()

    def purge(self, name: str) -> Json:
        """Delete the finished tasks of one state, by default those that succeeded."""
        self.access.require(MANAGE)
        queue = self._queue(name)
        state = self._state()
        return {"state": state, "removed": queue.purge(state)}

    def clear(self, name: str) -> None:
        """Delete all waiting tasks; running ones finish as usual; 204."""
        self.access.require(MANAGE)
        self._queue(name).reset()
        return self.reply_no_content()

    def _queue(self, name: str) -> Queue:
        queue = queryUtility(ITaskQueue, name=name)
        if queue is None:
            raise UnknownQueue(f"There is no queue {name!r}.")
        self.fields()
        return queue

    def _require_view(self) -> None:
        self.access.require(MANAGE if self.access.has(MANAGE) else VIEW)

    def _may_see(self, queue: Queue, task_id: str) -> bool:
        try:
            return self.access.may_see(queue.status(task_id, brief=True).task)
        except UnknownTask:
            return False

    def _summary(self, queue: Queue) -> Json:
        try:
            counts, paused = queue.counts(), queue.storage.admin.paused()
        except StorageUnavailable:
            return {**self._brief(queue), "available": False}
        return {**self._brief(queue), "available": True, "counts": counts, "paused": paused}

    def _brief(self, queue: Queue) -> Json:
        return {
            "@id": f"{self.site_url}/@taskqueues/{queue.name}",
            "name": queue.name,
            "type": queue.settings.type,
        }

    def _state(self) -> State:
        body = current_body(self.request, MAX_BODY)
        try:
            found = json.loads(body[:MAX_BODY] or b"{}")
        except (ValueError, RecursionError):
            raise InvalidTask("body", "the body is no JSON") from None
        state = found.get("state", SUCCEEDED) if isinstance(found, dict) else None
        if not isinstance(state, str) or state not in FINISHED:
            raise InvalidTask("state", f"state is one of {', '.join(FINISHED)}")
        return state


def _oldest(queue: Queue) -> float | None:
    """Return the seconds that the task which runs next has waited; None if none waits."""
    found = queue.tasks(QUEUED, size=1)
    since = found[0].time_of(QUEUED) if found else None
    return None if since is None else max(0.0, time.time() - since)


def _last_hour(ended: dict[State, int]) -> Json:
    """Return how many tasks finished in the last 60 minutes, and the share of failed runs."""
    tried = ended[SUCCEEDED] + ended[FAILED]
    counts = {str(state): count for state, count in ended.items()}
    return {**counts, "failure_rate": ended[FAILED] / tried if tried else None}
