"""The SQL storage: one queue in SQLite or PostgreSQL; the tables are described in schema.py.

Each transition is one transaction, most of them one statement. dialect.py lists where the two
databases differ, sqlite.py and postgresql.py implement it. admin.py has the operations of an
admin.
"""

from __future__ import annotations

from collections.abc import Callable
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
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.admin import SqlAdmin
from collective.taskqueue.storages.sql.claim import Claims
from collective.taskqueue.storages.sql.damage import counted
from collective.taskqueue.storages.sql.damage import sound_id
from collective.taskqueue.storages.sql.damage import whole
from collective.taskqueue.storages.sql.dialects.dialect import dialect_of
from collective.taskqueue.storages.sql.finish import Completions
from collective.taskqueue.storages.sql.promote import Promotion
from collective.taskqueue.storages.sql.retention import Retention
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.statistics import Statistics
from collective.taskqueue.storages.sql.wakeup import Debounced
from collective.taskqueue.storages.sql.wakeup import Notifier
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from sqlalchemy import Connection
from sqlalchemy import select
from typing import Any
from uuid import uuid4
from zope.interface import implementer
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Most seconds that an idle consumer blocks.
BLOCK = 10.0

#: Seconds that the id of a promoted batch is kept; `promote` may be repeated that long.
REMEMBER = 7200.0

#: One in so many promoted batches deletes the ids that were kept long enough.
MARKS = 100

#: Seconds between two notifications of other processes.
NOTIFY_INTERVAL = 0.1


@implementer(ITaskStorage, IRemoteStorage)
class SqlStorage(Completions):
    """See `ITaskStorage`. `clock` replaces the clock of the database; for tests."""

    # A durable commit takes as long as some small tasks.
    delay = 0.1
    most = 128

    def __init__(self, settings: QueueSettings, clock: Callable[[], float] | None = None) -> None:
        self.settings = settings
        self.notify: Callable[[State, str], None] = lambda state, task_id: None
        self._session = Session(settings, dialect_of(settings), clock)
        self.in_process = self._session.dialect.in_process
        self._begin()

    def _begin(self) -> None:
        self._process = processes.identity()
        self._statements = self._session.statements
        self._notifier = Notifier(self._session.listen)
        self._notify_others = Debounced(self._session.notify, NOTIFY_INTERVAL)
        self._retention = Retention(self._session, self._changed)
        self._statistics = Statistics(self._session, self._process)
        self._claims = Claims(self._session, self._process, self._recover)
        self.admin = SqlAdmin(self._session, self._statistics, self._recover, self._changed)
        self._adopted: set[str] = set()
        self._local = threading.local()

    # enqueue

    def stage(self, batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None:
        packed = codec.pack_batch(tasks)
        values = {"batch": batch_id, "witness_": witness, "tasks_": packed}
        self._session.single(
            lambda connection, again: self._session.execute(
                connection, self._statements.stage, **values
            )
        )

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        def work(connection: Connection, again: bool) -> Notices | None:
            staged, now = self._unstage(connection, batch_id)
            batch = staged or codec.staged(tasks)
            # Without tasks, do not mark as promoted: a later call may still bring the tasks of
            # a lost batch.
            if not batch or not self._mark(connection, batch_id):
                return None
            if not staged:
                logger.warning(
                    "batch %s: lost by the database, %d tasks queued", batch_id, len(batch)
                )
            admission = Promotion(self._session, connection, tid, now)
            admission.promote(batch)
            return admission.notices

        self._changed(self._session.write(work))

    def discard(self, batch_id: str) -> None:
        self._session.single(
            lambda connection, again: self._session.execute(
                connection, self._statements.unstage, batch=batch_id
            )
        )

    def fail_batch(self, batch_id: str, reason: str) -> None:
        def work(connection: Connection, again: bool) -> Notices | None:
            batch, now = self._unstage(connection, batch_id)
            if not batch or not self._mark(connection, batch_id):
                return None
            admission = Promotion(self._session, connection, None, now)
            admission.fail_batch(batch, reason)
            return admission.notices

        self._changed(self._session.write(work))

    def _unstage(self, connection: Connection, batch_id: str) -> tuple[list[codec.Staged], float]:
        row = self._session.execute(connection, self._statements.unstage, batch=batch_id).first()
        if row is None:
            return [], self._session.now(connection)
        return codec.unpack_batch(row[0]), row[1]

    def _mark(self, connection: Connection, batch_id: str) -> bool:
        """Record that a batch was promoted or failed; return False if that was recorded before."""
        mark = self._session.execute(connection, self._statements.mark, batch=batch_id)
        marked = mark.first() is not None
        if uuid4().int % MARKS == 0:
            self._session.execute(connection, self._statements.forget_marks, remember=REMEMBER)
        return marked

    # consume

    def reserve(
        self, consumer: str, limit: int = 1, timeout: float | None = None, lease: float = 30.0
    ) -> list[Lease]:
        # Without a timeout, too, return after BLOCK seconds: a consumer has other work to do.
        deadline = time.monotonic() + (BLOCK if timeout is None else timeout)
        self._adopt(consumer)
        wakes = self._notifier.wakes
        while True:
            changes = self._notifier.changes
            rows, now, soonest = self._claims.take(consumer, limit, lease)
            self._statistics.seen(consumer, now)
            self._retention.look(now)
            leases = self._leases(consumer, rows)
            rest = deadline - time.monotonic()
            if leases or wakes != self._notifier.wakes or rest <= 0:
                # Wake a sleeping thread: it has to recover these leases when they expire.
                self._notifier.ring()
                return leases
            self._notifier.sleep(min(rest, soonest, BLOCK), changes, wakes)

    def _leases(self, consumer: str, rows: Sequence[Any]) -> list[Lease]:
        return [lease for row in rows if (lease := self._lease(consumer, row)) is not None]

    def _lease(self, consumer: str, row: Any) -> Lease | None:
        try:
            task = codec.decode(row.id, row.body, row.payload)
            if row.tid is not None and not isinstance(row.tid, bytes):
                raise TaskDecodeError("its transaction is damaged")
            numbers = counted(row.attempts), counted(row.counted)
        except (TaskDecodeError, ValueError) as exc:
            self._fail(consumer, row, f"cannot be decoded: {exc}")
            return None
        return Lease(task, row.token, consumer, *numbers, row.expires, row.tid)

    def _fail(self, consumer: str, row: Any, reason: str) -> None:
        """Fail a reserved task that cannot be decoded, so that no consumer can run it."""

        def work(connection: Connection, again: bool) -> tuple[str, Any]:
            task_id = sound_id(self._session, connection, row.id)
            return task_id, self._ending(task_id, row.token, end)(connection, again)

        attempt = AttemptRecord(whole(row.attempts), consumer, 0.0, 0.0, None, reason)
        end = Transition(FAILED, attempt, reason)
        try:
            task_id, ended = self._session.write(work)
        except StorageUnavailable as exc:
            # Its lease will expire, and the task is redelivered. Do not raise: other tasks were
            # reserved with it.
            logger.warning("task %s: %s, cannot be failed now (%s)", row.id, reason, exc)
            return
        if ended is not None:
            self._statistics.ended(FAILED, ended.now, busy=True)
            self._retention.after(FAILED, ended.now)
        logger.error("task %s: %s, failed", task_id, reason)
        self.notify(FAILED, task_id)

    def _adopt(self, consumer: str) -> None:
        """Recover the tasks that this consumer ran in dead processes of this machine."""
        if consumer in self._adopted:
            return
        mine = TASK.c.consumer == consumer
        query = (
            select(TASK.c.process)
            .where(TASK.c.queue == self.settings.queue, one_of(RUNNING), mine)
            .distinct()
        )
        found = self._session.read(lambda connection: list(connection.scalars(query)))
        dead = [name for name in found if isinstance(name, str) and processes.is_dead(name)]
        if dead:
            self._recover(mine & TASK.c.process.in_(dead))
        self._adopted.add(consumer)

    def wake(self) -> None:
        self._notifier.wake()

    def renew(self, lease: Lease, seconds: float = 30.0) -> bool:
        held = {"id_": lease.task.id, "token_": lease.token}
        row = self._session.single(
            lambda connection, again: self._session.execute(
                connection, self._statements.renew, lease=seconds, **held
            ).first()
        )
        if row is not None:
            self._statistics.seen(row.consumer, row.now)
        return row is not None

    def report(self, lease: Lease, progress: Progress | None = None) -> bool:
        def work(connection: Connection, again: bool) -> Any:
            statement = self._statements.asked if progress is None else self._statements.report
            return self._session.execute(connection, statement, **values).first()

        values = {"id_": lease.task.id, "token_": lease.token}
        if progress is not None:
            values["progress_"] = codec.pack_progress(progress)
        row = self._session.single(work)
        return True if row is None else bool(row.cancel)

    def _recover(self, condition: Any = None) -> list[str]:
        notices: Notices = []

        def work(connection: Connection, again: bool) -> list[str]:
            notices.clear()
            return transitions.recover(self._session, connection, condition, notices)

        recovered = self._session.write(work)
        if recovered or notices:
            self._changed(notices)
        return recovered

    # the process

    def after_fork(self) -> None:
        # The connections belong to the parent process.
        self._session.after_fork()
        self._begin()

    def close(self) -> None:
        self._notify_others.close()
        self._statistics.flush()
        self._notifier.close()
        self._session.close()

    def _changed(self, notices: Notices | None, *finished: State) -> None:
        """After a transaction: log it, publish events, count what finished, wake consumers."""
        if notices is None:
            return
        publish(notices, self.notify)
        ended = [*finished, *(kind for kind, _, _ in notices if kind in FINISHED)]
        now = self._session.time() if ended else 0.0
        for state in ended:
            self._statistics.ended(state, now)
            self._retention.after(state, now)
        self._notifier.ring()
        self._notify_others()
