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
script redis.lua, one atomic call for each transition; a repeated call does no harm. What
people do with a queue is in _redis_oversight.py.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.interfaces import IExchange
from collective.taskqueue.interfaces import ITaskStorage
from collective.taskqueue.storages import _process
from collective.taskqueue.storages import _wire
from collective.taskqueue.storages._news import tell
from collective.taskqueue.storages._redis_oversight import Oversight
from collective.taskqueue.storages._script import decoded
from collective.taskqueue.storages._script import Script
from collective.taskqueue.storages._server import BLOCK
from collective.taskqueue.storages._server import Server
from collective.taskqueue.storages._server import translated
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from contextlib import nullcontext
from zope.interface import implementer
import logging
import time


logger = logging.getLogger("collective.taskqueue")

#: Oldest server that has all that the script needs.
MINIMUM_VERSION = (6, 2)

#: Threads of one process that a wake-up reaches.
WAKE_MARKERS = 64


@implementer(ITaskStorage, IExchange)
class RedisStorage(Oversight):
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
        self._script = Script(self._server, self.settings, self._prefix, self._clock)
        self._call = self._script.call
        self._wakes = 0
        self._born = b""
        self._adopted: set[str] = set()

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
        with self._script.asking() as (nonce, again):
            found = self._call("reserve", consumer, self._process, nonce, limit, lease, again=again)
            soonest, news, reserved, born = found
            self._notice_loss(born)
            self._tell(news)
            return float(soonest or "inf"), self._leases(consumer, reserved)

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
            logger.debug("queue %s: nobody woken (%s)", self.settings.queue, exc)

    def renew(self, lease: Lease, seconds: float = 30.0) -> bool:
        return bool(self._call("renew", lease.task.id, lease.token, seconds))

    def finish(self, lease: Lease, transition: Transition) -> State | None:
        again = self._script.asked_in_vain(lease.token)
        # One of many that were asked for together: the others will be, too.
        with nullcontext() if again else self._script.asking(lease.token):
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
        with self._script.asking(*(lease.token for lease, _ in ends)) as (nonce, again):
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
                StagedBatch(batch.decode(), witness.decode() or None, float(since), decoded(tasks))
                for _, batch, witness, since, tasks in page
            ]
        return found

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
