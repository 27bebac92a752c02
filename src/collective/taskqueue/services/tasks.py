"""``@tasks``: add, list, read, cancel, retry and run tasks, one or many; read responses."""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.services import bulk
from collective.taskqueue.services import envelope
from collective.taskqueue.services import listing
from collective.taskqueue.services import search
from collective.taskqueue.services import shape
from collective.taskqueue.services.access import ADD
from collective.taskqueue.services.access import ADD_HOOK
from collective.taskqueue.services.limits import require_capacity
from collective.taskqueue.services.refusal import Refusal
from collective.taskqueue.services.refusal import unknown_task
from collective.taskqueue.services.service import Shape
from collective.taskqueue.services.service import TaskQueueService
from collective.taskqueue.services.shape import Json
from collective.taskqueue.services.waiting import MAX_WAIT
from collective.taskqueue.services.waiting import wait_until_finished
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import TaskStatus
from typing import ClassVar
from zope.component import getUtilitiesFor


#: Most characters of an id; ids that the queue makes have 36.
MAX_ID = 200


class Tasks(TaskQueueService):
    """See the module. `Access` decides what the caller may do."""

    routes: ClassVar[Mapping[Shape, Mapping[str, str]]] = {
        (): {"GET": "all", "POST": "add"},
        ("bulk",): {"POST": "bulk"},
        ("*",): {"GET": "one", "DELETE": "delete"},
        ("*", "response"): {"GET": "response", "DELETE": "delete_response"},
        ("*", "retry"): {"POST": "retry"},
        ("*", "run"): {"POST": "run"},
    }

    def add(self) -> Json:
        """Queue a task as the caller, when this request commits; 201."""
        self.access.require(ADD)
        queues = dict(getUtilitiesFor(ITaskQueue))
        limit = max((queue.settings.max_payload for queue in queues.values()), default=0)
        arguments = envelope.read(self.request, limit, self.access.user)
        if envelope.is_hook(arguments["url"]):
            self.access.require(ADD_HOOK)
        name = arguments.pop("queue", min(queues, default=""))
        if name not in queues:
            known = ", ".join(sorted(queues)) or "none"
            raise InvalidTask("queue", f"there is no task queue {name!r} (known: {known})")
        require_capacity(queues[name], self.access.user)
        try:
            queues[name].add(**arguments)
        except InvalidTask:
            raise
        except ValueError as exc:
            raise InvalidTask("user", str(exc)) from None
        task = pending(queues[name])[-1]
        later = task.due is not None and task.due > task.created
        state = SCHEDULED if later else QUEUED
        status = TaskStatus(task=task, state=state, due=task.due if later else None)
        self.request.response.setStatus(201)
        self.request.response.setHeader("Location", shape.task_url(self.site_url, task.id))
        return shape.whole(status, self.site_url, self.access)

    def all(self) -> Json:
        """Return one page of the tasks that the caller may see."""
        self.access.require_login()
        fields = self.fields(*listing.FIELDS, *search.SEARCH)
        if search.SEARCH & fields.keys():
            return search.page(fields, self.access, self.site_url)
        return listing.page(self.request, fields, self.access, self.site_url)

    def bulk(self) -> Json:
        """Retry, cancel or remove the tasks that match a filter, those that the caller may."""
        self.access.require_login()
        self.fields()
        return bulk.change(self.request, self.access)

    def one(self, task_id: str) -> Json:
        """Return the status of a task; with ``wait``, once it is finished or the wait is over."""
        queue, _ = self._find(task_id)
        status = self._wait(queue, task_id)
        return shape.whole(status, self.site_url, self.access)

    def delete(self, task_id: str) -> None:
        """Cancel a task that waits or runs, remove the record of a finished one; 204."""
        queue, status = self._to_be_steered(task_id)
        self.fields()
        if status.finished:
            queue.remove(task_id)
        else:
            queue.cancel(task_id)
        return self.reply_no_content()

    def retry(self, task_id: str) -> Json:
        """Queue a failed or cancelled task again."""
        queue, status = self._to_be_run(task_id)
        # The limit is for the user's own tasks: it does not bind a manager of other tasks.
        if status.finished and self.access.owns(status.task):
            require_capacity(queue, self.access.user)
        queue.retry(task_id)
        return shape.whole(queue.status(task_id), self.site_url, self.access)

    def run(self, task_id: str) -> Json:
        """Run a waiting task now, before it is due."""
        queue, _ = self._to_be_run(task_id)
        queue.run_now(task_id)
        return shape.whole(queue.status(task_id), self.site_url, self.access)

    def response(self, task_id: str) -> Json:
        """Return the last response; 202 and the task as long as the task is not finished."""
        queue, _ = self._to_be_steered(task_id)
        status = self._wait(queue, task_id)
        if not status.finished:
            self.request.response.setStatus(202)
            self.request.response.setHeader("Retry-After", "1")
            return shape.whole(status, self.site_url, self.access)
        if status.result is None:
            raise Refusal(404, "There is no response, or not any more.")
        return shape.response(status, status.result, self.site_url)

    def delete_response(self, task_id: str) -> None:
        """Delete the response of a finished task, and keep the rest of its record; 204."""
        queue, _ = self._to_be_steered(task_id)
        self.fields()
        if not queue.forget_response(task_id):
            raise Refusal(404, "There is no response, or not any more.")
        return self.reply_no_content()

    def _to_be_steered(self, task_id: str) -> tuple[Queue, TaskStatus]:
        queue, status = self._find(task_id)
        if not self.access.may_steer(status.task):
            raise Refusal(403, "This task belongs to another user.")
        return queue, status

    def _to_be_run(self, task_id: str) -> tuple[Queue, TaskStatus]:
        queue, status = self._find(task_id)
        if not self.access.may_run(status.task):
            needed = f"{ADD!r}, and {ADD_HOOK!r}," if status.task.is_hook else f"{ADD!r}"
            raise Refusal(403, f"This takes the permission {needed} and a task of your own.")
        self.fields()
        return queue, status

    def _find(self, task_id: str) -> tuple[Queue, TaskStatus]:
        """Return the queue of a task and its brief status, if the caller may see the task.

        No more is read for a task that the caller may not see than for an unknown one:
        otherwise the caller could tell the two apart by the time it takes.
        """
        self.access.require_login()
        if not (len(task_id) <= MAX_ID and task_id.isascii() and task_id.isprintable()):
            # No storage has such an id, and some storages cannot be asked for it.
            raise unknown_task()
        away: StorageUnavailable | None = None
        for _, queue in sorted(getUtilitiesFor(ITaskQueue)):
            try:
                status = queue.status(task_id, brief=True)
            except UnknownTask:
                continue
            except StorageUnavailable as exc:
                away = exc
                continue
            if self.access.may_see(status.task):
                return queue, status
        if away is not None:
            # An unavailable queue may have the task.
            raise away
        raise unknown_task()

    def _wait(self, queue: Queue, task_id: str) -> TaskStatus:
        """Return the whole status once the task is finished or the wait is over."""
        seconds = self._seconds()
        # A task that waits here for another task would block the thread that may have to run it.
        if seconds and not ITaskQueueLayer.providedBy(self.request):
            wait_until_finished(lambda: queue.status(task_id, brief=True), seconds)
        status: TaskStatus = queue.status(task_id)
        return status

    def _seconds(self) -> float:
        text = self.fields("wait").get("wait", "0")
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= MAX_WAIT:
            raise InvalidTask("wait", f"wait is a number of seconds up to {MAX_WAIT:g}")
        return seconds
