"""The admin operations of a Redis queue, most of them one call of the script each."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.interfaces import ITaskAdmin
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.redis import wire
from collective.taskqueue.storages.redis.connection import Server
from collective.taskqueue.storages.redis.errors import at_start
from collective.taskqueue.storages.redis.errors import translated
from collective.taskqueue.storages.redis.schedules import Schedules
from collective.taskqueue.storages.redis.script import decoded
from collective.taskqueue.storages.redis.script import Script
from collective.taskqueue.storages.search import cursor_at
from collective.taskqueue.storages.search import number_at
from collective.taskqueue.storages.search import SCAN
from collective.taskqueue.task import Action
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from typing import Any
from zope.interface import implementer
import logging


logger = logging.getLogger("collective.taskqueue")


#: The oldest version of the server that has all that the script needs.
MINIMUM_VERSION = (6, 2)

#: Most tasks that a search reads at a time.
PORTION = 200


@implementer(ITaskAdmin)
class RedisAdmin:
    """See `ITaskAdmin`. `prefix` begins the keys of the queue, `process` names this process."""

    def __init__(
        self,
        settings: QueueSettings,
        server: Server,
        script: Script,
        prefix: str,
        process: str,
        schedules: Schedules,
    ) -> None:
        self._settings = settings
        self._server = server
        self._call = script.call
        self._prefix = prefix
        self._process = process
        self._schedules = schedules

    def check(self) -> None:
        with at_start(self._settings):
            server = self._server.client.info("server")
            policy = self._server.client.info("memory").get("maxmemory_policy", "")
        version = str(server.get("valkey_version") or server.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_VERSION:
            logger.error(
                "queue %s: server version %s is older than %d.%d, it will not work",
                self._settings.queue,
                version,
                *MINIMUM_VERSION,
            )
        if policy.startswith("allkeys"):
            logger.error(
                "queue %s: the server may evict tasks (maxmemory-policy %s); use noeviction",
                self._settings.queue,
                policy,
            )

    def in_doubt(self, age: float = 0.0) -> list[StagedBatch]:
        found: list[StagedBatch] = []
        page: dict[str, Any] = {"more": True, "last": "-inf"}
        while page["more"]:
            page = self._call("in_doubt", age=age, after=page["last"])
            found += [wire.staged_batch(record) for record in page["batches"]]
        return found

    def recover(self) -> list[str]:
        found: list[str] = []
        more = True
        while more:
            answer = self._call("recover")
            more = answer["more"]
            found += decoded(answer["back"])
        # The script recovers the oldest task last, so that it ends up at the very front.
        return found[::-1]

    def counts(self, user: str | Identity | None = None) -> dict[State, int]:
        numbers = self._without_expired("counts", **_whose(user))
        return {state: numbers[state] for state in STATES}

    def get(self, task_id: str, brief: bool = False) -> TaskStatus:
        return wire.status(self._call("get", id=task_id, brief=brief), brief)

    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        place = {"start": start, "size": size}
        found = self._without_expired("tasks", state=state or "", **_whose(user), **place)
        return [wire.status(record, brief=True) for record in found]

    def search(self, filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage:
        last = number_at(cursor, self._settings.queue, filter)
        place = {"after": str(last), "scan": SCAN, "portion": PORTION, "size": size}
        answer = self._without_expired(
            "search", **wire.conditions(filter), **_whose(filter.user), **place
        )
        tasks = tuple([wire.status(record, brief=True) for record in answer["found"]])
        if "last" not in answer:
            return TaskPage(tasks)
        return TaskPage(tasks, cursor_at(int(answer["last"]), self._settings.queue, filter))

    def _without_expired(self, operation: str, **arguments: Any) -> Any:
        """Call the script until all expired records are forgotten; return its answer then."""
        # In portions, so that the server answers other clients in between.
        while (answer := self._call(operation, **arguments)) is None:
            pass
        return answer

    def consumers(self) -> list[ConsumerStatus]:
        return sorted(
            (
                codec.consumer(record["name"], record["age"], record["running"])
                for record in self._call("consumers")
            ),
            key=lambda consumer: (consumer.name, consumer.host, consumer.pid),
        )

    def forget_consumer(self, consumer: str) -> None:
        self._call("forget_consumer", consumer=consumer, process=self._process)

    def throughput(self) -> dict[State, int]:
        numbers = self._call("throughput")
        return {state: numbers[state] for state in FINISHED}

    def cancel(self, task_id: str, reason: str = "cancelled") -> State:
        state, answer = self._change("cancel", task_id, reason=reason)
        if not answer["done"]:
            raise ForbiddenTransition(f"task {task_id} has {state}, not cancelled")
        return state

    def retry(self, task_id: str) -> None:
        state, answer = self._change("retry", task_id)
        if newer := answer.get("newer"):
            raise ForbiddenTransition(f"task {task_id}: {newer.decode()} of its key already waits")
        if not answer["done"]:
            raise ForbiddenTransition(f"task {task_id} is {state}, not queued again")

    def remove(self, task_id: str) -> None:
        state, answer = self._change("remove", task_id)
        if not answer["done"]:
            raise ForbiddenTransition(f"task {task_id} is {state}, not removed")

    def change(
        self, action: Action, task_ids: Sequence[str], states: Collection[State]
    ) -> dict[str, State]:
        if not (task_ids and states):
            return {}
        answer = self._call("change", action=action, ids=list(task_ids), states=list(states))
        pairs = zip(decoded(answer["ids"]), decoded(answer["states"]), strict=True)
        return dict(pairs)  # type: ignore[arg-type]

    def run_now(self, task_id: str) -> None:
        state, answer = self._change("run_now", task_id)
        if not answer["done"]:
            raise ForbiddenTransition(f"task {task_id} is {state}, it does not wait")

    def forget_response(self, task_id: str) -> bool:
        state, answer = self._change("forget_response", task_id)
        if not answer["done"]:
            raise ForbiddenTransition(f"task {task_id} is {state}, not finished")
        return bool(answer.get("found", True))

    def _change(self, operation: str, task_id: str, **arguments: Any) -> tuple[State, Any]:
        """Return the state of the task after the call, and what the call says of it."""
        answer = self._call(operation, id=task_id, **arguments)
        return answer["state"].decode(), answer

    def clear(self) -> int:
        # In portions, so that the server answers other clients in between. At most as many
        # tasks as there were, so that the loop ends even if tasks are added faster.
        counts = self.counts()
        limit = counts[QUEUED] + counts[SCHEDULED]
        number = 0
        while True:
            answer = self._call("clear")
            cleared = decoded(answer["cleared"])
            for task_id in cleared:
                logger.warning("task %s: its queue was reset, dropped", task_id)
            number += len(cleared)
            if not answer["rest"] or number >= limit:
                return number

    def purge(self, state: State) -> int:
        if state not in FINISHED:
            raise ForbiddenTransition(f"{state} is no final state; its tasks cannot be purged")
        number = 0
        while purged := self._call("purge", state=state):
            for task_id in decoded(purged):
                logger.info("task %s: %s tasks were purged, forgotten", task_id, state)
            number += len(purged)
        return number

    def pause(self) -> None:
        with translated():
            self._server.client.set(f"{self._prefix}:paused", "1")

    def resume(self) -> None:
        self._call("resume")

    def paused(self) -> bool:
        with translated():
            return bool(self._server.client.exists(f"{self._prefix}:paused"))

    def tick(self, schedule: str, at: float, task: Task | None = None, moves: bool = True) -> bool:
        return self._schedules.tick(schedule, at, task, moves)

    def schedule(self, name: str) -> ScheduleState:
        return self._schedules.state(name)

    def pause_schedule(self, name: str) -> None:
        self._schedules.pause(name)

    def resume_schedule(self, name: str) -> None:
        self._schedules.resume(name)


def _whose(user: str | Identity | None) -> dict[str, str]:
    """Return the argument that names the lists to read: of all tasks, a user id, or one person."""
    if user is None:
        return {}
    return {"user": user} if isinstance(user, str) else {"person": user.person}
