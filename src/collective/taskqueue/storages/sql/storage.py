"""The SQL storage: one queue in SQLite or PostgreSQL; the tables are described in schema.py.

Each transition is one transaction, most of them one statement. A task passes batches.py, claim.py
and completions.py; after each transaction aftermath.py publishes it. dialects/dialect.py lists
where the two databases differ. admin.py has the operations of an admin.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.interfaces import ITaskStorage
from collective.taskqueue.storages import codec
from collective.taskqueue.storages import processes
from collective.taskqueue.storages.sql.admin import SqlAdmin
from collective.taskqueue.storages.sql.aftermath import Aftermath
from collective.taskqueue.storages.sql.batches import Batches
from collective.taskqueue.storages.sql.calls import Calls
from collective.taskqueue.storages.sql.claim import Claims
from collective.taskqueue.storages.sql.completions import Completions
from collective.taskqueue.storages.sql.dialects.dialect import dialect_of
from collective.taskqueue.storages.sql.recover import Recovery
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from typing import Any
from zope.interface import implementer
import time


#: Most seconds that an idle consumer blocks.
BLOCK = 10.0


@implementer(ITaskStorage, IRemoteStorage)
class SqlStorage:
    """See `ITaskStorage`. `clock` replaces the clock of the database; for tests."""

    most = 128

    def __init__(self, settings: QueueSettings, clock: Callable[[], float] | None = None) -> None:
        self.settings = settings
        self.notify: Callable[[State, str], None] = lambda state, task_id: None
        self._session = Session(settings, dialect_of(settings), clock)
        self.in_process = self._session.dialect.in_process
        # A durable commit takes as long as some small tasks. Both wait for 200 ms at most: in the
        # process, the background thread lets twice the delay pass.
        self.delay = 0.1 if self.in_process else 0.2
        self._begin()

    def _begin(self) -> None:
        session, process, calls = self._session, processes.identity(), Calls()
        self._statements = session.statements
        # `notify` is set by the queue, later.
        self._aftermath = Aftermath(session, process, lambda *event: self.notify(*event))
        self._notifier = self._aftermath.notifier
        self._batches = Batches(session, self._aftermath)
        recovery = Recovery(session, self._aftermath)
        self._claims = Claims(session, process, calls, recovery, self._fail)
        self._completions = Completions(session, calls, self._claims, self._aftermath)
        self.admin = SqlAdmin(session, recovery, self._aftermath)

    def _fail(self, consumer: str, row: Any, reason: str) -> None:
        self._completions.fail(consumer, row, reason)

    # enqueue

    def stage(self, batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None:
        self._batches.stage(batch_id, tasks, witness)

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        self._batches.promote(batch_id, tid, tasks)

    def discard(self, batch_id: str) -> None:
        self._batches.discard(batch_id)

    def fail_batch(self, batch_id: str, reason: str) -> None:
        self._batches.fail_batch(batch_id, reason)

    # consume

    def reserve(
        self,
        consumer: str,
        limit: int = 1,
        timeout: float | None = None,
        lease: float = 30.0,
        slots: Sequence[str] = (),
    ) -> list[Lease]:
        # Without a timeout, too, return after BLOCK seconds: a consumer has other work to do.
        deadline = time.monotonic() + (BLOCK if timeout is None else timeout)
        wakes = self._notifier.wakes
        while True:
            changes = self._notifier.changes
            rows, now, soonest = self._claims.take(consumer, limit, lease, slots)
            self._aftermath.reserved(consumer, now)
            leases = self._claims.leases(consumer, rows)
            rest = deadline - time.monotonic()
            if leases or wakes != self._notifier.wakes or rest <= 0:
                # Wake a sleeping thread: it has to recover these leases when they expire.
                self._notifier.ring()
                return leases
            self._notifier.sleep(min(rest, soonest, BLOCK), changes, wakes)

    def wake(self) -> None:
        self._notifier.wake()

    def renew(self, lease: Lease, seconds: float = 30.0) -> bool:
        row = self._of_lease(self._statements.renew, lease, lease=seconds)
        if row is not None:
            self._aftermath.statistics.seen(row.consumer, row.now)
        return row is not None

    def report(self, lease: Lease, progress: Progress | None = None) -> bool:
        if progress is None:
            row = self._of_lease(self._statements.asked, lease)
        else:
            packed = codec.pack_progress(progress)
            row = self._of_lease(self._statements.report, lease, progress_=packed)
        return True if row is None else bool(row.cancel)

    def complete(self, lease: Lease, transition: Transition) -> State | None:
        return self._completions.complete(lease, transition)

    def complete_and_reserve(
        self,
        ends: Sequence[tuple[Lease, Transition]],
        consumer: str,
        limit: int = 1,
        seconds: float = 30.0,
        slots: Sequence[str] = (),
    ) -> tuple[list[State | None], list[Lease]]:
        return self._completions.complete_and_reserve(ends, consumer, limit, seconds, slots)

    def release(self, leases: Sequence[Lease]) -> list[str]:
        return self._completions.release(leases)

    def _of_lease(self, statement: Any, held: Lease, **values: Any) -> Any:
        """Execute a statement for a lease that is held; return its row, or None."""
        values |= {"id_": held.task.id, "token_": held.token}
        return self._session.single(
            lambda connection: self._session.execute(connection, statement, **values).first()
        )

    # the process

    def after_fork(self) -> None:
        # The connections belong to the parent process.
        self._session.after_fork()
        self._begin()

    def close(self) -> None:
        self._aftermath.close()
        self._session.close()
