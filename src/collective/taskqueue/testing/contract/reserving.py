"""Taking tasks: reserve, wake, leases, recovery."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
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
from collective.taskqueue.testing.contract.base import near
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from collective.taskqueue.testing.contract.base import unchanged
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures import Future
from concurrent.futures import wait
from typing import Any
import time


def reserving(storage: Any, timeout: float | None = 2 * BOUND, **arguments: Any) -> Future[Any]:
    """Start a `reserve` that blocks."""
    future = aside(lambda: storage.reserve("blocked", timeout=timeout, **arguments))
    assert is_blocked(future)
    return future


def wake(storage: Any, blocked: Collection[Future[Any]]) -> None:
    """Wake all at once; once more if a thread had not blocked yet on a busy machine."""
    for seconds in (BOUND / 10, BOUND):
        storage.wake()
        if not wait(blocked, seconds).not_done:
            break


class Reserving(Base):
    """Only one consumer holds a task, for as long as the lease lasts."""

    def test_a_reserved_task_is_running(self, storage: Any, clock: Any) -> None:
        """The lease has the task, a token, the consumer, the attempt and the expiry."""
        task = add_one(storage)
        (lease,) = storage.reserve("worker1", timeout=0, lease=45.0)
        assert lease.task == task
        assert lease.token
        assert lease.consumer == "worker1"
        assert (lease.attempt, lease.counted) == (1, 0)
        assert lease.expires == near(clock() + 45)
        status = storage.admin.get(task.id)
        assert status.state == RUNNING
        assert status.consumer == "worker1"
        assert [state for state, _ in status.changes] == [QUEUED, RUNNING]
        assert status.time_of(RUNNING) == near(clock())
        assert storage.reserve("worker2", timeout=0) == []

    def test_every_lease_has_a_token_of_its_own(self, storage: Any) -> None:
        """Every lease has its own token, also the next lease of the same task."""
        tasks = add(storage, *(new_task() for _ in range(5)))
        leases = storage.reserve("consumer", limit=5, timeout=0)
        tokens = {lease.token for lease in leases}
        storage.complete(leases[0], completed(leases[0], SCHEDULED, due=0.0))
        again = take(storage)
        assert again.task == tasks[0]
        assert len(tokens | {again.token}) == 6

    def test_it_takes_no_more_than_the_limit(self, storage: Any) -> None:
        """`reserve` returns the oldest first, one by default, and does not wait for more."""
        tasks = add(storage, *(new_task() for _ in range(6)))
        taken = [ids(lease.task for lease in storage.reserve("consumer", timeout=0))]
        for _ in range(3):
            leases = storage.reserve("consumer", limit=3, timeout=0)
            taken.append(ids(lease.task for lease in leases))
        assert taken == [ids(tasks[:1]), ids(tasks[1:4]), ids(tasks[4:]), []]

    def test_it_returns_when_the_timeout_has_passed(self, storage: Any) -> None:
        """`reserve` returns an empty list, and not earlier."""
        began = time.monotonic()
        assert storage.reserve("consumer", timeout=0.25) == []
        assert time.monotonic() - began >= 0.25

    def test_it_blocks_until_woken(self, storage: Any) -> None:
        """Every `reserve` that blocks returns, and the next one blocks again."""
        blocked = [reserving(storage) for _ in range(3)]
        unlimited = aside(lambda: storage.reserve("blocked", timeout=None))
        wake(storage, [*blocked, unlimited])
        assert [future.result(0) for future in [*blocked, unlimited]] == [[], [], [], []]
        task = add_one(storage)
        storage.wake()
        assert take(storage).task == task
        later = reserving(storage)
        wake(storage, [later])
        assert later.result(0) == []

    def test_a_woken_reserve_still_brings_what_is_due(self, storage: Any) -> None:
        """A wake-up takes no task away from a `reserve`."""
        task = add_one(storage)
        storage.wake()
        assert take_all(storage) == [task.id]

    def test_a_blocked_reserve_gets_what_is_promoted(self, storage: Any) -> None:
        """N40: `stage` wakes no consumer; `promote` does."""
        blocked = reserving(storage)
        task = new_task()
        storage.stage("batch", [task])
        assert is_blocked(blocked)
        storage.promote("batch")
        (lease,) = blocked.result(BOUND)
        assert lease.task == task

    def test_every_blocked_reserve_gets_a_task_of_the_batch(self, storage: Any) -> None:
        """A batch wakes one consumer for each of its tasks."""
        blocked = [reserving(storage) for _ in range(3)]
        tasks = add(storage, *(new_task() for _ in range(3)))
        taken = [lease.task.id for future in blocked for lease in future.result(BOUND)]
        assert sorted(taken) == sorted(ids(tasks))

    def test_a_blocked_reserve_gets_a_task_when_it_is_due(self, storage: Any, clock: Any) -> None:
        """The blocked `reserve` returns the task when it is due, not before, without a wake-up."""
        task = add_one(storage, due=clock() + 1)
        blocked = reserving(storage)
        clock.advance(1)
        (lease,) = blocked.result(BOUND)
        assert lease.task == task

    def test_a_blocked_reserve_notices_what_is_scheduled_meanwhile(
        self, storage: Any, clock: Any
    ) -> None:
        """The earliest due time counts, also of a task that was added during the wait."""
        add_one(storage, due=clock() + 1000)
        blocked = reserving(storage)
        task = add_one(storage, due=clock() + 1)
        assert is_blocked(blocked)
        clock.advance(1)
        (lease,) = blocked.result(BOUND)
        assert lease.task == task

    def test_a_blocked_reserve_gets_a_task_whose_lease_expires(
        self, storage: Any, clock: Any
    ) -> None:
        """N64: a waiting consumer recovers the task; no call of `recover` is needed."""
        task = add_one(storage)
        take(storage, lease=1.0)
        blocked = reserving(storage)
        clock.advance(3)
        (lease,) = blocked.result(BOUND)
        assert lease.task == task

    def test_who_is_left_blocked_watches_over_what_the_other_got(
        self, storage: Any, clock: Any
    ) -> None:
        """Two wait, one gets a task and dies: the other one must wake when the lease expires."""
        both = [reserving(storage, lease=1.0) for _ in range(2)]
        task = add_one(storage)
        ((first,), (second,)) = wait(both, BOUND, FIRST_COMPLETED)
        assert first.result(0)[0].task == task
        clock.advance(3)
        (lease,) = second.result(BOUND)
        assert (lease.task, lease.attempt) == (task, 2)

    def test_a_blocked_reserve_gets_what_is_retried(self, storage: Any, clock: Any) -> None:
        """`retry` queues the task and wakes a waiting consumer."""
        task = bring_to(storage, clock, FAILED)
        blocked = reserving(storage)
        storage.admin.retry(task.id)
        (lease,) = blocked.result(BOUND)
        assert lease.task == task

    def test_a_blocked_reserve_gets_the_next_attempt(self, storage: Any, clock: Any) -> None:
        """`finish` wakes a waiting consumer for the next attempt."""
        task = add_one(storage)
        lease = take(storage, lease=1000.0)
        blocked = reserving(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock() - 10))
        (lease,) = blocked.result(BOUND)
        assert (lease.task, lease.attempt) == (task, 2)

    def test_a_blocked_reserve_gets_what_is_recovered(self, storage: Any, clock: Any) -> None:
        """`recover` wakes a waiting consumer for the task."""
        task = add_one(storage)
        take(storage, lease=1000.0)
        blocked = reserving(storage)
        clock.advance(2000)
        storage.admin.recover()
        (lease,) = blocked.result(BOUND)
        assert (lease.task, lease.attempt) == (task, 2)

    def test_scheduled_tasks_come_in_the_order_they_fall_due(
        self, storage: Any, clock: Any
    ) -> None:
        """O05, U36: tasks due at the same moment come in the order they were added."""
        now = clock()
        dues = [300, 100, 200, 100, 300]
        tasks = add(storage, *(new_task(due=now + due) for due in dues))
        assert storage.admin.counts()[SCHEDULED] == 5
        assert storage.admin.counts()["queued"] == 0
        assert [storage.admin.get(task.id).due for task in tasks] == [
            near(now + due) for due in dues
        ]
        assert take_all(storage) == []
        clock.advance(150)
        assert take_all(storage) == ids([tasks[1], tasks[3]])
        clock.advance(200)
        assert take_all(storage) == ids([tasks[2], tasks[0], tasks[4]])

    def test_an_expired_task_comes_back_by_itself(self, storage: Any, clock: Any) -> None:
        """N33, guarantee 2: the next `reserve` returns it, before all waiting tasks."""
        tasks = add(storage, new_task(), new_task())
        lose(storage, clock)
        assert take_all(storage) == ids(tasks)

    def test_recovered_tasks_go_to_the_front_in_their_order(self, storage: Any, clock: Any) -> None:
        """Guarantee 3; tasks whose lease is still valid keep running."""
        tasks = add(storage, *(new_task() for _ in range(5)))
        storage.reserve("lost", limit=3, timeout=0, lease=30.0)
        kept = take(storage, lease=1000.0)
        clock.advance(60)
        assert storage.admin.recover() == ids(tasks[:3])
        assert storage.admin.recover() == []
        assert storage.admin.counts()["queued"] == 4
        assert ids(storage.admin.tasks(RUNNING)) == [kept.task.id]
        assert take_all(storage) == ids([*tasks[:3], tasks[4]])

    def test_nothing_is_recovered_before_its_lease_expires(self, storage: Any, clock: Any) -> None:
        """N33: a lease lasts for the seconds that were asked for."""
        add_one(storage)
        take(storage, lease=100.0)
        clock.advance(80)
        with unchanged(storage):
            assert storage.admin.recover() == []

    def test_the_lost_attempt_is_counted(self, storage: Any, clock: Any) -> None:
        """The lost attempt is in the history, and does not count for `max_attempts`."""
        task = add_one(storage, max_attempts=1)
        now = clock()
        lose(storage, clock)
        storage.admin.recover()
        status = storage.admin.get(task.id)
        assert status.state == QUEUED
        (attempt,) = status.attempts
        assert (attempt.number, attempt.consumer) == (1, "consumer")
        assert attempt.started == near(now)
        assert attempt.seconds == near(60)
        assert attempt.status is None
        assert "lost" in attempt.reason
        lease = take(storage)
        assert (lease.attempt, lease.counted) == (2, 0)

    def test_a_task_that_takes_its_process_down_is_failed(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """D35: after `max_deliveries` losses, with that reason, and `notify` is called."""
        storage = make_storage(max_deliveries=2)
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        task = add_one(storage)
        lose(storage, clock)
        assert storage.admin.recover() == [task.id]
        assert told == []
        lose(storage, clock)
        assert storage.admin.recover() == []
        status = storage.admin.get(task.id)
        assert status.state == FAILED
        assert "lost 2 times" in status.reason
        assert [attempt.number for attempt in status.attempts] == [1, 2]
        assert told == [(FAILED, task.id)]
        assert take_all(storage) == []

    def test_a_reserve_that_fails_a_task_tells_it(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """`reserve` recovers lost tasks itself, so it must call `notify` itself, too."""
        storage = make_storage(max_deliveries=1)
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        task = add_one(storage)
        lose(storage, clock)
        assert take_all(storage) == []
        assert told == [(FAILED, task.id)]

    def test_a_blocked_reserve_tells_and_goes_on_waiting(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """`reserve` calls `notify` at once for a task that it fails, and then waits on."""
        storage = make_storage(max_deliveries=1)
        told: Future[Any] = Future()
        storage.notify = lambda state, task_id: told.set_result((state, task_id))
        poison = add_one(storage)
        take(storage, lease=1.0)
        blocked = reserving(storage)
        clock.advance(3)
        assert told.result(BOUND) == (FAILED, poison.id)
        assert is_blocked(blocked)
        task = add_one(storage)
        (lease,) = blocked.result(BOUND)
        assert lease.task == task

    def test_the_queue_is_never_told_under_a_lock(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """`notify` may call the storage in another thread and wait for the result."""
        storage = make_storage(max_deliveries=1)
        seen: list[str] = []

        def notify(state: str, task_id: str) -> None:
            seen.append(aside(lambda: storage.admin.get(task_id).state).result(BOUND))

        storage.notify = notify
        add_one(storage)
        for lost in (storage.admin.recover, lambda: storage.reserve("consumer", timeout=0)):
            lose(storage, clock)
            lost()
            add_one(storage)
        replaced = add_one(storage, key="k")
        add_one(storage, key="k", on_conflict="replace")
        assert seen == [FAILED, FAILED, CANCELLED]
        assert storage.admin.get(replaced.id).state == CANCELLED

    def test_a_renewed_lease_lasts_longer(self, storage: Any, clock: Any) -> None:
        """The new seconds count from now on, not from the old expiry."""
        task = add_one(storage)
        lease = take(storage, lease=100.0)
        clock.advance(80)
        assert storage.renew(lease, 100.0) is True
        clock.advance(80)
        assert storage.admin.recover() == []
        clock.advance(30)
        assert storage.admin.recover() == [task.id]

    def test_a_lost_lease_cannot_be_renewed(self, storage: Any, clock: Any) -> None:
        """`renew` returns False while the task waits again, and while another lease runs it."""
        task = add_one(storage)
        lost = lose(storage, clock)
        storage.admin.recover()
        with unchanged(storage):
            assert storage.renew(lost) is False
        take(storage, lease=30.0)
        assert storage.renew(lost, 1000.0) is False
        clock.advance(60)
        assert storage.admin.recover() == [task.id]

    def test_a_paused_queue_hands_out_nothing(self, storage: Any, clock: Any) -> None:
        """Queued, scheduled and lost tasks wait until the queue is resumed."""
        running = add_one(storage)
        lease = take(storage, lease=1000.0)
        lost = add_one(storage)
        lose(storage, clock)
        assert storage.admin.paused() is False
        storage.admin.pause()
        assert storage.admin.paused() is True
        tasks = [lost, add_one(storage), add_one(storage, due=clock() + 10)]
        clock.advance(20)
        assert take_all(storage) == []
        blocked = reserving(storage)
        assert storage.renew(lease, 30.0) is True
        assert storage.complete(lease, completed(lease)) == "succeeded"
        assert storage.admin.get(running.id).state == "succeeded"
        assert is_blocked(blocked)
        storage.admin.resume()
        assert storage.admin.paused() is False
        taken = [lease.task.id for lease in blocked.result(BOUND)] + take_all(storage)
        assert taken == ids(tasks)

    def test_a_backend_that_can_be_used_passes_its_check(self, storage: Any) -> None:
        """`check`, called when the process starts, raises nothing and changes nothing."""
        add_one(storage)
        with unchanged(storage):
            assert storage.admin.check() is None

    def test_closing_lets_go(self, make_storage: Callable[..., Any]) -> None:
        """`close`, called at exit, works whatever is in the queue."""
        storage = make_storage()
        add_one(storage)
        storage.stage("batch", [new_task()])
        assert everything(storage)
        assert storage.close() is None
