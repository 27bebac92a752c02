"""Tasks of one key: skip, replace and after_running are applied when tasks are promoted."""

from __future__ import annotations

from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import everything
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import refused
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from typing import Any
import pytest


SKIP = {"key": "k", "on_conflict": "skip"}
REPLACE = {"key": "k", "on_conflict": "replace"}
AFTER = {"key": "k", "on_conflict": "after_running"}


class Keys(Base):
    """Tasks of one key are the same work; at most one of them waits."""

    @pytest.mark.parametrize("state", [QUEUED, SCHEDULED])
    def test_skip_leaves_the_earlier_one(self, storage: Any, clock: Any, state: State) -> None:
        """The id of the skipped task is an alias of the waiting task in every method."""
        earlier = bring_to(storage, clock, state, **SKIP)
        later = add_one(storage, **SKIP)
        assert ids(everything(storage)) == [earlier.id]
        assert storage.admin.get(later.id) == storage.admin.get(earlier.id)
        assert storage.admin.cancel(later.id) == CANCELLED
        assert storage.admin.get(earlier.id).state == CANCELLED
        storage.admin.retry(later.id)
        assert storage.admin.get(earlier.id).state == QUEUED
        assert take_all(storage) == [earlier.id]
        lease = storage.admin.get(later.id)
        assert lease.state == RUNNING

    def test_the_names_of_a_task_go_with_it(self, storage: Any, clock: Any) -> None:
        """To remove a task by an alias removes the task and all its aliases."""
        earlier = add_one(storage, **SKIP)
        others = [add_one(storage, **SKIP) for _ in range(3)]
        lease = take(storage)
        storage.complete(lease, completed(lease))
        storage.admin.remove(others[1].id)
        for task in (earlier, *others):
            with refused(storage, UnknownTask, task.id):
                storage.admin.get(task.id)

    @pytest.mark.parametrize("state", [RUNNING, SUCCEEDED, FAILED, CANCELLED])
    @pytest.mark.parametrize("key", [SKIP, REPLACE])
    def test_what_does_not_wait_is_no_conflict(
        self, storage: Any, clock: Any, state: State, key: dict[str, str]
    ) -> None:
        """Only a waiting task is the same work; a running one has already started."""
        earlier = bring_to(storage, clock, state, **key)
        later = add_one(storage, **key)
        assert storage.admin.get(earlier.id).state == state
        assert take_all(storage) == [later.id]

    @pytest.mark.parametrize("state", [QUEUED, SCHEDULED])
    @pytest.mark.parametrize("key", [REPLACE, AFTER])
    def test_the_newest_one_replaces_what_waits(
        self, storage: Any, clock: Any, state: State, key: dict[str, str]
    ) -> None:
        """As in htq: the earlier task is cancelled, and `notify` is called."""
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        earlier = bring_to(storage, clock, state, **key)
        between = add_one(storage)
        later = add_one(storage, **key)
        status = storage.admin.get(earlier.id)
        assert status.state == CANCELLED
        assert later.id in status.reason
        assert told == [(CANCELLED, earlier.id)]
        assert take_all(storage) == ids([between, later])

    def test_a_task_without_a_key_conflicts_with_nothing(self, storage: Any) -> None:
        """Tasks without a key are never deduplicated."""
        tasks = add(storage, *(new_task() for _ in range(3)))
        assert take_all(storage) == ids(tasks)

    def test_other_keys_are_other_work(self, storage: Any) -> None:
        """A key that has another key as prefix is another key."""
        tasks = add(storage, *(new_task(key=key) for key in ("k", "kk", "K", "k ")))
        assert take_all(storage) == ids(tasks)

    def test_the_key_is_decided_when_it_is_promoted(self, storage: Any) -> None:
        """Aborted transactions do not count; of two others, the first to commit is first."""
        aborted, late, early = new_task(**SKIP), new_task(**SKIP), new_task(**SKIP)
        for batch, task in (("aborted", aborted), ("late", late), ("early", early)):
            storage.stage(batch, [task])
        storage.discard("aborted")
        storage.promote("early")
        storage.promote("late")
        assert storage.admin.get(late.id).id == early.id
        with refused(storage, UnknownTask, aborted.id):
            storage.admin.get(aborted.id)
        assert take_all(storage) == [early.id]

    def test_tasks_of_one_batch_conflict_like_any_others(self, storage: Any) -> None:
        """Within one transaction, the order in which tasks were added decides."""
        skipped = add(storage, new_task(**SKIP), new_task(**SKIP))
        assert storage.admin.get(skipped[1].id).id == skipped[0].id
        replaced = add(storage, new_task(**REPLACE), new_task(**REPLACE))
        assert [storage.admin.get(task.id).state for task in replaced] == [CANCELLED, QUEUED]
        assert take_all(storage) == [replaced[1].id]

    @pytest.mark.parametrize("key", [SKIP, REPLACE, AFTER])
    def test_who_waits_must_see_all_that_it_stands_for(
        self, storage: Any, key: dict[str, str]
    ) -> None:
        """Guarantee 4: the latest commit counts, also if batches are promoted in another order."""
        tids = [number.to_bytes(8, "big") for number in (0x7F, 0xA0FF, 0x9AFF)]
        for tid in (*tids, None):
            batch = str(tid)
            storage.stage(batch, [new_task(**key)])
            storage.promote(batch, tid)
        assert take(storage).tid == tids[1]

    def test_who_replaces_a_lost_task_must_see_what_that_had_to(
        self, storage: Any, clock: Any
    ) -> None:
        """The newer task replaces the lost one, so its lease names the later commit of both."""
        for number in (2, 1):
            storage.stage(str(number), [new_task(**AFTER)])
            storage.promote(str(number), bytes([number]) * 8)
            if number == 2:
                lose(storage, clock)
        assert take(storage).tid == b"\x02" * 8

    def test_the_names_of_a_task_are_not_too_many(self, storage: Any) -> None:
        """The last 1000 aliases of a task are kept; older ones are unknown."""
        earlier, *others = add(storage, *(new_task(**SKIP) for _ in range(1201)))
        with refused(storage, UnknownTask, others[0].id):
            storage.admin.get(others[0].id)
        for other in others[-1000:]:
            assert storage.admin.get(other.id).id == earlier.id

    @pytest.mark.parametrize("free", ["cancel", "clear", "reserve"])
    def test_a_key_is_free_again_once_nothing_of_it_waits(self, storage: Any, free: str) -> None:
        """No task is skipped for one that does not wait any more."""
        earlier = add_one(storage, **SKIP)
        if free == "cancel":
            storage.admin.cancel(earlier.id)
        elif free == "clear":
            storage.admin.clear()
        else:
            take(storage)
        later = add_one(storage, **SKIP)
        assert storage.admin.get(later.id).id == later.id
        assert take_all(storage) == [later.id]

    def test_a_key_is_taken_again_by_a_task_that_comes_back(self, storage: Any, clock: Any) -> None:
        """A retried or recovered task claims its key again, like any waiting task."""
        task = add_one(storage, **SKIP)
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock() + 100))
        assert storage.admin.get(add_one(storage, **SKIP).id).id == task.id
        clock.advance(200)
        lose(storage, clock)
        storage.admin.recover()
        assert storage.admin.get(add_one(storage, **SKIP).id).id == task.id
        lease = take(storage)
        storage.complete(lease, completed(lease, FAILED))
        storage.admin.retry(task.id)
        assert storage.admin.get(add_one(storage, **SKIP).id).id == task.id

    def test_after_running_waits_for_the_running_one(self, storage: Any) -> None:
        """One task of a key runs and one waits, the newest; tasks of other keys overtake it."""
        add_one(storage, **AFTER)
        running = take(storage)
        second = add_one(storage, **AFTER)
        other = add_one(storage)
        assert take_all(storage) == [other.id]
        third = add_one(storage, **AFTER)
        assert storage.admin.get(second.id).state == CANCELLED
        assert take_all(storage) == []
        assert storage.admin.counts()["queued"] == 1
        assert ids(storage.admin.tasks(QUEUED)) == [third.id]
        storage.complete(running, completed(running))
        assert take_all(storage) == [third.id]

    def test_after_running_does_not_wait_for_another_key(self, storage: Any) -> None:
        """Tasks of different keys run at the same time."""
        tasks = add(storage, *(new_task(key=key, on_conflict="after_running") for key in "abc"))
        assert take_all(storage) == ids(tasks)

    @pytest.mark.parametrize("end", [SUCCEEDED, FAILED, CANCELLED, SCHEDULED])
    def test_after_running_comes_however_the_running_one_ends(
        self, storage: Any, clock: Any, end: State
    ) -> None:
        """An attempt to be retried is cancelled instead: the newer task does the same work."""
        first = add_one(storage, **AFTER)
        running = take(storage)
        second = add_one(storage, **AFTER)
        assert take_all(storage) == []
        if end == CANCELLED:
            storage.admin.cancel(first.id)
        expected = CANCELLED if end == SCHEDULED else end
        state = SUCCEEDED if end == CANCELLED else end
        assert storage.complete(running, completed(running, state, due=clock() + 10)) == expected
        status = storage.admin.get(first.id)
        assert status.state == expected
        assert len(status.attempts) == 1
        if end == SCHEDULED:
            assert second.id in status.reason
        assert take_all(storage) == [second.id]

    def test_after_running_comes_when_the_running_one_is_lost(
        self, storage: Any, clock: Any
    ) -> None:
        """The newer task replaces the lost one, and `notify` is called."""
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        first = add_one(storage, **AFTER)
        lose(storage, clock)
        second = add_one(storage, **AFTER)
        assert take_all(storage) == [second.id]
        assert storage.admin.get(first.id).state == CANCELLED
        assert told == [(CANCELLED, first.id)]

    def test_parked_tasks_keep_their_order(self, storage: Any) -> None:
        """Tasks that waited for their key run before all tasks added later."""
        fields = {"on_conflict": "after_running"}
        add(storage, *(new_task(key=key, **fields) for key in "ab"))
        running = [take(storage), take(storage)]
        parked = add(storage, *(new_task(key=key, **fields) for key in "ab"))
        assert take_all(storage) == []
        later = add_one(storage)
        for lease in running:
            storage.complete(lease, completed(lease))
        assert take_all(storage) == ids([*parked, later])

    def test_a_parked_task_does_not_overtake_a_recovered_one(
        self, storage: Any, clock: Any
    ) -> None:
        """The recovered task is older and back at the front, so it runs first."""
        lost = add_one(storage)
        add_one(storage, **AFTER)
        take(storage, lease=30.0)
        running = take(storage)
        parked = add_one(storage, **AFTER)
        assert take_all(storage) == []
        clock.advance(60)
        storage.admin.recover()
        storage.complete(running, completed(running))
        assert take_all(storage) == ids([lost, parked])

    def test_a_blocked_reserve_gets_the_parked_task(self, storage: Any) -> None:
        """`finish` of the running task wakes a waiting consumer for the parked one."""
        add_one(storage, **AFTER)
        running = take(storage, lease=1000.0)
        parked = add_one(storage, **AFTER)
        blocked = aside(lambda: storage.reserve("blocked", timeout=2 * BOUND))
        assert is_blocked(blocked)
        storage.complete(running, completed(running))
        (lease,) = blocked.result(BOUND)
        assert lease.task == parked

    def test_a_parked_task_can_be_cancelled_and_cleared(self, storage: Any) -> None:
        """`cancel` and `clear` treat a parked task like any queued task."""
        add_one(storage, **AFTER)
        running = take(storage)
        first = add_one(storage, **AFTER)
        assert take_all(storage) == []
        assert storage.admin.cancel(first.id) == CANCELLED
        add_one(storage, **AFTER)
        assert take_all(storage) == []
        assert storage.admin.clear() == 1
        last = add_one(storage, **AFTER)
        assert take_all(storage) == []
        storage.complete(running, completed(running))
        assert take_all(storage) == [last.id]

    def test_one_that_comes_back_waits_like_the_other(self, storage: Any, clock: Any) -> None:
        """The next task replaces both, or is skipped while one of them waits."""
        back = bring_to(storage, clock, FAILED, **SKIP)
        other = add_one(storage, **SKIP)
        storage.admin.retry(back.id)
        assert take(storage).task == other
        assert storage.admin.get(add_one(storage, **SKIP).id).id == back.id
        again = add_one(storage, **REPLACE)
        assert storage.admin.get(back.id).state == CANCELLED
        storage.admin.retry(back.id)
        last = add_one(storage, **REPLACE)
        states = [storage.admin.get(task.id).state for task in (back, again)]
        assert states == [CANCELLED, CANCELLED]
        assert take_all(storage) == [last.id]

    @pytest.mark.parametrize("key", [REPLACE, AFTER])
    def test_what_was_replaced_is_not_retried(
        self, storage: Any, clock: Any, key: dict[str, str]
    ) -> None:
        """`retry` is refused while the newer task waits; once that runs, it is allowed."""
        older = bring_to(storage, clock, FAILED, **key)
        newer = add_one(storage, **key)
        with refused(storage, ForbiddenTransition, newer.id):
            storage.admin.retry(older.id)
        assert take_all(storage) == [newer.id]
