"""The Redis storage: one queue for many processes and machines.

Keys, where P is ``collective.taskqueue.<queue>``, with ``%2E`` for each dot of the queue name: so
the first dot after P begins the name of a consumer, which may contain dots. Names of queues and
consumers have no colon. So keys of two queues are never the same:

    P                     list    ids of queued tasks, the oldest at the right end
    P.<consumer>          list    ids of the tasks that consumers of this name run
    P:task:<id>           hash    the task: body (without its payload), payload, state, reason,
                                  changes, number, counted, lost, token, done, consumer, process,
                                  started, ended, key, mode, user, person, keep, tid, place,
                                  cancel, progress, status, last, forgotten
    P:history:<id>        list    the attempts of a task, JSON
    P:all                 zset    id → number, in the order they were added
    P:queued              zset    id → turn, in the order they will run
    P:scheduled           zset    number:id → when it is due
    P:running             zset    id → number, in the order they were reserved
    P:finished:<state>    zset    id → number, in the order they finished
    P:of:<state>:<user>   zset    one of the five above, of one user id; without a state, all
    P:person:<state>:<p>  zset    the same of one person, see Identity.person
    P:leases              zset    id → when its lease expires
    P:consumers           zset    consumer process → when it made its last call
    P:ended               hash    minute state → how many tasks reached that state
    P:expiry              zset    id → when the record is forgotten
    P:sizes               hash    id → bytes of a finished record
    P:bytes               string  the sum of P:sizes
    P:batch:<batch>       list    a staged batch: its ids, then nine strings for each task
    P:staged              zset    batch → number, in the order they were staged
    P:witness             hash    batch → when it was staged, and the reference of its witness
    P:promoted:<batch>    string  the batch was promoted; expires
    P:keys                hash    key → ids of the tasks that wait, the newest last
    P:running-keys        hash    key → ids of the tasks that run
    P:running-key         hash    id → key, of the tasks that run
    P:parked              hash    key → id of a queued task that waits for its key
    P:aliases             hash    id of a task skipped for its key → id of the waiting task
    P:aliases:<id>        list    the skipped ids for one task, the oldest at the left end
    P:tombstones              hash    id → number of its tombstones in P
    P:foreign           list    entries that were in P and are not tasks, the newest first
    P:broken:<name>       any     an unreadable value that was moved aside from a key
    P:number              string  the last number that the queue gave out
    P:incarnation                string  when the queue was first used; differs after a loss of data
    P:paused              string  exists while the queue is paused
    P:wake                list    markers; an idle consumer blocks on it
    P:wake:<process>      list    markers for the threads of one process; expires

Times are seconds since the epoch by the clock of the server. The script queue.lua makes all
writes, one atomic call for each transition; a repeated call does no harm. Calls that may meet a
large backlog process it in portions. No data in a key is trusted. admin.py has the operations
of admins.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.interfaces import ITaskStorage
from collective.taskqueue.storages import codec
from collective.taskqueue.storages import processes
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.notifier import publish
from collective.taskqueue.storages.redis.admin import RedisAdmin
from collective.taskqueue.storages.redis.connection import BLOCK
from collective.taskqueue.storages.redis.connection import Server
from collective.taskqueue.storages.redis.connection import SHORTEST_BLOCK
from collective.taskqueue.storages.redis.connection import translated
from collective.taskqueue.storages.redis.connection import WrongKind
from collective.taskqueue.storages.redis.script import decoded
from collective.taskqueue.storages.redis.script import Script
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from contextlib import contextmanager
from contextlib import nullcontext
from zope.interface import implementer
import logging
import time


logger = logging.getLogger("collective.taskqueue")

#: Number of threads of one process that a wake-up reaches.
WAKE_MARKERS = 64


@implementer(ITaskStorage, IRemoteStorage)
class RedisStorage:
    """The Redis storage, see `ITaskStorage`. Tests pass a `clock` to replace the server's clock."""

    in_process = False
    delay = 0.02
    # While a script runs, the server answers no other client. A call of 25 takes up to 5 ms.
    most = 25

    def __init__(self, settings: QueueSettings, clock: Callable[[], float] | None = None) -> None:
        self.settings = settings
        self.notify: Callable[[State, str], None] = lambda state, task_id: None
        # After a dot, a key has the name of a consumer.
        name = settings.queue.replace(".", "%2E")
        self._prefix = f"collective.taskqueue.{name}"
        self._clock = clock
        self._connect()

    def _connect(self) -> None:
        self._process = processes.identity()
        self._server = Server(self.settings)
        self._script = Script(self._server, self.settings, self._prefix, self._clock, self._publish)
        self._call = self._script.call
        self.admin = RedisAdmin(
            self.settings, self._server, self._script, self._prefix, self._process
        )
        self._wakes = 0
        self._incarnation = b""
        self._adopted: set[str] = set()

    # adding tasks

    def stage(self, batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None:
        self._call("stage", batch_id, witness or "", *codec.fields(tasks))

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        commit = tid.hex() if tid else ""
        if self._call("promote", batch_id, commit) < 0 and tasks:
            logger.warning("batch %s: lost by the server, %d tasks queued", batch_id, len(tasks))
            self._call("promote", batch_id, commit, *codec.fields(tasks))

    def discard(self, batch_id: str) -> None:
        self._call("discard", batch_id)

    def fail_batch(self, batch_id: str, reason: str) -> None:
        self._call("fail_batch", batch_id, reason)

    # running tasks

    def reserve(
        self, consumer: str, limit: int = 1, timeout: float | None = None, lease: float = 30.0
    ) -> list[Lease]:
        longest = min(BLOCK, max(SHORTEST_BLOCK, lease / 2))
        # Without a timeout, this returns after `longest` seconds all the same: a consumer has
        # other work, too.
        deadline = time.monotonic() + (longest if timeout is None else timeout)
        self._adopt(consumer)
        wakes = self._wakes
        while True:
            soonest, leases = self._take(consumer, limit, lease)
            rest = deadline - time.monotonic()
            if leases or wakes != self._wakes or rest <= 0:
                return leases
            woken = self._wait(min(rest, soonest))
            if timeout is None and not woken and soonest >= rest:
                # The caller looks again with its next call.
                return []

    def _take(self, consumer: str, limit: int, lease: float) -> tuple[float, list[Lease]]:
        with self._script.asking() as (nonce, again):
            found = self._call("reserve", consumer, self._process, nonce, limit, lease, again=again)
            soonest, reserved, incarnation = found
            self._notice_loss(incarnation)
            leases = self._leases(consumer, reserved)
            # If no reserved task can be decoded, other tasks may wait: do not block.
            return 0.0 if reserved else float(soonest or "inf"), leases

    def _notice_loss(self, incarnation: bytes) -> None:
        before, self._incarnation = self._incarnation, incarnation
        if before not in (b"", incarnation):
            logger.error(
                "queue %s: the server has lost all data since the last call (FLUSHALL, or a"
                " restart without persistence); waiting tasks are lost",
                self.settings.queue,
            )

    def _leases(self, consumer: str, reserved: Sequence[Sequence[bytes]]) -> list[Lease]:
        leases = [self._lease(consumer, *record) for record in reserved]
        return [lease for lease in leases if lease is not None]

    def _lease(
        self,
        consumer: str,
        task_id: bytes,
        head: bytes,
        payload: bytes,
        token: bytes,
        number: bytes,
        counted: bytes,
        expires: bytes,
        tid: bytes,
    ) -> Lease | None:
        try:
            task = codec.decode(task_id.decode(), head, payload)
            commit = bytes.fromhex(tid.decode()) or None
        except (TaskDecodeError, ValueError) as exc:
            name = task_id.decode(errors="replace")
            self._fail_unreadable(task_id, name, token.decode(), consumer, int(number), exc)
            return None
        return Lease(
            task, token.decode(), consumer, int(number), int(counted), float(expires), commit
        )

    def _fail_unreadable(
        self,
        task_id: bytes,
        name: str,
        token: str,
        consumer: str,
        number: int,
        exc: Exception,
    ) -> None:
        # The text of other errors may quote the data that could not be decoded.
        why = exc if isinstance(exc, TaskDecodeError) else type(exc).__name__
        reason = f"cannot be decoded: {why}"
        attempt = codec.lost_attempt(number, consumer, reason)
        self._call("complete", task_id, token, FAILED, reason, "", attempt, "", b"", "1")
        logger.error("task %s: %s, failed", name, reason)
        self.notify(FAILED, name)

    def _wait(self, seconds: float) -> bool:
        """Block until a wake-up marker comes; return whether one came within these seconds."""
        markers = [f"{self._prefix}:wake:{self._process}", f"{self._prefix}:wake"]
        with self._mended(), translated():
            return bool(self._server.blocking.brpop(markers, timeout=max(seconds, 0.001)))
        return True

    def _adopt(self, consumer: str) -> None:
        """Recover the tasks that dead processes of this machine ran under this consumer name."""
        if consumer in self._adopted:
            return
        found = decoded(self._call("processes", consumer))
        dead = [name for name in found if processes.is_dead(name)]
        while dead and self._call("adopt", consumer, *dead):
            pass
        self._adopted.add(consumer)

    def wake(self) -> None:
        self._wakes += 1
        marker = f"{self._prefix}:wake:{self._process}"
        try:
            with self._mended(), translated(), self._server.client.pipeline() as pipeline:
                pipeline.lpush(marker, *["1"] * WAKE_MARKERS)
                pipeline.expire(marker, 60)
                pipeline.execute()
        except StorageUnavailable as exc:
            logger.debug(
                "queue %s: idle consumers not woken (%s), they look again by themselves",
                self.settings.queue,
                exc,
            )

    @contextmanager
    def _mended(self) -> Iterator[None]:
        """Move marker keys of the wrong type aside; one wait or wake without effect is harmless."""
        try:
            yield
        except WrongKind:
            self._call("mend", self._process)

    def renew(self, lease: Lease, seconds: float = 30.0) -> bool:
        return bool(self._call("renew", lease.task.id, lease.token, seconds))

    def complete(self, lease: Lease, transition: Transition) -> State | None:
        again = self._script.asked_in_vain(lease.token)
        # If an unanswered call had this lease among others, keep the record of that call: the
        # caller will finish the other leases of it, too.
        with nullcontext() if again else self._script.asking(lease.token):
            state = self._call("complete", *codec.pack_completion(lease, transition), again=again)
        return state.decode() or None

    def complete_and_reserve(
        self,
        ends: Sequence[tuple[Lease, Transition]],
        consumer: str,
        limit: int = 1,
        seconds: float = 30.0,
    ) -> tuple[list[State | None], list[Lease]]:
        fields = [field for end in ends for field in codec.pack_completion(*end)]
        with self._script.asking(*(lease.token for lease, _ in ends)) as (nonce, again):
            states, reserved, incarnation = self._call(
                "complete_and_reserve",
                consumer,
                self._process,
                nonce,
                limit,
                seconds,
                *fields,
                again=again,
            )
            self._notice_loss(incarnation)
            return [state.decode() or None for state in states], self._leases(consumer, reserved)

    def release(self, leases: Sequence[Lease]) -> list[str]:
        held = [part for lease in leases for part in (lease.task.id, lease.token)]
        return list(decoded(self._call("release", *held)))

    def report(self, lease: Lease, progress: Progress | None = None) -> bool:
        packed = "" if progress is None else codec.pack_progress(progress)
        return bool(self._call("report", lease.task.id, lease.token, packed))

    # the process

    def after_fork(self) -> None:
        # The existing sockets belong to the parent process.
        self._connect()

    def close(self) -> None:
        self._server.close()

    def _publish(self, notices: Notices) -> None:
        publish(notices, self.notify)
