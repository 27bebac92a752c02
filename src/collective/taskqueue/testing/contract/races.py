"""Many threads at the same moment: one wins, the others are blocked or rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import at_once
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import everything
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from collective.taskqueue.testing.contract.base import THREADS
from functools import partial
from typing import Any
import pytest
import threading
import time


#: Tasks that each thread of the largest race adds.
TASKS = 100

#: Rounds of the races between two calls, so that each call wins sometimes.
ROUNDS = 20


def stage_all(storage: Any, tasks: list[Task]) -> list[Callable[[], Any]]:
    """Stage each task in a batch of its own; return the calls that promote them."""
    for task in tasks:
        storage.stage(task.id, [task])
    return [partial(storage.promote, task.id) for task in tasks]


class Races(Base):
    """The outcome of concurrent calls is that of the same calls in some order."""

    def test_each_task_is_reserved_exactly_once(self, storage: Any) -> None:
        """N32: in queue order, while other threads add and read; counts always add up."""
        for number in range(THREADS):
            tasks = [new_task(url=f"/{number}/{place}") for place in range(TASKS)]
            storage.stage(str(number), tasks)
        total = THREADS * TASKS
        seen: set[int] = set()
        done = threading.Event()

        def work(number: int) -> list[str]:
            storage.promote(str(number))
            urls: list[str] = []
            while lease := next(iter(storage.reserve(str(number), timeout=0)), None):
                urls.append(lease.task.url)
                assert storage.complete(lease, completed(lease)) == SUCCEEDED
            return urls

        def watch() -> None:
            while not done.is_set():
                seen.add(sum(storage.admin.counts().values()))

        watching = aside(watch)
        # Each task takes two commits, on a disk that other programs may use, too.
        taken = at_once([partial(work, number) for number in range(THREADS)], 5 * BOUND)
        done.set()
        watching.result(BOUND)
        assert Counter(url for urls in taken for url in urls).most_common(1)[0][1] == 1
        assert sum(len(urls) for urls in taken) == total
        for urls in taken:
            for number in range(THREADS):
                places = [int(u.split("/")[2]) for u in urls if u.startswith(f"/{number}/")]
                assert places == sorted(places)
        assert {count % TASKS for count in seen} == {0}
        assert storage.admin.counts()[SUCCEEDED] == total

    def test_losers_of_a_task_are_blocked(self, storage: Any) -> None:
        """One thread gets the task; the others wait for their whole timeout and get nothing."""
        task = add_one(storage)

        def reserve() -> tuple[list[str], float]:
            began = time.monotonic()
            leases = storage.reserve("consumer", timeout=0.5)
            return ids(lease.task for lease in leases), time.monotonic() - began

        results = at_once([reserve for _ in range(THREADS)])
        assert sorted(taken for taken, _ in results) == [[]] * (THREADS - 1) + [[task.id]]
        assert all(seconds >= 0.5 for taken, seconds in results if not taken)

    def test_one_of_many_finishers_wins(self, storage: Any) -> None:
        """The result of the first call is kept; for the others the token is stale."""
        for _ in range(ROUNDS):
            task = add_one(storage)
            lease = take(storage)
            endings = [completed(lease, FAILED, reason=str(number)) for number in range(THREADS)]
            answers = at_once([partial(storage.complete, lease, end) for end in endings])
            assert Counter(answers) == {FAILED: 1, None: THREADS - 1}
            winner = str(answers.index(FAILED))
            status = storage.admin.get(task.id)
            assert (status.reason, len(status.attempts)) == (winner, 1)

    def test_a_task_is_either_finished_or_recovered(self, storage: Any, clock: Any) -> None:
        """The later call has no effect; a task is never both completed and redelivered."""
        for _ in range(ROUNDS):
            task = add_one(storage)
            late = lose(storage, clock)
            finish = partial(storage.complete, late, completed(late))
            state, *recovered = at_once([finish, *[storage.admin.recover] * 3])
            back = [task_id for found in recovered for task_id in found]
            assert (state, back) in ((SUCCEEDED, []), (None, [task.id]))
            leases = storage.reserve("consumer", limit=2, timeout=0)
            assert [lease.task.id for lease in leases] == back
            for lease in leases:
                assert storage.complete(lease, completed(lease)) == SUCCEEDED

    def test_a_task_is_either_cancelled_or_reserved(self, storage: Any) -> None:
        """The task is cancelled before it runs, or runs and is asked to stop; never both."""
        for _ in range(ROUNDS):
            task = add_one(storage)
            reserve = partial(storage.reserve, "consumer", timeout=0)
            state, leases = at_once([partial(storage.admin.cancel, task.id), reserve])
            assert storage.admin.get(task.id).state == state
            assert [lease.task.id for lease in leases] == ([task.id] if state == RUNNING else [])
            for lease in leases:
                assert storage.report(lease) is True
                assert storage.complete(lease, completed(lease)) == CANCELLED

    def test_a_task_is_either_cancelled_or_finished(self, storage: Any) -> None:
        """If `cancel` returns running, the task ends as cancelled; if too late, `cancel` raises."""
        for _ in range(ROUNDS):
            task = add_one(storage)
            lease = take(storage)
            cancel = partial(storage.admin.cancel, task.id)
            answer, state = at_once([cancel, partial(storage.complete, lease, completed(lease))])
            if state == CANCELLED:
                assert answer == RUNNING
            else:
                assert isinstance(answer, ForbiddenTransition)
                assert state == SUCCEEDED
            assert storage.admin.get(task.id).state == state

    @pytest.mark.parametrize("method", ["cancel", "retry", "remove"])
    def test_one_of_many_requests_is_granted(self, storage: Any, clock: Any, method: str) -> None:
        """The other calls raise: the state of the task forbids them, or the task is removed."""
        state = QUEUED if method == "cancel" else FAILED
        refusal = UnknownTask if method == "remove" else ForbiddenTransition
        task = bring_to(storage, clock, state)
        answers = at_once([partial(getattr(storage.admin, method), task.id)] * THREADS)
        refused = [answer for answer in answers if isinstance(answer, refusal)]
        assert len(refused) == THREADS - 1
        if method == "retry":
            assert take_all(storage) == [task.id]

    def test_a_batch_is_promoted_once(self, storage: Any) -> None:
        """Its transaction and the outbox relay may promote it at the same time."""
        for number in range(ROUNDS):
            tasks = [new_task() for _ in range(10)]
            batch = str(number)
            if number % 2:
                storage.stage(batch, tasks)
            at_once([partial(storage.promote, batch, None, tasks)] * THREADS)
            assert take_all(storage) == ids(tasks)

    def test_of_one_key_exactly_one_is_queued(self, storage: Any) -> None:
        """skip: the ids of the other tasks are aliases of the queued one."""
        for _ in range(ROUNDS):
            tasks = [new_task(key="k") for _ in range(THREADS)]
            at_once(stage_all(storage, tasks))
            (winner,) = storage.admin.tasks(QUEUED)
            assert {storage.admin.get(task.id).id for task in tasks} == {winner.id}
            assert take_all(storage) == [winner.id]

    @pytest.mark.parametrize("on_conflict", ["replace", "after_running"])
    def test_of_one_key_exactly_one_waits(
        self, make_storage: Callable[..., Any], on_conflict: str
    ) -> None:
        """The last one promoted waits; each other is cancelled, with one call of `notify`."""
        storage = make_storage()
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        fields = {"key": "k", "on_conflict": on_conflict}
        first = add_one(storage, **fields)
        running = take(storage)
        for _ in range(ROUNDS):
            told.clear()
            tasks = [new_task(**fields) for _ in range(THREADS)]
            at_once(stage_all(storage, tasks))
            (winner,) = storage.admin.tasks(QUEUED)
            losers = [task.id for task in tasks if task.id != winner.id]
            assert {storage.admin.get(loser).state for loser in losers} == {CANCELLED}
            assert sorted(told) == sorted((CANCELLED, loser) for loser in losers)
            storage.admin.clear()
        assert storage.admin.get(first.id).state == RUNNING
        assert storage.complete(running, completed(running)) == SUCCEEDED

    def test_of_one_key_never_two_run(self, storage: Any) -> None:
        """after_running, while eight threads add and reserve; the newest task runs in the end."""
        running = threading.Semaphore(1)
        tasks = [new_task(key="k", on_conflict="after_running") for _ in range(THREADS * 20)]
        promote = stage_all(storage, tasks)

        def work(number: int) -> list[str]:
            done: list[str] = []
            for call in promote[number::THREADS]:
                call()
                for lease in storage.reserve("consumer", timeout=0):
                    assert running.acquire(blocking=False), "two tasks of one key run"
                    done.append(lease.task.id)
                    running.release()
                    storage.complete(lease, completed(lease))
            return done

        done = [i for found in at_once([partial(work, n) for n in range(THREADS)]) for i in found]
        while leases := storage.reserve("consumer", timeout=0):
            done.append(leases[0].task.id)
            storage.complete(leases[0], completed(leases[0]))
        assert len(done) == len(set(done))
        states = {status.id: status.state for status in everything(storage)}
        assert {i for i, state in states.items() if state == SUCCEEDED} == set(done)
        assert set(states.values()) <= {SUCCEEDED, CANCELLED}
        newest = everything(storage)[-1]
        assert newest.state == SUCCEEDED

    def test_all_at_once(self, storage: Any, clock: Any) -> None:
        """Whichever calls are made at the same moment, the storage stays consistent."""
        tasks = add(storage, *(new_task(key=str(number % 40)) for number in range(80)))
        allowed = (ForbiddenTransition, UnknownTask)

        def disturb(number: int) -> None:
            for task in tasks[number::3]:
                for method in (storage.admin.cancel, storage.admin.retry, storage.admin.remove):
                    try:
                        method(task.id)
                    except allowed:
                        continue

        def work() -> None:
            for _ in range(40):
                for lease in storage.reserve("consumer", limit=2, timeout=0):
                    storage.report(lease)
                    storage.complete(lease, completed(lease, FAILED))

        def administrate() -> None:
            for _ in range(20):
                storage.admin.pause()
                storage.admin.recover()
                storage.admin.resume()
                storage.admin.purge(CANCELLED)

        calls: list[Callable[[], Any]] = [work, work, work, administrate, storage.admin.clear]
        calls += [partial(disturb, number) for number in range(3)]
        failures = [answer for answer in at_once(calls) if isinstance(answer, BaseException)]
        assert failures == []
