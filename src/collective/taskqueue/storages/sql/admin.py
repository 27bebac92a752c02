"""The admin of a SQL queue: operations that inspect and control it, one transaction each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from collections.abc import Sequence
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskAdmin
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.storages import codec
from collective.taskqueue.storages import processes
from collective.taskqueue.storages.sql import transitions
from collective.taskqueue.storages.sql.aftermath import Aftermath
from collective.taskqueue.storages.sql.changes import Changes
from collective.taskqueue.storages.sql.counters import LIMIT
from collective.taskqueue.storages.sql.counters import recount
from collective.taskqueue.storages.sql.damage import in_order
from collective.taskqueue.storages.sql.damage import moment
from collective.taskqueue.storages.sql.damage import shown
from collective.taskqueue.storages.sql.pages import BRIEF
from collective.taskqueue.storages.sql.recover import Recovery
from collective.taskqueue.storages.sql.rows import status_of
from collective.taskqueue.storages.sql.schedules import Schedules
from collective.taskqueue.storages.sql.schema import indexed
from collective.taskqueue.storages.sql.schema import QUEUE
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.search import Search
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.storages.sql.states import weight
from collective.taskqueue.task import Action
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from decimal import Decimal
from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import null
from sqlalchemy import select
from typing import Any
from zope.interface import implementer
import logging


logger = logging.getLogger("collective.taskqueue")


#: The age in seconds of a batch if the time at which it was staged is damaged.
OLD = 1e9


@implementer(ITaskAdmin)
class SqlAdmin:
    """See `ITaskAdmin`."""

    def __init__(self, session: Session, recovery: Recovery, aftermath: Aftermath) -> None:
        self._session = session
        self._statistics = aftermath.statistics
        self._recovery = recovery
        self._changed = aftermath.changed
        self._search = Search(session)
        self._schedules = Schedules(session, aftermath)
        self._changes = Changes(session, aftermath.changed)
        self._here = TASK.c.queue == session.settings.queue
        self._mine = QUEUE.c.name == session.settings.queue

    def check(self) -> None:
        self._session.check()

    def in_doubt(self, age: float = 0.0) -> list[StagedBatch]:
        found: list[StagedBatch] = []
        after = 0
        # In pages, since the rows hold the tasks. Each page starts after the last one, since the
        # oldest batches may stay in doubt for long.
        while rows := self._read(self._session.statements.in_doubt, age=age, after=after):
            after = rows[-1].number
            found += [_in_doubt(row) for row in rows]
        return found

    def recover(self) -> list[str]:
        return self._recovery.recover()

    def counts(self, user: str | Identity | None = None) -> dict[State, int]:
        if user is None:
            found = self._session.read(self._counters)
            return found or self._session.write(self._recounted)
        pages = self._session.statements.pages
        found = dict.fromkeys(STATES, 0)
        if isinstance(user, Identity):
            rows = self._read(pages.counts_of_person, **_person(user))
        else:
            rows = self._read(pages.counts_of_user, user_=indexed(user))
        for state, number in rows:
            # Any other state is damaged.
            if state in found:
                found[state] += number
        return found

    def get(self, task_id: str, brief: bool = False) -> TaskStatus:
        statements = self._session.statements
        rows = self._read(statements.get_brief if brief else statements.get, id=task_id)
        if not rows:
            raise self._unknown(task_id)
        return status_of(rows[0], brief)

    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        pages = self._session.statements.pages
        statement = pages.pages[state, user is not None]
        if user is None:
            rows = self._read(statement, start_=_most(start), size_=_most(size))
        elif isinstance(user, Identity):
            values = {"start_": _most(start), "size_": _most(size)}
            rows = self._read(statement, **values, **_person(user))
        else:
            rows = self._of_all_persons(statement, indexed(user), state, start, size)
        return [status_of(row, brief=True) for row in rows]

    def _of_all_persons(
        self, statement: Any, user: str, state: State | None, start: int, size: int
    ) -> list[Any]:
        """Return one page of the tasks of all users with that id, each in their user folder."""
        persons = self._read(self._session.statements.pages.persons, user_=user)
        if len(persons) == 1:
            values = {"start_": _most(start), "size_": _most(size)}
            return self._read(statement, **values, user_=user, person_=persons[0].person)
        rows: list[Any] = []
        for [person] in persons:
            values = {"start_": 0, "size_": _most(start + size)}
            rows += self._read(statement, **values, user_=user, person_=person)
        rows.sort(key=lambda row: [in_order(value) for value in row[len(BRIEF) :]])
        return rows[start : start + size]

    def search(self, filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage:
        return self._search.page(filter, cursor, size)

    def change(
        self, action: Action, task_ids: Sequence[str], states: Collection[State]
    ) -> dict[str, State]:
        return self._changes.change(action, task_ids, states)

    def consumers(self) -> list[ConsumerStatus]:
        pages = self._session.statements.pages
        tasks: dict[tuple[str, str], list[str]] = {}
        for name, process, task_id in self._read(pages.running):
            tasks.setdefault((name, process), []).append(shown(task_id))
        return [
            _consumer(row, tuple(tasks.get((row.name, row.process), ())))
            for row in self._read(pages.consumers)
        ]

    def forget_consumer(self, consumer: str) -> None:
        self._statistics.forget(consumer)

    def throughput(self) -> dict[State, int]:
        self._statistics.flush()
        minute = int(self._session.time() // 60)
        found = self._read(self._session.statements.pages.throughput, minute_=minute)
        return {**dict.fromkeys(FINISHED, 0), **{state: int(number) for state, number in found}}

    def cancel(self, task_id: str, reason: str = "cancelled") -> State:
        def work(connection: Connection) -> State:
            row = self._locked(connection, task_id)
            if row.state in FINISHED:
                raise ForbiddenTransition(f"task {task_id} has {row.state}, not cancelled")
            values: dict[str, Any] = {"cancel": True}
            if row.state != RUNNING:
                now = self._session.now(connection)
                values = transitions.concluded(self._session, connection, CANCELLED, now, reason)
            self._update(connection, row.id, values)
            return RUNNING if row.state == RUNNING else CANCELLED

        state = self._session.write(work)
        if state == CANCELLED:
            self._changed([], CANCELLED)
        return state

    def retry(self, task_id: str) -> None:
        def work(connection: Connection) -> None:
            key = self._found(connection, task_id, self._session.statements.known).key
            if key is not None:
                self._session.dialect.lock_keys(connection, [key])
            row = self._locked(connection, task_id)
            if row.state not in (FAILED, CANCELLED):
                raise ForbiddenTransition(f"task {task_id} is {row.state}, not queued again")
            newer = transitions.newer(self._session, connection, row.key, row.mode)
            if newer is not None:
                raise ForbiddenTransition(f"task {task_id}: {newer} of its key already waits")
            now = self._session.now(connection)
            fresh: dict[str, Any] = {"counted": 0, "lost": 0, "cancel": False}
            transitions.queue_again(self._session, connection, row.id, now, **fresh)

        self._session.write(work)
        self._changed([])

    def run_now(self, task_id: str) -> None:
        def work(connection: Connection) -> None:
            row = self._locked(connection, task_id)
            if row.state not in (QUEUED, SCHEDULED):
                raise ForbiddenTransition(f"task {task_id} is {row.state}, it does not wait")
            if row.state == SCHEDULED:
                now = self._session.now(connection)
                transitions.queue_again(self._session, connection, row.id, now)

        self._session.write(work)
        self._changed([])

    def remove(self, task_id: str) -> None:
        def work(connection: Connection) -> None:
            row = self._locked(connection, task_id)
            if row.state not in FINISHED:
                raise ForbiddenTransition(f"task {task_id} is {row.state}, not removed")
            connection.execute(delete(TASK).where(self._here, TASK.c.id == row.id))

        self._session.write(work)

    def forget_response(self, task_id: str) -> bool:
        def work(connection: Connection) -> bool:
            row = self._locked(connection, task_id)
            if row.state not in FINISHED:
                raise ForbiddenTransition(f"task {task_id} is {row.state}, not finished")
            if not row.responded:
                return False
            size = weight(TASK.c.history, null(), TASK.c.payload)
            values = {"last": None, "status": None, "forgotten": True, "size": size}
            self._update(connection, row.id, values)
            return True

        return self._session.write(work)

    def clear(self) -> int:
        # Delete about as many tasks as there were: the loop ends even if tasks are added faster.
        most = self.counts()
        queued = self._forget(most[QUEUED], TASK.c.place, one_of(QUEUED))
        ids = queued + self._forget(most[SCHEDULED], TASK.c.due, one_of(SCHEDULED))
        for task_id in ids:
            logger.warning("task %s: its queue was reset, dropped", task_id)
        return len(ids)

    def purge(self, state: State) -> int:
        if state not in FINISHED:
            raise ForbiddenTransition(f"{state} is no final state; its tasks cannot be purged")
        finished = one_of(*FINISHED), one_of(state)
        ids = self._forget(self.counts()[state], TASK.c.place, *finished)
        for task_id in ids:
            logger.info("task %s: %s tasks were purged, forgotten", task_id, state)
        return len(ids)

    def pause(self) -> None:
        self._set_paused(True)

    def resume(self) -> None:
        self._set_paused(False)
        self._changed([])

    def paused(self) -> bool:
        return any(row.paused for row in self._read(select(QUEUE.c.paused).where(self._mine)))

    def tick(self, schedule: str, at: float, task: Task | None = None, moves: bool = True) -> bool:
        return self._schedules.tick(schedule, at, task, moves)

    def schedule(self, name: str) -> ScheduleState:
        return self._schedules.state(name)

    def pause_schedule(self, name: str) -> None:
        self._schedules.pause(name)

    def resume_schedule(self, name: str) -> None:
        self._schedules.resume(name)

    def _counters(self, connection: Connection) -> dict[State, int] | None:
        """Return how many tasks are in each state; None if a counter is missing or damaged."""
        found: dict[State, int] = {}
        overdue: Counter[State] = Counter()
        rows = self._session.execute(connection, self._session.statements.pages.counts)
        for state, number, is_counter in rows:
            if not is_counter:
                overdue[state] = number
            elif state in STATES and isinstance(number, int | Decimal) and 0 <= number <= LIMIT:
                found[state] = int(number)
        if len(found) < len(STATES):
            return None
        return {state: max(0, found[state] + overdue[state]) for state in STATES}

    def _recounted(self, connection: Connection) -> dict[State, int]:
        # Counting takes longer the more tasks there are. Another process may have counted them
        # while this one waited for the lock.
        self._session.dialect.take_time()
        self._session.dialect.lock_schema(connection)
        found = self._counters(connection)
        if found is None:
            recount(connection, self._session.settings.queue)
            found = self._counters(connection)
        return found or dict.fromkeys(STATES, 0)

    def _set_paused(self, paused: bool) -> None:
        # The row of the queue may be missing. A new row gets a damaged number, -1, so that SQLite
        # counts anew when it needs a number.
        insert = self._session.dialect.insert(QUEUE)
        new = insert.values(name=self._session.settings.queue, paused=paused, number=-1)
        self._single(
            new.on_conflict_do_update(
                index_elements=[QUEUE.c.name], set_={"paused": new.excluded.paused}
            )
        )

    def _forget(self, limit: int, order: Any, *conditions: Any) -> list[str]:
        """Delete up to about `limit` tasks, in portions, so that other transactions run between.

        Returns the ids of the deleted tasks.
        """
        session = self._session
        statement = transitions.forgetting(order, *conditions)
        ids: list[str] = []
        while len(ids) < limit:
            found = session.write(
                lambda connection: list(session.execute(connection, statement).scalars())
            )
            if not found:
                break
            ids += found
        return ids

    def _update(self, connection: Connection, task_id: str, values: dict[str, Any]) -> None:
        connection.execute(transitions.of_task(self._session, task_id).values(values))

    def _locked(self, connection: Connection, task_id: str) -> Any:
        return self._found(connection, task_id, self._session.statements.lock)

    def _found(self, connection: Connection, task_id: str, statement: Any) -> Any:
        row = self._session.execute(connection, statement, id=task_id).first()
        if row is None:
            raise self._unknown(task_id)
        return row

    def _unknown(self, task_id: str) -> UnknownTask:
        return UnknownTask(f"no task {task_id} in queue {self._session.settings.queue}")

    def _single(self, statement: Any, **values: Any) -> int:
        result = self._session.single(
            lambda connection: self._session.execute(connection, statement, **values).rowcount
        )
        return int(result)

    def _read(self, statement: Any, **values: Any) -> Any:
        return self._session.read(
            lambda connection: self._session.execute(connection, statement, **values).all()
        )


def _in_doubt(row: Any) -> StagedBatch:
    age = moment(row.age)
    # A batch whose age is damaged counts as old enough for any decision.
    age = age if age is not None and 0 <= age < OLD else OLD
    # Do not turn a damaged witness into None: that would prove that there was none.
    witness = None if row.witness is None else shown(row.witness)
    return StagedBatch(row.id, witness, age, _ids(row.tasks))


def _ids(batch: bytes) -> tuple[str, ...]:
    try:
        return tuple(task.id for task in codec.unpack_batch(batch))
    except TaskDecodeError:
        # `promote` raises the error for this batch; the other batches can be decided.
        return ()


def _consumer(row: Any, running: tuple[str, ...]) -> ConsumerStatus:
    process, age = shown(row.process), max(0.0, row.now - row.seen)
    alive = processes.is_alive(process, age, bool(running))
    return ConsumerStatus(shown(row.name), *processes.host_and_pid(process), age, running, alive)


def _person(user: Identity) -> dict[str, str]:
    return {"user_": indexed(user.id), "person_": user.person}


def _most(number: int) -> int:
    """Return a number of rows, limited to what a database accepts as one."""
    return min(number, 2**62)
