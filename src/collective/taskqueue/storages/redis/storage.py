"""The Redis storage: one queue for many processes and machines.

``common.lua`` describes the keys. The script of the road, ``road.lua``, makes all writes, one
atomic call for each transition; a repeated call does no harm. ``admin.py`` has the operations of
admins.
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
from collective.taskqueue.storages.redis import wire
from collective.taskqueue.storages.redis.admin import RedisAdmin
from collective.taskqueue.storages.redis.connection import BLOCK
from collective.taskqueue.storages.redis.connection import Server
from collective.taskqueue.storages.redis.connection import SHORTEST_BLOCK
from collective.taskqueue.storages.redis.errors import translated
from collective.taskqueue.storages.redis.errors import WrongKind
from collective.taskqueue.storages.redis.failover import Batch
from collective.taskqueue.storages.redis.failover import Promoted
from collective.taskqueue.storages.redis.schedules import Schedules
from collective.taskqueue.storages.redis.script import decoded
from collective.taskqueue.storages.redis.script import Script
from collective.taskqueue.storages.redis.sentinels import Sentinels
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from contextlib import contextmanager
from functools import partial
from typing import Any
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
    delay = 0.05
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
        script = partial(
            Script,
            server=self._server,
            settings=self.settings,
            prefix=self._prefix,
            clock=self._clock,
            publish=self._publish,
        )
        self._script, admin = script("road"), script("admin")
        self._call, self._call_admin = self._script.call, admin.call
        #: Only with sentinels.
        self._promoted: Promoted | None = None
        if self._server.sentinels is not None:
            self._promoted = Promoted()
            self._call = partial(self._call_and_verify, self._server.sentinels, self._promoted)
        schedules = Schedules(lambda *args, **given: self._call(*args, **given))
        self.admin = RedisAdmin(
            self.settings, self._server, admin, self._prefix, self._process, schedules
        )
        self._wakes = 0
        self._incarnation = b""
        self._adopted: set[str] = set()

    def _call_and_verify(
        self, sentinels: Sentinels, promoted: Promoted, *args: Any, **kwargs: Any
    ) -> Any:
        """Call the script; after a failover, find out what the new master does not have."""
        answer = self._script.call(*args, **kwargs)
        master = sentinels.failover()
        if master:
            try:
                done = promoted.verify(self.settings.queue, master, self._promote_again)
            except StorageUnavailable:
                # The call itself was carried out.
                done = False
            if not done:
                sentinels.report_again()
        return answer

    def _promote_again(self, batch: Batch) -> int:
        commit = batch.tid.hex() if batch.tid else None
        return int(self._script.call("promote", batch=batch.id, tid=commit))

    # adding tasks

    def stage(self, batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None:
        ids = " ".join([task.id for task in tasks])
        self._call(
            "stage",
            tasks=wire.portions(tasks),
            batch=batch_id,
            witness=witness,
            ids=ids,
            number=len(tasks),
        )

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        commit = tid.hex() if tid else None
        verified = self._promoted.verified if self._promoted else 0
        if self._call("promote", batch=batch_id, tid=commit) < 0 and tasks:
            logger.warning("batch %s: lost by the server, %d tasks queued", batch_id, len(tasks))
            self._call("promote", tasks=wire.portions(tasks), batch=batch_id, tid=commit)
        if self._promoted is not None and self._server.sentinels is not None:
            self._promoted.remember(batch_id, tid, tasks)
            if self._promoted.verified != verified:
                # Another thread has verified all batches but this one, after a failover.
                self._server.sentinels.report_again()

    def discard(self, batch_id: str) -> None:
        self._call("discard", batch=batch_id)

    def fail_batch(self, batch_id: str, reason: str) -> None:
        self._call("fail_batch", batch=batch_id, reason=reason)

    # running tasks

    def reserve(
        self,
        consumer: str,
        limit: int = 1,
        timeout: float | None = None,
        lease: float = 30.0,
        slots: Sequence[str] = (),
    ) -> list[Lease]:
        longest = min(BLOCK, max(SHORTEST_BLOCK, lease / 2))
        # Without a timeout, this returns after `longest` seconds all the same: a consumer has
        # other work, too.
        deadline = time.monotonic() + (longest if timeout is None else timeout)
        self._adopt(consumer)
        wakes = self._wakes
        while True:
            soonest, leases = self._take(consumer, limit, lease, slots)
            rest = deadline - time.monotonic()
            if leases or wakes != self._wakes or rest <= 0:
                return leases
            woken = self._wait(min(rest, soonest, longest))
            if timeout is None and not woken and soonest >= rest:
                # The caller looks again with its next call.
                return []

    def _take(
        self, consumer: str, limit: int, lease: float, slots: Sequence[str]
    ) -> tuple[float, list[Lease]]:
        with self._script.ids.repeatable() as call:
            found = self._call(
                "reserve",
                call,
                consumer=consumer,
                process=self._process,
                limit=limit,
                lease=lease,
                slots=slots,
            )
            self._notice_loss(found["incarnation"])
            leases = self._leases(consumer, found["leases"])
            # If no reserved task can be decoded, other tasks may wait: do not block.
            soonest = 0.0 if found["leases"] else found.get("soonest", float("inf"))
            return soonest, leases

    def _notice_loss(self, incarnation: bytes) -> None:
        before, self._incarnation = self._incarnation, incarnation
        if before not in (b"", incarnation):
            logger.error(
                "queue %s: the server has lost all data since the last call (FLUSHALL, or a"
                " restart without persistence); waiting tasks are lost",
                self.settings.queue,
            )

    def _leases(self, consumer: str, reserved: Sequence[wire.Record]) -> list[Lease]:
        leases = [self._lease(consumer, record) for record in reserved]
        return [lease for lease in leases if lease is not None]

    def _lease(self, consumer: str, record: wire.Record) -> Lease | None:
        try:
            return wire.lease(record, consumer)
        except (TaskDecodeError, ValueError) as exc:
            self._fail_unreadable(consumer, record, exc)
            return None

    def _fail_unreadable(self, consumer: str, record: wire.Record, exc: Exception) -> None:
        # The text of other errors may quote the data that could not be decoded.
        why = exc if isinstance(exc, TaskDecodeError) else type(exc).__name__
        reason = f"cannot be decoded: {why}"
        name = record["id"].decode(errors="replace")
        self._call("complete", **wire.unreadable(record, consumer, reason))
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
        found = decoded(self._call_admin("processes", consumer=consumer))
        dead = [name for name in found if processes.is_dead(name)]
        while dead and self._call_admin("adopt", consumer=consumer, processes=dead):
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
            self._call_admin("mend", process=self._process)

    def renew(self, lease: Lease, seconds: float = 30.0) -> bool:
        return bool(self._call("renew", id=lease.task.id, token=lease.token, lease=seconds))

    def complete(self, lease: Lease, transition: Transition) -> State | None:
        with self._script.ids.repeatable(lease.token) as call:
            return wire.state(self._call("complete", call, **wire.completion(lease, transition)))

    def complete_and_reserve(
        self,
        ends: Sequence[tuple[Lease, Transition]],
        consumer: str,
        limit: int = 1,
        seconds: float = 30.0,
        slots: Sequence[str] = (),
    ) -> tuple[list[State | None], list[Lease]]:
        with self._script.ids.repeatable(*(lease.token for lease, _ in ends)) as call:
            found = self._call(
                "complete_and_reserve",
                call,
                completions=[wire.completion(*end) for end in ends],
                consumer=consumer,
                process=self._process,
                limit=limit,
                lease=seconds,
                slots=slots,
            )
            self._notice_loss(found["incarnation"])
            states = [wire.state(state) for state in found["states"]]
            return states, self._leases(consumer, found["leases"])

    def release(self, leases: Sequence[Lease]) -> list[str]:
        held = [{"id": lease.task.id, "token": lease.token} for lease in leases]
        return list(decoded(self._call("release", leases=held)))

    def report(self, lease: Lease, progress: Progress | None = None) -> bool:
        packed = None if progress is None else codec.pack_progress(progress)
        return bool(self._call("report", id=lease.task.id, token=lease.token, progress=packed))

    # the process

    def after_fork(self) -> None:
        # The existing sockets belong to the parent process.
        self._connect()

    def close(self) -> None:
        self._server.close()

    def _publish(self, notices: Notices) -> None:
        publish(notices, self.notify)
