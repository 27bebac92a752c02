"""Slots: a task keeps the one that it got first, until an attempt has committed."""

from __future__ import annotations

from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import NO_SLOT
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from typing import Any
from uuid import uuid4
import pytest


def references(number: int) -> list[str]:
    """Return references that no task has."""
    return [f"{n:016x}{uuid4().hex}{0:048x}" for n in range(1, number + 1)]


def slots_of(leases: list[Lease]) -> list[str | None]:
    """Return the slot of each lease."""
    return [lease.slot for lease in leases]


class Slots(Base):
    """A consumer offers slots with each reservation."""

    def test_each_task_gets_one_of_its_own(self, storage: Any) -> None:
        """In the order of the tasks; what is left over belongs to no task."""
        add(storage, *(new_task() for _ in range(3)))
        given = references(5)
        leases = storage.reserve("consumer", limit=5, timeout=0, lease=LONG, slots=given)
        assert slots_of(leases) == given[:3]

    def test_without_an_offer_there_is_none(self, storage: Any) -> None:
        add_one(storage)
        lease = take(storage)
        assert lease.slot is None
        # Nor is any invented for a part of the tasks.
        add(storage, *(new_task() for _ in range(2)))
        given = references(1)
        leases = storage.reserve("consumer", limit=2, timeout=0, lease=LONG, slots=given)
        assert slots_of(leases) == [*given, None]

    def test_a_lost_task_keeps_it(self, storage: Any, clock: Any) -> None:
        """Whatever the next consumer offers, and however often the task is lost."""
        add_one(storage)
        first = storage.reserve("consumer", timeout=0, lease=30.0, slots=references(1))[0].slot
        assert first is not None
        for lost in (1, 2):
            clock.advance(60)
            (lease,) = storage.reserve("consumer", timeout=0, lease=30.0, slots=references(1))
            assert (lease.slot, lease.lost) == (first, lost)

    def test_a_task_that_was_lost_without_one(self, storage: Any, clock: Any) -> None:
        """As after an update: it may have committed. Once it is completed, it gets a slot."""
        add_one(storage)
        assert lose(storage, clock).slot is None
        lease = take(storage, slots=references(1))
        assert lease.slot == NO_SLOT
        storage.complete(lease, completed(lease, SCHEDULED, due=clock(), drops_slot=True))
        given = references(1)
        assert take(storage, slots=given).slot == given[0]

    def test_a_task_that_was_lost_too_often(self, storage: Any, clock: Any) -> None:
        """It is delivered once more, for its consumer to look at the slot; without one it fails."""
        with_slot, without = add(storage, new_task(), new_task())
        most = storage.settings.max_deliveries
        for _ in range(most):
            assert storage.reserve("consumer", timeout=0, lease=30.0, slots=references(1))
            assert storage.reserve("consumer", timeout=0, lease=30.0)
            clock.advance(60)
        (lease,) = storage.reserve("consumer", limit=2, timeout=0, lease=30.0, slots=references(2))
        assert (lease.task.id, lease.lost) == (with_slot.id, most)
        assert storage.admin.get(without.id).state == FAILED
        clock.advance(60)
        assert storage.reserve("consumer", timeout=0, lease=30.0) == []
        assert storage.admin.get(with_slot.id).state == FAILED

    def test_a_retry_without_one_gets_one(self, storage: Any, clock: Any) -> None:
        add_one(storage)
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock()))
        given = references(1)
        assert take(storage, slots=given).slot == given[0]

    def test_a_released_task_keeps_it(self, storage: Any) -> None:
        add_one(storage)
        lease = take(storage, slots=references(1))
        storage.release([lease])
        assert take(storage, slots=references(1)).slot == lease.slot

    def test_a_retry_of_an_attempt_that_committed_nothing_keeps_it(
        self, storage: Any, clock: Any
    ) -> None:
        """The process of a delivery that was lost may be alive, and commit with this slot."""
        add_one(storage, max_attempts=3)
        lease = take(storage, slots=references(1))
        storage.complete(lease, completed(lease, SCHEDULED, due=clock()))
        again = take(storage, slots=references(1))
        assert (again.slot, again.lost) == (lease.slot, 0)

    def test_a_retry_of_an_attempt_that_committed_gets_a_new_one(
        self, storage: Any, clock: Any
    ) -> None:
        add_one(storage, max_attempts=3)
        lease = take(storage, slots=references(1))
        storage.complete(lease, completed(lease, SCHEDULED, due=clock(), drops_slot=True))
        given = references(1)
        assert take(storage, slots=given).slot == given[0] != lease.slot

    @pytest.mark.parametrize("state", [FAILED, CANCELLED])
    @pytest.mark.parametrize("drops", [False, True])
    def test_a_task_that_a_person_retries(self, storage: Any, state: State, drops: bool) -> None:
        """A new slot if the old one was used."""
        task = add_one(storage)
        lease = take(storage, slots=references(1))
        if state == CANCELLED:
            storage.admin.cancel(task.id)
        storage.complete(lease, completed(lease, FAILED, drops_slot=drops))
        assert storage.admin.get(task.id).state == state
        storage.admin.retry(task.id)
        given = references(1)
        assert take(storage, slots=given).slot == (given[0] if drops else lease.slot)

    def test_a_person_who_retries_a_task_forgets_its_losses(self, storage: Any, clock: Any) -> None:
        """The person knows of them: its record has them."""
        task = add_one(storage)
        lease = lose(storage, clock)
        assert lease.lost == 0
        lease = take(storage)
        assert lease.is_redelivered
        storage.complete(lease, completed(lease, FAILED))
        storage.admin.retry(task.id)
        assert not take(storage).is_redelivered

    def test_the_next_tasks_get_theirs_with_a_completion(self, storage: Any) -> None:
        if not IRemoteStorage.providedBy(storage):
            # Such a storage has no call that does both.
            assert not hasattr(storage, "complete_and_reserve")
            return
        add(storage, *(new_task() for _ in range(4)))
        lease = take(storage, slots=references(1))
        given = references(4)
        states, leases = storage.complete_and_reserve(
            [(lease, completed(lease))], "consumer", 3, LONG, given
        )
        assert states == [SUCCEEDED]
        assert slots_of(leases) == given[:3]

    def test_of_tasks_with_keys(self, storage: Any) -> None:
        """These are reserved by another statement in a SQL database."""
        add(storage, *(new_task(key=f"key {n}", on_conflict="after_running") for n in range(3)))
        given = references(3)
        leases = storage.reserve("consumer", limit=3, timeout=0, lease=LONG, slots=given)
        assert slots_of(leases) == given
