"""The model against the local storage, and against storages that are broken on purpose."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.storages.local.admin import LocalAdmin
from collective.taskqueue.storages.local.board import Board
from collective.taskqueue.storages.local.record import Record
from collective.taskqueue.task import Action
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Lease
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from collective.taskqueue.testing.model import QueueMachine
from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from typing import Any
import logging
import pytest


#: The same sequences each time, so that a red run is the fault of what was changed.
MANY = settings(
    max_examples=250,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)

#: A fault has to be found; the shortest way to it is of no interest.
UNTIL_FOUND = settings(MANY, phases=[Phase.generate])


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of lost leases are thousands of log lines."""
    caplog.set_level(logging.CRITICAL, "collective.taskqueue")


def machine(storage: type[LocalStorage]) -> type[QueueMachine]:
    """Return the machine that drives this storage."""

    class Machine(QueueMachine):
        def make_storage(self, clock: Any, **fields: Any) -> Any:
            return storage(QueueSettings(**fields), clock)

    return Machine


def test_the_local_storage_does_what_the_model_does() -> None:
    """Guarantees 1 to 3, in 250 sequences of 50 steps."""
    run_state_machine_as_test(machine(LocalStorage), settings=MANY)


class WithoutFence(LocalStorage):
    """Any process that held a lease of a running task may end it."""

    def _holder(self, lease: Lease) -> Record | None:
        record = self._board.records.get(lease.task.id)
        return record if record is not None and record.state == RUNNING else None


def use(storage: LocalStorage, board: Board) -> None:
    storage._board = storage._memory.board = board
    storage.admin = LocalAdmin(storage._memory, storage._publish)


class BoardWithoutFront(Board):
    def queue(self, record: Record, now: float, front: bool = False) -> None:
        super().queue(record, now)


class RecoversToTheBack(LocalStorage):
    """What is lost stands in line again like anything else."""

    def _begin(self) -> None:
        super()._begin()
        use(self, BoardWithoutFront(self.settings))


class BoardInReverse(Board):
    def in_state(self, state: State) -> list[Record]:
        return super().in_state(state)[::-1]


class RecoversInReverse(LocalStorage):
    """Of several lost tasks the one reserved last is at the very front."""

    def _begin(self) -> None:
        super()._begin()
        use(self, BoardInReverse(self.settings))


class PromotesAgain(LocalStorage):
    """A batch is forgotten once it is promoted, and a second `promote` queues it again."""

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        super().promote(batch_id, tid, tasks)
        self._memory.promoted.clear()


class OverlooksKeys(LocalStorage):
    """Two transactions do not see each other's keys, as if both were decided at once."""

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        self._board._keys.clear()
        super().promote(batch_id, tid, tasks)


class NeverGivesUp(LocalStorage):
    """A task that takes its process down is run again and again."""

    def _begin(self) -> None:
        super()._begin()
        recover = self._memory.recover

        def forget_losses(notices: Any) -> list[str]:
            for record in self._board.in_state(RUNNING):
                record.lost = 0
            return recover(notices)

        self._memory.recover = forget_losses  # type: ignore[method-assign]


class ForgetfulBoard(Board):
    def remove_expired(self, now: float, limit: int = 100) -> bool:
        return False


class ForgetsNothing(LocalStorage):
    """Finished tasks are kept until they are too many, however much time has passed."""

    def _begin(self) -> None:
        super()._begin()
        use(self, ForgetfulBoard(self.settings))


class KeepsPayloads(LocalStorage):
    """What has succeeded could be run again."""

    def complete(self, lease: Lease, transition: Transition) -> State | None:
        state = super().complete(lease, transition)
        if state == SUCCEEDED:
            self._board.records[lease.task.id].task = lease.task
        return state


class MixedAdmin(LocalAdmin):
    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        return super().tasks(state, user.id if isinstance(user, Identity) else user, start, size)


class MixesPersons(LocalStorage):
    """Two users with the same id are the same user."""

    def _begin(self) -> None:
        super()._begin()
        self.admin = MixedAdmin(self._memory, self._publish)


class WholeAdmin(LocalAdmin):
    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        return [self.get(status.id) for status in super().tasks(state, user, start, size)]


class ShowsPayloads(LocalStorage):
    """Its lists are as large as all they tell of."""

    def _begin(self) -> None:
        super()._begin()
        self.admin = WholeAdmin(self._memory, self._publish)


class AdminInReverse(LocalAdmin):
    def search(self, filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage:
        page = super().search(filter, cursor, size)
        return TaskPage(page.tasks[::-1], page.cursor)


class SearchesInReverse(LocalStorage):
    """The newest task of a page comes first."""

    def _begin(self) -> None:
        super()._begin()
        self.admin = AdminInReverse(self._memory, self._publish)


class AdminOfAnyState(LocalAdmin):
    def change(
        self, action: Action, task_ids: Sequence[str], states: Collection[State]
    ) -> dict[str, State]:
        return super().change(action, task_ids, STATES)


class ChangesAnyState(LocalStorage):
    """A task that has changed its state since it was found is changed, too."""

    def _begin(self) -> None:
        super()._begin()
        self.admin = AdminOfAnyState(self._memory, self._publish)


@pytest.mark.parametrize(
    ("storage", "complaint"),
    [
        (SearchesInReverse, "a search finds others"),
        (ChangesAnyState, "others are changed"),
        (WithoutFence, "stale token|not released|not given back"),
        (RecoversToTheBack, "before"),
        (RecoversInReverse, "before|wrong order|told otherwise"),
        (PromotesAgain, None),
        (OverlooksKeys, None),
        (NeverGivesUp, None),
        (ForgetsNothing, None),
        (KeepsPayloads, None),
        (MixesPersons, None),
        (ShowsPayloads, None),
    ],
)
def test_the_model_catches_a_broken_storage(
    storage: type[LocalStorage], complaint: str | None
) -> None:
    """Else it would prove nothing. Without a complaint, several things go wrong at once."""
    with pytest.raises(AssertionError, match=complaint):
        run_state_machine_as_test(machine(storage), settings=UNTIL_FOUND)
