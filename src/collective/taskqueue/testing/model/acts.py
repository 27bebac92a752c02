"""Call the storage and the model alike, and keep what a machine knows between two calls."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.redelivery import look
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.task import Action
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Lease
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import ManualClock
from collective.taskqueue.testing.model.database import Database
from collective.taskqueue.testing.model.expected import Entry
from collective.taskqueue.testing.model.expected import ExpectedQueue
from contextlib import contextmanager
from dataclasses import replace
from hypothesis.stateful import RuleBasedStateMachine
from typing import Any
from uuid import UUID
import pytest
import transaction


#: Small limits, so that each is reached within a few steps.
SETTINGS: dict[str, Any] = {
    "max_deliveries": 2,
    "max_finished": 4,
    "keep_succeeded": 630.0,
    "keep_failed": 930.0,
}

#: Of a task: its key and mode, seconds until it is due, seconds that it is kept, and its user.
Fields = tuple[tuple[str | None, str], float | None, float | None, Identity | None]


class Acts(RuleBasedStateMachine):
    """The calls of a machine, and the state that it keeps between them."""

    def make_storage(self, clock: Any, **settings: Any) -> Any:
        """Return an `ITaskStorage` for an empty queue with these `QueueSettings`."""
        raise NotImplementedError

    def make_clock(self) -> Any:
        """Return the clock of the storage; see `collective.taskqueue.testing.contract`."""
        return ManualClock()

    def __init__(self) -> None:
        super().__init__()
        transaction.begin()
        self.clock = self.make_clock()
        self.storage = self.make_storage(self.clock, **SETTINGS)
        settings = QueueSettings(**SETTINGS)
        self.queue = TaskQueue(settings, self.storage)
        self.told: list[tuple[str, str]] = []
        self.storage.notify = lambda state, task_id: self.told.append((state, task_id))
        self.expected = ExpectedQueue(settings)
        self.made = 0
        #: The last status of each task.
        self.seen: dict[str, TaskStatus] = {}
        #: Tasks that the current transaction has added; savepoints with the number of them then.
        self.added: list[Task] = []
        self.savepoints: list[tuple[Any, int]] = []
        #: Staged batches of other processes, and promoted ones.
        self.staged: dict[str, list[Task]] = {}
        self.promoted: dict[str, list[Task]] = {}
        #: Leases by token: those that a consumer holds, and all earlier ones.
        self.held: dict[str, Lease] = {}
        self.dead: dict[str, Lease] = {}
        #: Those of the dead ones whose consumers may have been frozen, and may thaw.
        self.frozen: dict[str, Lease] = {}
        self.database = Database()

    def teardown(self) -> None:
        transaction.abort()
        self.storage.close()

    # acts

    def _promote(self, batch: str, tasks: list[Task], again: list[Task]) -> None:
        with self._act():
            self.storage.promote(batch, None, again)
            self.expected.promote(tasks, self.clock())
        self.promoted[batch] = tasks

    def _reserve(self, consumer: str, limit: int, seconds: float) -> None:
        slots = self.database.take(limit)
        with self._act():
            leases = self.storage.reserve(
                consumer, limit=limit, timeout=0, lease=seconds, slots=slots
            )
            self._hold(leases)
            self.expected.reserve(leases, consumer, limit, seconds, self.clock(), slots)
        self._look(leases)

    def _hold(self, leases: list[Lease]) -> None:
        for lease in leases:
            known = lease.token in self.held or lease.token in self.dead
            assert not known, "a token is given out twice"
            self.held[lease.token] = lease

    def _look(self, leases: list[Lease]) -> None:
        """Complete the attempts that a lost consumer had committed, and those lost too often."""
        for lease in leases:
            before = look(self.database, lease, SETTINGS["max_deliveries"])
            if before.outcome is not None:
                self.dead[lease.token] = self.held.pop(lease.token)
                state: State = SUCCEEDED if before.outcome.ok else FAILED
                self._finish(lease, completed(lease, state, drops_slot=before.drops_slot))

    def _finish(self, lease: Lease, transition: Transition) -> None:
        with self._act():
            self._commit(lease, transition)
            state = self.storage.complete(lease, transition)
            self._check_end(lease, transition, state, self.clock())

    def _commit(self, lease: Lease, transition: Transition) -> None:
        """Commit what an attempt has written that succeeds."""
        if transition.state == SUCCEEDED:
            self.database.commit(lease)

    def _change(
        self, action: Action, names: Iterable[str], states: Collection[State], now: float
    ) -> dict[str, State]:
        """Let the model change each task in one of the states that allows it."""
        changed: dict[str, State] = {}
        for name in names:
            entry = self.expected.entries[name]
            asked = entry.state == RUNNING and entry.cancel_requested
            if entry.state in states and not asked and self.expected.allows(action, entry):
                getattr(self.expected, action)(entry, now)
                changed[name] = entry.state
        return changed

    def _check_end(
        self, lease: Lease, transition: Transition, state: State | None, now: float
    ) -> None:
        expected = self.expected.finish(lease, transition, now)
        assert state == expected, "finished with a stale token" if state else "not finished"
        if state is not None and transition.state == SUCCEEDED:
            self.database.completed[lease.task.id] += 1

    @contextmanager
    def _act(self) -> Iterator[None]:
        """Check that the block, one call, notifies of exactly the changes not asked for."""
        self.told.clear()
        self.expected.begin_act()
        yield
        assert sorted(self.told) == sorted(self.expected.told), "the queue is told otherwise"

    @contextmanager
    def _refused(self, error: type[Exception] | None) -> Iterator[None]:
        """Check that the block raises the error, or none if `error` is None."""
        if error is None:
            yield
        else:
            with pytest.raises(error):
                yield

    # tasks, ids and leases

    def _make(self, tasks: list[Fields]) -> list[Task]:
        now = self.clock()
        return [
            Task(
                id=self._new_id(),
                queue=self.queue.name,
                url="/view",
                created=now,
                due=None if delay is None else now + delay,
                key=key,
                on_conflict=mode,
                keep=keep,
                user=user,
                payload=b"large",
            )
            for (key, mode), delay, keep, user in tasks
        ]

    def _new_id(self) -> str:
        self.made += 1
        return str(UUID(int=self.made))

    def _forget_added(self, length: int) -> None:
        self.expected.gone.extend(ids(self.added[length:]))
        del self.added[length:]

    def _knows(self, task: Task) -> bool:
        try:
            return bool(self.storage.admin.get(task.id))
        except UnknownTask:
            return False

    def _names(self) -> list[str]:
        """Return every id by which a task is known, aliases included."""
        known = self.expected.entries.keys()
        aliases = self.expected.aliases.items()
        return [*known, *(name for name, others in aliases if others <= known)]

    def _entry(self, name: str) -> Entry:
        return self.expected.entries[self.storage.admin.get(name).id]

    def _unknown(self) -> list[str]:
        """Return ids that are not in use any more, or not yet, or never were."""
        staged = [task for batch in self.staged.values() for task in batch]
        return ["never", *self.expected.gone, *ids(self.added), *ids(staged)]

    def _held_from(self, which: int) -> Iterator[Lease]:
        """Return the held leases, each once, starting with one of them."""
        held = list(self.held.values())
        return (held[(which + number) % len(held)] for number in range(len(held)))

    def _stale(self) -> list[Lease]:
        """Return leases that are not valid: earlier ones, and one with a forged token."""
        leases = [*self.held.values(), *self.dead.values()]
        stale = [lease for lease in leases if self.expected.holder(lease) is None]
        return [*stale, *(replace(lease, token="forged") for lease in leases[:1])]
