"""The Redis storage: one queue for many processes and machines.

Keys, where P is ``collective.taskqueue.<queue>``. Names of queues and consumers have no dot
and no colon, so that no two keys can be the same:

    P                     list    ids of queued tasks, the oldest at the right end
    P.<consumer>          list    ids of the tasks that consumers of this name run
    P:task:<id>           hash    the task: body, state, reason, changes, number, counted, lost,
                                  token, done, consumer, process, started, key, mode, user,
                                  keep, tid, place, turn, cancel, progress, last, forgotten
    P:history:<id>        list    its attempts, JSON
    P:all                 zset    id → number, in the order they were queued
    P:user:<user id>      zset    the same for one user
    P:scheduled           zset    number:id → when it is due
    P:leases              zset    id → when its lease expires
    P:running             zset    id → number, in the order they were reserved
    P:finished:<state>    zset    id → number, in the order they finished
    P:consumers           zset    consumer process → when it was last heard of
    P:ended               hash    minute state → how many tasks came to it
    P:expiry              zset    id → when the record is forgotten
    P:batch:<batch>       list    a staged batch, seven strings for each task
    P:staged              zset    batch → number, in the order they were staged
    P:witness             hash    batch → when it was staged, and the reference of its witness
    P:promoted:<batch>    string  the batch was promoted; expires
    P:keys                hash    key → ids of the tasks that wait, the newest last
    P:running-keys        hash    key → number of running tasks
    P:parked              hash    key → id of a queued task that waits for its key
    P:aliases             hash    id that was skipped for its key → id of the one that waits
    P:aliases:<id>        list    the same ids for one task, the oldest at the left end
    P:ghosts              hash    id → entries in P that are to be skipped
    P:ghosts:number       string  their sum
    P:strangers           list    entries that were in P and are no tasks, the newest first
    P:number              string  the last number that was given out
    P:born                string  when the queue was first used; another one if data was lost
    P:paused              string  exists while the queue is paused
    P:wake                list    markers; an idle consumer blocks on it
    P:wake:<process>      list    markers for the threads of one process; expires

Times are seconds since the epoch by the clock of the server. All writes are made by the
script redis.lua, one atomic call for each transition; a repeated call does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.interfaces import IExchange
from collective.taskqueue.interfaces import ITaskStorage
from collective.taskqueue.storages import _process
from collective.taskqueue.storages import _wire
from collective.taskqueue.storages._news import tell
from collective.taskqueue.storages._server import BLOCK
from collective.taskqueue.storages._server import Server
from collective.taskqueue.storages._server import translated
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import LINGER
from collective.taskqueue.task import Progress
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from contextlib import contextmanager
from contextlib import nullcontext
from itertools import count
from secrets import token_hex
from typing import Any
from zope.interface import implementer
import json
import logging
import redis.exceptions
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds that a promoted batch is remembered; a promote may be repeated that long.
REMEMBER = 7200

#: Oldest server that has all that the script needs.
MINIMUM_VERSION = (6, 2)

#: Threads of one process that a wake-up reaches.
WAKE_MARKERS = 64


@implementer(ITaskStorage, IExchange)
class RedisStorage:
    """See `ITaskStorage`. `clock` takes the place of the server's clock; for tests."""

    nearby = False
    delay = 0.02

    def __init__(self, settings: QueueSettings, clock: Callable[[], float] | None = None) -> None:
        self.settings = settings
        self.notify: Callable[[str, str], None] = lambda state, task_id: None
        self._prefix = f"collective.taskqueue.{settings.queue}"
        self._clock = clock
        self._connect()

    def _connect(self) -> None:
        self._process = _process.identity()
        self._server = Server(self.settings)
        self._wakes = 0
        self._born = b""
        self._adopted: set[str] = set()
        self._local = threading.local()
        self._salt, self._nonces = token_hex(16), count()
        options = {
            "remember": REMEMBER,
            "keep_succeeded": self.settings.keep_succeeded,
            "keep_failed": self.settings.keep_failed,
            "max_finished": self.settings.max_finished,
            "max_deliveries": self.settings.max_deliveries,
            "linger": LINGER,
        }
        self._options = options
        self._encoded = {again: json.dumps({**options, "again": again}) for again in (False, True)}

    def _call(self, operation: str, *args: Any, again: bool = False) -> Any:
        with translated():
            try:
                return self._call_once(operation, again, *args)
            except redis.exceptions.ConnectionError:
                # Closed since it was used last, or just now: then nobody knows whether the
                # call was carried out. After a timeout there is no time left to ask again.
                return self._call_once(operation, True, *args)

    def _call_once(self, operation: str, again: bool, *args: Any) -> Any:
        encoded = self._encoded[again]
        if self._clock is not None:
            encoded = json.dumps({**self._options, "again": again, "now": self._clock()})
        return self._server.run(self._prefix, operation, encoded, *args)

    # in

    def stage(self, batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None:
        self._call("stage", batch_id, witness or "", *_wire.fields(tasks))

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        commit = tid.hex() if tid else ""
        promoted, news = self._call("promote", batch_id, commit)
        if promoted < 0 and tasks:
            logger.warning("batch %s: lost by the server, %d tasks queued", batch_id, len(tasks))
            promoted, news = self._call("promote", batch_id, commit, *_wire.fields(tasks))
        self._tell(news)

    def discard(self, batch_id: str) -> None:
        self._call("discard", batch_id)

    def condemn(self, batch_id: str, reason: str) -> None:
        self._tell(self._call("condemn", batch_id, reason))

    # out

    def reserve(
        self, consumer: str, limit: int = 1, timeout: float | None = None, lease: float = 30.0
    ) -> list[Lease]:
        # Without a limit it returns now and then all the same: a consumer has other things
        # to do as well.
        deadline = time.monotonic() + (BLOCK if timeout is None else timeout)
        self._adopt(consumer)
        wakes = self._wakes
        while True:
            soonest, leases = self._take(consumer, limit, lease)
            rest = deadline - time.monotonic()
            if leases or wakes != self._wakes or rest <= 0:
                return leases
            self._wait(min(rest, soonest, BLOCK))

    def _take(self, consumer: str, limit: int, lease: float) -> tuple[float, list[Lease]]:
        with self._asking() as (nonce, again):
            found = self._call("reserve", consumer, self._process, nonce, limit, lease, again=again)
            soonest, news, reserved, born = found
            self._notice_loss(born)
            self._tell(news)
            return float(soonest or "inf"), self._leases(consumer, reserved)

    @contextmanager
    def _asking(self, *tokens: str) -> Iterator[tuple[str, bool]]:
        """Yield a nonce for what is reserved, and whether the same was asked for in vain."""
        # If the reply is lost the tasks are reserved all the same: asked for again under
        # the same nonce, they are not lost until their leases expire.
        nonce, unanswered = getattr(self._local, "asked", ("", None))
        again = unanswered == tokens
        if not again:
            # Of one length, so that none is the beginning of another.
            nonce = f"{self._salt}{next(self._nonces):016x}"
        self._local.asked = nonce, tokens
        yield nonce, again
        del self._local.asked

    def _notice_loss(self, born: bytes) -> None:
        before, self._born = self._born, born
        if before not in (b"", born):
            logger.error(
                "queue %s: the server has lost all data since it was asked last (FLUSHALL, or a"
                " restart without persistence); tasks that waited are gone",
                self.settings.queue,
            )

    def _leases(self, consumer: str, reserved: Sequence[Sequence[bytes]]) -> list[Lease]:
        leases = [self._lease(consumer, *record) for record in reserved]
        return [lease for lease in leases if lease is not None]

    def _lease(
        self,
        consumer: str,
        task_id: bytes,
        body: bytes,
        token: bytes,
        number: bytes,
        counted: bytes,
        expires: bytes,
        tid: bytes,
    ) -> Lease | None:
        try:
            task = _wire.decode(body)
        except TaskDecodeError as exc:
            self._condemn(task_id.decode(), token.decode(), consumer, int(number), exc)
            return None
        return Lease(
            task,
            token.decode(),
            consumer,
            int(number),
            int(counted),
            float(expires),
            bytes.fromhex(tid.decode()) or None,
        )

    def _condemn(
        self, task_id: str, token: str, consumer: str, number: int, exc: TaskDecodeError
    ) -> None:
        reason = f"cannot be decoded: {exc}"
        attempt = _wire.lost_attempt(number, consumer, reason)
        self._call("finish", task_id, token, FAILED, reason, "", attempt, b"", "1")
        logger.error("task %s: %s, failed", task_id, reason)
        self.notify(FAILED, task_id)

    def _wait(self, seconds: float) -> None:
        markers = [f"{self._prefix}:wake:{self._process}", f"{self._prefix}:wake"]
        with translated():
            self._server.blocking.brpop(markers, timeout=max(seconds, 0.001))

    def _adopt(self, consumer: str) -> None:
        """Recover what this consumer ran in processes of this machine that are dead."""
        if consumer in self._adopted:
            return
        found = {name.decode() for name in self._call("processes", consumer)}
        dead = [name for name in found if _process.is_dead(name)]
        if dead:
            self._tell(self._call("adopt", consumer, *dead))
        self._adopted.add(consumer)

    def wake(self) -> None:
        self._wakes += 1
        marker = f"{self._prefix}:wake:{self._process}"
        try:
            with translated(), self._server.client.pipeline() as pipeline:
                pipeline.lpush(marker, *["1"] * WAKE_MARKERS)
                pipeline.expire(marker, 60)
                pipeline.execute()
        except StorageUnavailable as exc:
            logger.info("queue %s: nobody woken (%s)", self.settings.queue, exc)

    def renew(self, lease: Lease, seconds: float = 30.0) -> bool:
        return bool(self._call("renew", lease.task.id, lease.token, seconds))

    def finish(self, lease: Lease, transition: Transition) -> State | None:
        _, unanswered = getattr(self._local, "asked", ("", ()))
        again = lease.token in unanswered
        # One of many that were asked for together: the others will be, too.
        with nullcontext() if again else self._asking(lease.token):
            state, news = self._call("finish", *_wire.end(lease, transition), again=again)
        self._tell(news)
        return state.decode() or None

    def exchange(
        self,
        ends: Sequence[tuple[Lease, Transition]],
        consumer: str,
        limit: int = 1,
        seconds: float = 30.0,
    ) -> tuple[list[State | None], list[Lease]]:
        fields = [field for end in ends for field in _wire.end(*end)]
        with self._asking(*(lease.token for lease, _ in ends)) as (nonce, again):
            states, news, reserved, born = self._call(
                "exchange", consumer, self._process, nonce, limit, seconds, *fields, again=again
            )
            self._notice_loss(born)
            self._tell(news)
            return [state.decode() or None for state in states], self._leases(consumer, reserved)

    def give_back(self, leases: Sequence[Lease]) -> list[str]:
        held = [part for lease in leases for part in (lease.task.id, lease.token)]
        waiting, news = self._call("give_back", *held)
        self._tell(news)
        return [task_id.decode() for task_id in waiting]

    def report(self, lease: Lease, progress: Progress | None = None) -> bool:
        packed = "" if progress is None else _wire.pack_progress(progress)
        return bool(self._call("report", lease.task.id, lease.token, packed))

    def recover(self) -> list[str]:
        news = self._call("recover")
        self._tell(news)
        # The oldest was recovered last, to be at the very front.
        return [task_id.decode() for kind, task_id, _ in reversed(news) if kind == b"recovered"]

    def in_doubt(self, age: float = 0.0) -> list[StagedBatch]:
        found: list[StagedBatch] = []
        after = "-inf"
        while page := self._call("in_doubt", age, after):
            after = f"({page[-1][0].decode()}"
            found += [
                StagedBatch(batch.decode(), witness.decode() or None, float(since), _decoded(tasks))
                for _, batch, witness, since, tasks in page
            ]
        return found

    # introspection

    def __len__(self) -> int:
        return int(self._call("length"))

    def counts(self) -> dict[State, int]:
        return dict(zip(STATES, (int(number) for number in self._call("counts")), strict=True))

    def get(self, task_id: str) -> TaskStatus:
        return _wire.status(*self._call("get", task_id))

    def tasks(
        self, state: State | None = None, user: str | None = None, start: int = 0, size: int = 50
    ) -> list[TaskStatus]:
        found = self._call("tasks", state or "", user or "", start, size)
        return [_wire.status(*record) for record in found]

    def consumers(self) -> list[ConsumerStatus]:
        return sorted(
            (_wire.consumer(*record) for record in self._call("consumers")),
            key=lambda consumer: (consumer.name, consumer.host, consumer.pid),
        )

    def throughput(self) -> dict[State, int]:
        numbers = [int(number) for number in self._call("throughput")]
        return dict(zip(FINISHED, numbers, strict=True))

    # transitions from outside

    def cancel(self, task_id: str) -> State:
        state, done = self._call("cancel", task_id)
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

    def hasten(self, task_id: str) -> None:
        state, done = self._call("hasten", task_id)
        if not done:
            raise ForbiddenTransition(f"task {task_id} is {state.decode()}, it does not wait")

    def forget_response(self, task_id: str) -> bool:
        state, found = self._call("forget_response", task_id)
        if state.decode() not in FINISHED:
            raise ForbiddenTransition(f"task {task_id} is {state.decode()}, not finished")
        return bool(found)

    def clear(self) -> int:
        # In portions, so that the server answers others in between; not more than there
        # were, so that it ends even if tasks are added faster.
        limit = len(self) + self.counts()["scheduled"]
        number = 0
        while True:
            cleared, rest, news = self._call("clear")
            self._tell(news)
            for task_id in _decoded(cleared):
                logger.warning("task %s: its queue was reset, dropped", task_id)
            number += len(cleared)
            if not rest or number >= limit:
                return number

    def purge(self, state: State) -> int:
        if state not in FINISHED:
            raise ForbiddenTransition(f"{state} is no final state; its tasks cannot be purged")
        number = 0
        while purged := self._call("purge", state):
            for task_id in _decoded(purged):
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

    # the process

    def check(self) -> None:
        with translated():
            server = self._server.client.info("server")
            policy = self._server.client.info("memory").get("maxmemory_policy", "")
        version = str(server.get("valkey_version") or server.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_VERSION:
            logger.error(
                "queue %s: server version %s is older than %d.%d, it will not work",
                self.settings.queue,
                version,
                *MINIMUM_VERSION,
            )
        if policy.startswith("allkeys"):
            logger.error(
                "queue %s: the server may evict tasks (maxmemory-policy %s); use noeviction",
                self.settings.queue,
                policy,
            )

    def after_fork(self) -> None:
        # The sockets are the parent's.
        self._connect()

    def close(self) -> None:
        self._server.close()

    def _tell(self, news: Sequence[Sequence[bytes]]) -> None:
        parts = ([part.decode() for part in item] for item in news)
        tell(((kind, task_id, detail) for kind, task_id, detail in parts), self.notify)


def _decoded(ids: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(task_id.decode() for task_id in ids)
