"""The admin operations of a Redis queue, most of them one call of the script each."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.interfaces import ITaskAdmin
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.redis.connection import at_start
from collective.taskqueue.storages.redis.connection import Server
from collective.taskqueue.storages.redis.connection import translated
from collective.taskqueue.storages.redis.script import decoded
from collective.taskqueue.storages.redis.script import Script
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskStatus
from typing import Any
from zope.interface import implementer
import logging


logger = logging.getLogger("collective.taskqueue")


#: The oldest version of the server that has all that the script needs.
MINIMUM_VERSION = (6, 2)


@implementer(ITaskAdmin)
class RedisAdmin:
    """See `ITaskAdmin`. `prefix` begins the keys of the queue, `process` names this process."""

    def __init__(
        self, settings: QueueSettings, server: Server, script: Script, prefix: str, process: str
    ) -> None:
        self._settings = settings
        self._server = server
        self._call = script.call
        self._prefix = prefix
        self._process = process

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
        after: str | bytes = "-inf"
        more = True
        while more:
            more, after, page = self._call("in_doubt", age, after)
            for batch in page:
                name, witness, since, tasks = decoded(batch)
                ids = tuple(tasks.split())
                found.append(StagedBatch(name, witness or None, float(since), ids))
        return found

    def recover(self) -> list[str]:
        found: list[str] = []
        more = True
        while more:
            more, back = self._call("recover")
            found += decoded(back)
        # The script recovers the oldest task last, so that it ends up at the very front.
        return found[::-1]

    def counts(self, user: str | Identity | None = None) -> dict[State, int]:
        numbers = self._without_expired("counts", *_whose(user))
        return dict(zip(STATES, (int(number) for number in numbers), strict=True))

    def get(self, task_id: str, brief: bool = False) -> TaskStatus:
        return _status(self._call("get", task_id, "0" if brief else "1"))

    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        found = self._without_expired("tasks", state or "", *_whose(user), start, size)
        return [_status(record) for record in found]

    def _without_expired(self, *call: Any) -> Any:
        """Call the script until all expired records are forgotten; return its answer then."""
        # In portions, so that the server answers other clients in between.
        while (answer := self._call(*call)) == b"":
            pass
        return answer

    def consumers(self) -> list[ConsumerStatus]:
        return sorted(
            (codec.consumer(*record) for record in self._call("consumers")),
            key=lambda consumer: (consumer.name, consumer.host, consumer.pid),
        )

    def forget_consumer(self, consumer: str) -> None:
        self._call("forget_consumer", consumer, self._process)

    def throughput(self) -> dict[State, int]:
        numbers = [int(number) for number in self._call("throughput")]
        return dict(zip(FINISHED, numbers, strict=True))

    def cancel(self, task_id: str, reason: str = "cancelled") -> State:
        state, done = self._call("cancel", task_id, reason)
        if not done:
            raise ForbiddenTransition(f"task {task_id} has {state.decode()}, not cancelled")
        return state.decode()

    def retry(self, task_id: str) -> None:
        state, done, newer = self._call("retry", task_id)
        if newer:
            raise ForbiddenTransition(f"task {task_id}: {newer.decode()} of its key already waits")
        if not done:
            raise ForbiddenTransition(f"task {task_id} is {state.decode()}, not queued again")

    def remove(self, task_id: str) -> None:
        state, done = self._call("remove", task_id)
        if not done:
            raise ForbiddenTransition(f"task {task_id} is {state.decode()}, not removed")

    def run_now(self, task_id: str) -> None:
        state, done = self._call("run_now", task_id)
        if not done:
            raise ForbiddenTransition(f"task {task_id} is {state.decode()}, it does not wait")

    def forget_response(self, task_id: str) -> bool:
        state, found = self._call("forget_response", task_id)
        if state.decode() not in FINISHED:
            raise ForbiddenTransition(f"task {task_id} is {state.decode()}, not finished")
        return bool(found)

    def clear(self) -> int:
        # In portions, so that the server answers other clients in between. At most as many
        # tasks as there were, so that the loop ends even if tasks are added faster.
        counts = self.counts()
        limit = counts[QUEUED] + counts[SCHEDULED]
        number = 0
        while True:
            cleared, rest = self._call("clear")
            for task_id in decoded(cleared):
                logger.warning("task %s: its queue was reset, dropped", task_id)
            number += len(cleared)
            if not rest or number >= limit:
                return number

    def purge(self, state: State) -> int:
        if state not in FINISHED:
            raise ForbiddenTransition(f"{state} is no final state; its tasks cannot be purged")
        number = 0
        while purged := self._call("purge", state):
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


def _whose(user: str | Identity | None) -> tuple[str, str]:
    """Return kind and name of the lists to read: of all tasks, a user id, or one person."""
    if user is None:
        return "", ""
    return ("of", user) if isinstance(user, str) else ("person", user.person)


def _status(record: Any) -> TaskStatus:
    task_id, values, history, due = record
    names = BRIEF if history == b"" else (*BRIEF, *LARGE)
    found = dict(zip(names, values, strict=True))
    return codec.status(task_id, found, None if history == b"" else history, due)


#: The fields of a record that the script returns, in its order; `LARGE` only for full ones.
BRIEF = (
    *("state", "reason", "changes", "consumer", "body", "number", "progress", "cancel"),
    *("status", "forgotten", "place", "user", "person"),
)
LARGE = ("payload", "last")
