"""Schedules: of all calls for a tick one queues a task, whatever happens to tasks later."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.schedule import Run
from collective.taskqueue.schedule import RUNS
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import at_once
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import everything
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import near
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from collective.taskqueue.testing.contract.base import THREADS
from functools import partial
from typing import Any


#: Names of schedules that storages may confuse with something of their own.
NAMES = ["nightly", "a b", "", "default", "née:1%.*", "x" * 500]


class Ticking(Base):
    """`tick` and what is kept of a schedule."""

    def test_a_schedule_that_never_ticked(self, storage: Any, clock: Any) -> None:
        state = storage.admin.schedule("nightly")
        assert state == (None, False, (), near(clock()))

    def test_a_tick_queues_its_task_once(self, storage: Any, clock: Any) -> None:
        """A second call for the same tick, or for an earlier one, does nothing."""
        at = clock() - 10
        first, second = new_task(), new_task()
        assert storage.admin.tick("nightly", at, first) is True
        assert storage.admin.tick("nightly", at, second) is False
        assert storage.admin.tick("nightly", at - 60, second) is False
        assert ids(everything(storage)) == [first.id]
        state = storage.admin.schedule("nightly")
        assert state[:3] == (at, False, (Run(at, first.id),))
        assert take(storage).task == first

    def test_the_next_tick_queues_the_next_task(self, storage: Any, clock: Any) -> None:
        tasks = [new_task() for _ in range(3)]
        at = clock() - 100
        for number, task in enumerate(tasks):
            assert storage.admin.tick("nightly", at + number, task)
        assert take_all(storage) == ids(tasks)
        runs = [Run(at + number, task.id) for number, task in enumerate(tasks)]
        assert storage.admin.schedule("nightly").runs == tuple(reversed(runs))

    def test_schedules_are_apart(self, storage: Any, clock: Any) -> None:
        at = clock() - 1
        for name in NAMES:
            assert storage.admin.tick(name, at, new_task())
            storage.admin.pause_schedule(name)
        assert storage.admin.counts()[QUEUED] == len(NAMES)
        assert all(storage.admin.schedule(name).paused for name in NAMES)
        assert not storage.admin.schedule("another").paused

    def test_a_tick_of_the_future_is_refused(self, storage: Any, clock: Any) -> None:
        """The clock of the storage decides: that of a process may be fast."""
        at = clock() + 90
        assert not storage.admin.tick("nightly", at, new_task())
        assert storage.admin.schedule("nightly").last is None
        assert not everything(storage)
        clock.advance(91)
        assert storage.admin.tick("nightly", at, new_task())

    def test_a_tick_without_a_task_is_noted(self, storage: Any, clock: Any) -> None:
        """It was missed, or it is where the schedule begins."""
        at = clock() - 1
        assert storage.admin.tick("nightly", at)
        assert storage.admin.schedule("nightly")[:3] == (at, False, ())
        assert not storage.admin.tick("nightly", at, new_task())
        assert not everything(storage)

    def test_a_paused_schedule_does_not_tick(self, storage: Any, clock: Any) -> None:
        """The ticks of a pause are not made up for."""
        at = clock() - 10
        storage.admin.pause_schedule("nightly")
        assert storage.admin.schedule("nightly")[:3] == (None, True, ())
        assert not storage.admin.tick("nightly", at, new_task())
        clock.advance(3600)
        storage.admin.resume_schedule("nightly")
        state = storage.admin.schedule("nightly")
        assert (state.last, state.paused) == (near(clock()), False)
        assert not storage.admin.tick("nightly", clock() - 1800, new_task())
        clock.advance(60)
        assert storage.admin.tick("nightly", clock() - 30, new_task())

    def test_resumption_of_a_schedule_that_is_not_paused(self, storage: Any, clock: Any) -> None:
        at = clock() - 10
        storage.admin.tick("nightly", at)
        storage.admin.resume_schedule("nightly")
        assert storage.admin.schedule("nightly").last == at
        storage.admin.resume_schedule("unknown")
        assert storage.admin.schedule("unknown").last is None

    def test_pause_keeps_last_tick_and_runs(self, storage: Any, clock: Any) -> None:
        at, task = clock() - 10, new_task()
        storage.admin.tick("nightly", at, task)
        storage.admin.pause_schedule("nightly")
        assert storage.admin.schedule("nightly")[:3] == (at, True, (Run(at, task.id),))

    def test_a_run_that_moves_no_tick(self, storage: Any, clock: Any) -> None:
        """A person wants it now, even while the schedule is paused."""
        first, second = new_task(), new_task()
        storage.admin.pause_schedule("nightly")
        assert storage.admin.tick("nightly", clock(), first, moves=False)
        state = storage.admin.schedule("nightly")
        assert (state.last, state.paused) == (None, True)
        assert [run.task_id for run in state.runs] == [first.id]
        storage.admin.resume_schedule("nightly")
        last = storage.admin.schedule("nightly").last
        assert storage.admin.tick("nightly", clock(), second, moves=False)
        assert storage.admin.schedule("nightly").last == last
        assert take_all(storage) == ids([first, second])

    def test_a_task_that_is_known_is_not_queued_again(self, storage: Any, clock: Any) -> None:
        """The queue got the task, and what was kept of the tick was lost."""
        task = add_one(storage)
        assert storage.admin.tick("nightly", clock() - 1, task)
        assert ids(everything(storage)) == [task.id]

    def test_so_many_runs_are_kept(self, storage: Any, clock: Any) -> None:
        tasks = [new_task() for _ in range(RUNS + 3)]
        for number, task in enumerate(tasks):
            storage.admin.tick("nightly", clock() - 1000 + number, task)
        runs = storage.admin.schedule("nightly").runs
        assert [run.task_id for run in runs] == ids(reversed(tasks))[:RUNS]

    def test_the_key_of_its_task_applies(self, storage: Any, clock: Any) -> None:
        first = new_task(key="nightly", on_conflict="skip")
        second = new_task(key="nightly", on_conflict="skip")
        assert storage.admin.tick("nightly", clock() - 2, first)
        assert storage.admin.tick("nightly", clock() - 1, second)
        assert ids(everything(storage)) == [first.id]
        assert storage.admin.get(second.id).id == first.id

    def test_a_task_that_is_due_later(self, storage: Any, clock: Any) -> None:
        """The jitter of a schedule."""
        task = new_task(due=clock() + 30)
        assert storage.admin.tick("nightly", clock() - 1, task)
        assert storage.admin.get(task.id).state == SCHEDULED
        clock.advance(31)
        assert take(storage).task.id == task.id

    def test_the_last_tick_survives_all_that_happens_to_tasks(
        self, storage: Any, clock: Any
    ) -> None:
        at = clock() - 10
        storage.admin.tick("nightly", at, new_task())
        storage.complete(lease := take(storage), completed(lease, SUCCEEDED))
        storage.admin.tick("nightly", at + 1, new_task())
        storage.admin.clear()
        for state in FINISHED:
            storage.admin.purge(state)
        clock.advance(100_000_000)
        assert not everything(storage)
        assert storage.admin.schedule("nightly").last == at + 1
        assert not storage.admin.tick("nightly", at + 1, new_task())

    def test_a_task_that_waits_in_a_paused_queue(self, storage: Any, clock: Any) -> None:
        storage.admin.pause()
        assert storage.admin.tick("nightly", clock() - 1, new_task())
        assert not take_all(storage)
        storage.admin.resume()
        assert len(take_all(storage)) == 1

    def test_of_many_threads_one_queues_each_tick(self, storage: Any, clock: Any) -> None:
        at = clock() - 100
        won = 0
        for number in range(10):
            calls: list[Callable[[], Any]] = [
                partial(storage.admin.tick, "nightly", at + number, new_task())
                for _ in range(THREADS)
            ]
            found = at_once(calls)
            assert sorted(found) == [False] * (THREADS - 1) + [True]
            won += sum(found)
        assert storage.admin.counts()[QUEUED] == won == 10

    def test_a_consumer_that_waits_is_woken(self, storage: Any, clock: Any) -> None:
        reserved = aside(partial(storage.reserve, "consumer"))
        assert is_blocked(reserved)
        task = new_task()
        assert storage.admin.tick("nightly", clock() - 1, task)
        assert [lease.task.id for lease in reserved.result(BOUND)] == [task.id]
