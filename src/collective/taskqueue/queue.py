"""A queue: the utility in front of a storage."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer import policy
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.events import Arrivals
from collective.taskqueue.consumer.events import publish_event
from collective.taskqueue.consumer.heartbeat import Heartbeat
from collective.taskqueue.enqueue import datamanager
from collective.taskqueue.enqueue.capture import CURRENT
from collective.taskqueue.enqueue.capture import make_task
from collective.taskqueue.enqueue.params import Params
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.storages.search import CHANGES
from collective.taskqueue.storages.search import SCAN
from collective.taskqueue.task import Action
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import BulkResult
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from contextlib import contextmanager
from dataclasses import replace
from OFS.interfaces import IItem
from typing import Any
from uuid import uuid4
from zope.component import getUtilitiesFor
from zope.interface import implementer
from zope.interface import provider
from zope.schema.interfaces import IVocabularyFactory
from zope.schema.vocabulary import SimpleTerm
from zope.schema.vocabulary import SimpleVocabulary
import logging
import time


logger = logging.getLogger("collective.taskqueue")


#: Seconds of a lease that `get` takes; it is renewed as long as this process lives.
LEASE = 30.0

#: Consumer name of a script that gives no other one.
SCRIPT = "script"

#: Most tasks on a page of a search, and most tasks that one call of `bulk` changes.
MOST = 1000

#: Most pages that one call of `bulk` searches.
PAGES = 100


@implementer(ITaskQueue)
class TaskQueue:
    """See `ITaskQueue`."""

    def __init__(self, settings: QueueSettings, storage: Storage) -> None:
        self.name = settings.queue
        self.settings = settings
        self.storage = storage
        self.storage.notify = self.publish_event
        self._begin()

    def _begin(self) -> None:
        #: What `get` has returned, with the attempts whose leases the heartbeat renews.
        self._reserved: dict[str, Any] = {}
        self._heartbeat = Heartbeat(self.storage, LEASE, f"taskqueue-{self.name}-heartbeat")
        self._arrivals = Arrivals()

    def __len__(self) -> int:
        return self.storage.admin.counts()["queued"]

    def __bool__(self) -> bool:
        # An empty queue is a queue: without this, a lookup `or` a default would drop it.
        return True

    def add(
        self,
        url: str | IItem,
        method: str | None = None,
        params: Params = None,
        headers: Mapping[str, object] | None = None,
        payload: bytes | str | None = CURRENT,
        *,
        view: str | None = None,
        **options: Any,
    ) -> str:
        task = make_task(self.settings, url, method, params, headers, payload, view=view, **options)
        datamanager.join(self, task)
        return task.id

    def put(self, task: Task) -> None:
        if self._is_known(task.id):
            logger.warning("task %s: is there already, not put again", task.id)
            return
        batch_id = str(uuid4())
        self.storage.stage(batch_id, (task,))
        with self.promoting((task.id,)):
            self.storage.promote(batch_id)

    def _is_known(self, task_id: str) -> bool:
        try:
            self.storage.admin.get(task_id, brief=True)
        except UnknownTask:
            return False
        return True

    def get(self, consumer_name: str = SCRIPT) -> Task | None:
        leases = self.storage.reserve(consumer_name, limit=1, timeout=0, lease=LEASE)
        for lease in leases:
            watched = self._heartbeat.watch(Attempt(lease, self.storage), timed=False)
            self._heartbeat.begin(watched)
            self._reserved[lease.task.id] = watched
            task: Task = lease.task
            return task
        return None

    def task_done(
        self,
        task: Task,
        status_line: str = "HTTP/1.1 200 OK",
        consumer_name: str = SCRIPT,
        consumer_length: int = 0,
    ) -> None:
        watched = self._reserved.get(task.id)
        if watched is None:
            logger.warning("task %s: done, but not reserved by %s, ignored", task.id, consumer_name)
            return
        lease = watched.attempt.lease
        started = watched.attempt.started
        now = time.time()
        outcome = Outcome(_status(status_line), started=started, seconds=now - started)
        outcome = policy.classify(outcome, self.settings.transient_statuses)
        state = self.storage.complete(lease, policy.next_transition(lease, outcome, now))
        del self._reserved[task.id]
        self._heartbeat.end(watched)
        if state is None:
            logger.warning("task %s: done after its lease expired, ignored", task.id)

    def after_fork(self) -> None:
        self._begin()
        self.storage.after_fork()

    def reset(self) -> int:
        count: int = self.storage.admin.clear()
        logger.warning("queue %s: reset, %d waiting tasks dropped", self.name, count)
        return count

    def status(self, task_id: str, brief: bool = False) -> TaskStatus:
        status: TaskStatus = self.storage.admin.get(task_id, brief)
        return status

    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        if state is not None and state not in STATES:
            raise ValueError(f"there is no state {state!r} (known: {', '.join(STATES)})")
        if start < 0 or size < 0:
            raise ValueError("start and size must not be negative")
        found: list[TaskStatus] = self.storage.admin.tasks(state, user, start, size)
        return found

    def search(self, filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage:
        _check_number("size", size)
        page: TaskPage = self.storage.admin.search(filter, cursor, size)
        return page

    def bulk(
        self,
        action: Action,
        filter: TaskFilter,
        limit: int = MOST,
        cursor: str | None = None,
        allowed: Callable[[TaskStatus], bool] | None = None,
    ) -> BulkResult:
        if action not in ACTIONS:
            raise InvalidTask("action", f"action is one of {', '.join(sorted(ACTIONS))}")
        _check_number("limit", limit)
        states = tuple(state for state in ACTIONS[action] if state in (filter.states or STATES))
        if not states:
            return BulkResult(0, 0)
        wanted = replace(filter, states=states)
        done = 0
        for _ in range(PAGES):
            page = self.storage.admin.search(wanted, cursor, min(CHANGES, limit - done))
            done += self._change(action, _chosen(page, allowed), states)
            cursor = page.cursor
            if cursor is None:
                return BulkResult(done, 0)
            if done == limit:
                break
        # How many are left, as far as one more page says.
        rest = self.storage.admin.search(wanted, cursor, SCAN)
        left = len(_chosen(rest, allowed))
        if rest.cursor is not None:
            left = max(left, 1)
        return BulkResult(done, left, cursor if left else None)

    def _change(
        self, action: Action, statuses: Sequence[TaskStatus], states: Sequence[State]
    ) -> int:
        """Change these tasks if they still are in one of the states; return how many were."""
        if not statuses:
            return 0
        new: set[str] = set()
        if action == "retry":
            changes = {status.id: status.changes[-1] for status in statuses}
            new = self._arrivals.expect_again(changes)
        changed: dict[str, State] = {}
        try:
            changed = self.storage.admin.change(action, [each.id for each in statuses], states)
        finally:
            self._arrivals.forget(new - changed.keys())
        for task_id, state in changed.items():
            if action == "retry":
                self._retried(task_id)
            elif action == "cancel":
                self._cancelled(task_id, state)
            else:
                self._removed(task_id)
        return len(changed)

    def counts(self, user: str | Identity | None = None) -> dict[State, int]:
        counts: dict[State, int] = self.storage.admin.counts(user)
        return counts

    def cancel(self, task_id: str, reason: str = "cancelled") -> State:
        state: State = self.storage.admin.cancel(task_id, reason)
        self._cancelled(task_id, state)
        return state

    def _cancelled(self, task_id: str, state: State) -> None:
        logger.info("task %s: cancellation asked for, now %s", task_id, state)
        if state == CANCELLED:
            self.publish_event(CANCELLED, task_id)

    def retry(self, task_id: str) -> None:
        # The id may be an alias: that of a task that was skipped for this one.
        status = self.storage.admin.get(task_id, brief=True)
        task_id = status.id
        new = self._arrivals.expect_again({task_id: status.changes[-1]})
        try:
            self.storage.admin.retry(task_id)
        except TaskQueueError:
            self._arrivals.forget(new)
            raise
        self._retried(task_id)

    def _retried(self, task_id: str) -> None:
        logger.info("task %s: queued again", task_id)
        self._arrivals.publish(self.storage, task_id)

    def remove(self, task_id: str) -> None:
        self.storage.admin.remove(task_id)
        self._removed(task_id)

    def _removed(self, task_id: str) -> None:
        logger.info("task %s: record removed", task_id)

    def run_now(self, task_id: str) -> None:
        self.storage.admin.run_now(task_id)
        logger.info("task %s: to be run now, queued", task_id)

    def forget_response(self, task_id: str) -> bool:
        found: bool = self.storage.admin.forget_response(task_id)
        if found:
            logger.info("task %s: response removed", task_id)
        return found

    def purge(self, state: State) -> int:
        count: int = self.storage.admin.purge(state)
        logger.info("queue %s: purged, %d %s tasks forgotten", self.name, count, state)
        return count

    def pause(self) -> None:
        self.storage.admin.pause()
        logger.warning("queue %s: paused, tasks wait", self.name)

    def resume(self) -> None:
        self.storage.admin.resume()
        logger.info("queue %s: resumed", self.name)

    def publish_event(self, state: State, task_id: str) -> None:
        # A consumer may start a task before the thread that has promoted the task goes on.
        self._arrivals.publish(self.storage, task_id)
        publish_event(self.storage, state, task_id)

    @contextmanager
    def promoting(self, task_ids: Collection[str]) -> Iterator[None]:
        self._arrivals.expect(task_ids)
        yield
        for task_id in task_ids:
            self._arrivals.publish(self.storage, task_id)

    def tick(self, schedule: str, at: float, task: Task) -> bool:
        ids = (task.id,)
        # Before: a consumer of this process may begin the task at once.
        self._arrivals.expect(ids)
        is_queued = False
        try:
            is_queued = self.storage.admin.tick(schedule, at, task)
        finally:
            if not is_queued:
                self._arrivals.forget(ids)
        if is_queued:
            self._arrivals.publish(self.storage, task.id)
        return is_queued


def _check_number(name: str, number: int) -> None:
    if type(number) is not int or not 1 <= number <= MOST:
        raise InvalidTask(name, f"{name} is a number from 1 to {MOST}, not {number!r}")


def _chosen(page: TaskPage, allowed: Callable[[TaskStatus], bool] | None) -> list[TaskStatus]:
    """Return the tasks of a page that may be changed."""
    return [
        status
        for status in page.tasks
        # A running task is asked to stop once: otherwise repeated calls would not end.
        if not (status.cancel_requested and not status.finished)
        and (allowed is None or allowed(status))
    ]


def _status(line: str) -> int | None:
    """Return the status of a line like ``HTTP/1.1 200 OK``; None if there is none."""
    words = line.removeprefix("HTTP/1.1").split()
    if not words:
        return None
    if not (words[0].isascii() and words[0].isdigit() and 100 <= int(words[0]) <= 599):
        raise ValueError(f"no status line: {line!r}")
    return int(words[0])


@provider(IVocabularyFactory)
def queues(context: object = None) -> SimpleVocabulary:
    """Return the vocabulary of queues: the token is the name, the value the queue."""
    return SimpleVocabulary(
        [
            SimpleTerm(value=queue, token=name, title=name)
            for name, queue in sorted(getUtilitiesFor(ITaskQueue))
        ]
    )
