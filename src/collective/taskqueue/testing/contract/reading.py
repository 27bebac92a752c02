"""Introspection: counts, pages, order, and how long records are kept."""

from __future__ import annotations

from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import assert_consistent
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import near
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import unchanged
from typing import Any
import os
import pytest
import socket


class Reading(Base):
    """All known tasks can be listed, page by page, until their records expire."""

    def test_counts_follow_every_change(self, storage: Any, clock: Any) -> None:
        """Each task is counted once, in the state it is in; `len` counts the queued ones."""
        expected = dict.fromkeys(STATES, 0)
        order: list[State] = [SUCCEEDED, FAILED, CANCELLED, RUNNING, SCHEDULED, QUEUED]
        for state in order:
            bring_to(storage, clock, state)
            expected[state] += 1
            assert storage.admin.counts() == expected
            assert_consistent(storage)
        assert storage.admin.counts()["queued"] == 1

    def test_len_counts_neither_running_nor_scheduled_tasks(self, storage: Any, clock: Any) -> None:
        """C46: a running task waits no longer, a scheduled one not yet."""
        add(storage, *(new_task() for _ in range(3)), new_task(due=clock() + 100))
        take(storage)
        assert storage.admin.counts()["queued"] == 2

    def test_a_task_is_found_in_every_state(self, storage: Any, clock: Any) -> None:
        """A task is found by its id and in the list of its state."""
        order: list[State] = [SUCCEEDED, FAILED, CANCELLED, RUNNING, SCHEDULED, QUEUED]
        for state in order:
            task = bring_to(storage, clock, state)
            assert storage.admin.get(task.id).task == task
            assert ids(storage.admin.tasks(state)) == [task.id]

    def test_waiting_tasks_come_in_the_order_they_will_run(self, storage: Any, clock: Any) -> None:
        """Recovered tasks come first, retried ones last."""
        retried = bring_to(storage, clock, FAILED)
        tasks = add(storage, *(new_task() for _ in range(3)))
        lose(storage, clock)
        storage.admin.recover()
        storage.admin.retry(retried.id)
        expected = ids([*tasks, retried])
        assert ids(storage.admin.tasks(QUEUED)) == expected
        assert [take(storage).task.id for _ in range(4)] == expected

    def test_scheduled_tasks_come_in_the_order_they_fall_due(
        self, storage: Any, clock: Any
    ) -> None:
        """The list of scheduled tasks has the order in which they will run."""
        now = clock()
        tasks = add(storage, *(new_task(due=now + due) for due in (300, 100, 200)))
        assert ids(storage.admin.tasks(SCHEDULED)) == ids([tasks[1], tasks[2], tasks[0]])

    @pytest.mark.parametrize("state", [RUNNING, SUCCEEDED, FAILED, CANCELLED])
    def test_all_others_come_oldest_first(self, storage: Any, clock: Any, state: State) -> None:
        """The list of all states has the oldest first, too."""
        tasks = [bring_to(storage, clock, state) for _ in range(5)]
        assert ids(storage.admin.tasks(state)) == ids(tasks)
        assert ids(storage.admin.tasks()) == ids(tasks)

    @pytest.mark.parametrize("state", [None, QUEUED, SCHEDULED, RUNNING, SUCCEEDED])
    def test_pages_make_up_the_whole(self, storage: Any, clock: Any, state: State | None) -> None:
        """Pages repeat no task, leave none out, and are empty after the end."""
        tasks = [bring_to(storage, clock, SUCCEEDED) for _ in range(7)]
        if state != SUCCEEDED:
            due = clock() + 100 if state == SCHEDULED else None
            tasks = [*tasks, *add(storage, *(new_task(due=due) for _ in range(7)))]
            if state == RUNNING:
                storage.reserve("consumer", limit=7, timeout=0)
        expected = ids(tasks) if state is None else ids(tasks[-7:])
        pages = [storage.admin.tasks(state, start=start, size=3) for start in range(0, 18, 3)]
        assert [task_id for page in pages for task_id in ids(page)] == expected
        assert all(len(page) <= 3 for page in pages)
        assert storage.admin.tasks(state, start=100) == []

    def test_a_page_has_fifty_tasks(self, storage: Any) -> None:
        """The default page has the first fifty tasks."""
        tasks = add(storage, *(new_task() for _ in range(60)))
        assert ids(storage.admin.tasks()) == ids(tasks[:50])

    def test_tasks_of_one_user(self, storage: Any, clock: Any) -> None:
        """N22: by user id, also with a state and pages; no tasks of other users."""
        jane, joe = Identity("/acl_users", "jane"), Identity("/acl_users", "joe")
        hers, his, nobodys = [], [], []
        for state in (SUCCEEDED, SUCCEEDED, RUNNING, QUEUED):
            hers.append(bring_to(storage, clock, state, user=jane))
            if state != QUEUED:
                his.append(bring_to(storage, clock, state, user=joe))
                nobodys.append(bring_to(storage, clock, state))
        assert ids(storage.admin.tasks(user="jane")) == ids(hers)
        assert ids(storage.admin.tasks(user="joe")) == ids(his)
        assert ids(storage.admin.tasks(SUCCEEDED, user="jane")) == ids(hers[:2])
        assert ids(storage.admin.tasks(SUCCEEDED, user="jane", start=1, size=5)) == ids(hers[1:2])
        assert ids(storage.admin.tasks(user="jane", start=1, size=2)) == ids(hers[1:3])
        assert storage.admin.tasks(user="/acl_users") == []
        storage.admin.purge(SUCCEEDED)
        assert ids(storage.admin.tasks(user="jane")) == ids(hers[2:])
        storage.admin.clear()
        assert ids(storage.admin.tasks(user="jane")) == ids(hers[2:3])

    def test_tasks_of_one_user_come_in_the_order_of_their_state(
        self, storage: Any, clock: Any
    ) -> None:
        """The list of one user has the order of the list of all users, page by page."""
        now, jane = clock(), Identity("/acl_users", "jane")
        tasks = [new_task(due=now + due, user=jane) for due in (300, 100, 200)]
        add(storage, *tasks, new_task(due=now + 150))
        assert ids(storage.admin.tasks(SCHEDULED, "jane")) == ids([tasks[1], tasks[2], tasks[0]])
        assert ids(storage.admin.tasks(SCHEDULED, "jane", start=1, size=1)) == [tasks[2].id]
        mine = [bring_to(storage, clock, FAILED, user=user) for user in (jane, jane, None)][:2]
        storage.admin.retry(mine[0].id)
        storage.admin.retry(mine[1].id)
        lose(storage, clock)
        storage.admin.recover()
        assert ids(storage.admin.tasks(QUEUED, "jane")) == ids(mine)
        assert ids(storage.admin.tasks(QUEUED, "jane", start=1)) == [mine[1].id]
        assert storage.admin.tasks(QUEUED, "jane", start=2) == []
        assert storage.admin.tasks(QUEUED, "joe") == []

    def test_consumers_are_known(self, storage: Any, clock: Any) -> None:
        """Once a consumer has reserved, its host, process id and running tasks are listed."""
        assert storage.admin.consumers() == []
        first, second = add(storage, new_task(), new_task())
        for consumer, limit in (("two", 2), ("one", 1)):
            storage.reserve(consumer, limit=limit, timeout=0, lease=LONG)
        found = storage.admin.consumers()
        assert [(consumer.name, consumer.running) for consumer in found] == [
            ("one", ()),
            ("two", (first.id, second.id)),
        ]
        for consumer in found:
            assert (consumer.host, consumer.pid) == (socket.gethostname(), os.getpid())
            assert consumer.age == near(0.0)

    def test_a_consumer_is_heard_of_while_it_works(self, storage: Any, clock: Any) -> None:
        """A consumer is forgotten an hour after its last call."""
        add_one(storage)
        lease = take(storage)
        storage.reserve("other", timeout=0)
        clock.advance(3000)
        storage.renew(lease, LONG)
        ages = {consumer.name: consumer.age for consumer in storage.admin.consumers()}
        assert ages.pop(lease.consumer) == near(0.0)
        assert ages == {"other": near(3000.0)}
        clock.advance(700)
        assert [consumer.name for consumer in storage.admin.consumers()] == [lease.consumer]

    def test_a_consumer_that_has_stopped_is_forgotten(self, storage: Any, clock: Any) -> None:
        """Only this consumer is forgotten, until its next call."""
        for consumer in ("one", "two"):
            storage.reserve(consumer, timeout=0)
        storage.admin.forget_consumer("one")
        storage.admin.forget_consumer("nobody")
        assert [consumer.name for consumer in storage.admin.consumers()] == ["two"]
        storage.reserve("one", timeout=0)
        assert [consumer.name for consumer in storage.admin.consumers()] == ["one", "two"]

    def test_a_consumer_that_is_silent_is_not_alive(self, storage: Any, clock: Any) -> None:
        """A silent consumer is alive only while it has a running task, under a lease."""
        add_one(storage)
        storage.reserve("busy", timeout=0, lease=LONG)
        storage.reserve("idle", timeout=0)
        alive = {consumer.name: consumer.alive for consumer in storage.admin.consumers()}
        assert alive == {"busy": True, "idle": True}
        clock.advance(61)
        alive = {consumer.name: consumer.alive for consumer in storage.admin.consumers()}
        assert alive == {"busy": True, "idle": False}
        storage.reserve("idle", timeout=0)
        assert all(consumer.alive for consumer in storage.admin.consumers())

    def test_what_was_done_in_the_last_hour(self, storage: Any, clock: Any) -> None:
        """Every completion is counted, also of a task whose record is removed."""
        for state in (SUCCEEDED, SUCCEEDED, FAILED, CANCELLED):
            bring_to(storage, clock, state)
        assert storage.admin.throughput() == {SUCCEEDED: 2, FAILED: 1, CANCELLED: 1}
        clock.advance(1800)
        bring_to(storage, clock, SUCCEEDED)
        storage.admin.purge(SUCCEEDED)
        assert storage.admin.throughput() == {SUCCEEDED: 3, FAILED: 1, CANCELLED: 1}
        clock.advance(1900)
        assert storage.admin.throughput() == {SUCCEEDED: 1, FAILED: 0, CANCELLED: 0}
        clock.advance(1800)
        bring_to(storage, clock, FAILED)
        assert storage.admin.throughput() == {SUCCEEDED: 0, FAILED: 1, CANCELLED: 0}

    def test_looking_changes_nothing(self, storage: Any, clock: Any) -> None:
        """Reading changes nothing, however often."""
        for state in (SUCCEEDED, SCHEDULED):
            bring_to(storage, clock, state)
        task = add_one(storage)
        lose(storage, clock)
        add_one(storage)
        clock.advance(5000)
        with unchanged(storage):
            assert_consistent(storage)
            storage.admin.get(task.id)
            assert storage.admin.paused() is False
