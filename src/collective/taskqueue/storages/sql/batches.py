"""Batches of a SQL queue: staged by a transaction, then promoted, discarded or failed, once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.sql.aftermath import Aftermath
from collective.taskqueue.storages.sql.promote import Promotion
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.task import Task
from sqlalchemy import Connection
from uuid import uuid4
import logging


logger = logging.getLogger("collective.taskqueue")

#: Seconds that the id of a promoted batch is kept; `promote` may be repeated that long.
REMEMBER = 7200.0

#: One in so many promoted batches deletes the ids that were kept long enough.
MARKS = 100


class Batches:
    """See the module; each call may be repeated, a batch is promoted or failed once."""

    def __init__(self, session: Session, aftermath: Aftermath) -> None:
        self._session = session
        self._statements = session.statements
        self._aftermath = aftermath

    def stage(self, batch_id: str, tasks: Sequence[Task], witness: str | None) -> None:
        """Store a batch; replaces one of the same id."""
        packed = codec.pack_batch(tasks)
        values = {"batch": batch_id, "witness_": witness, "tasks_": packed}

        def work(connection: Connection) -> None:
            numbered = self._session.dialect.numbered(connection)
            self._session.execute(connection, self._statements.stage, **values, **numbered)

        self._session.single(work)

    def promote(self, batch_id: str, tid: bytes | None, tasks: Sequence[Task]) -> None:
        """Queue the tasks of a batch; those of `tasks` if the database has lost it."""

        def admit(admission: Promotion, staged: list[codec.Staged]) -> None:
            batch = staged or codec.staged(tasks)
            if not staged:
                logger.warning(
                    "batch %s: lost by the database, %d tasks queued", batch_id, len(batch)
                )
            admission.promote(batch)

        # Without tasks, do not mark as promoted: a later call may still bring the tasks of a lost
        # batch.
        self._admit(batch_id, tid, admit, known=bool(tasks))

    def discard(self, batch_id: str) -> None:
        """Delete a staged batch."""
        # SQLite commits nothing while a statement has rows that were not read.
        self._session.single(
            lambda connection: self._session.execute(
                connection, self._statements.unstage, batch=batch_id
            ).close()
        )

    def fail_batch(self, batch_id: str, reason: str) -> None:
        """Record the tasks of a staged batch as failed."""
        self._admit(batch_id, None, lambda admission, batch: admission.fail_batch(batch, reason))

    def _admit(
        self,
        batch_id: str,
        tid: bytes | None,
        admit: Callable[[Promotion, list[codec.Staged]], None],
        known: bool = False,
    ) -> None:
        """Call `admit` for a batch that is staged, or `known`, unless it was admitted before."""

        def work(connection: Connection) -> Notices | None:
            staged, now = self._unstage(connection, batch_id)
            if not (staged or known) or not self._mark(connection, batch_id):
                return None
            admission = Promotion(self._session, connection, tid, now)
            admit(admission, staged)
            return admission.notices

        notices = self._session.write(work)
        if notices is not None:
            self._aftermath.changed(notices)

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
