"""Searches by a filter, page by page, and changes of many tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.task import Action
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import at_once
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from collective.taskqueue.testing.contract.base import unchanged
from itertools import islice
from typing import Any
import pytest


JANE = Identity("/Plone/acl_users", "jane")
OTHER_JANE = Identity("/acl_users", "jane")
JOE = Identity("/Plone/acl_users", "joe")

#: Most tasks that one call examines, and that one call changes.
SCAN, CHANGES = 1000, 100

#: States that tasks are brought to, the ones that wait last: others would run before them.
ORDER: tuple[State, ...] = (SUCCEEDED, FAILED, CANCELLED, RUNNING, SCHEDULED, QUEUED)


def pages(storage: Any, filter: TaskFilter, size: int = 50) -> Iterator[TaskPage]:
    """Yield the pages of a search."""
    page = storage.admin.search(filter, None, size)
    yield page
    while page.cursor is not None:
        page = storage.admin.search(filter, page.cursor, size)
        yield page


def found(storage: Any, filter: TaskFilter, size: int = 50) -> list[str]:
    """Return the ids of all tasks that a search finds."""
    return [task_id for page in pages(storage, filter, size) for task_id in ids(page.tasks)]


def end_all(storage: Any, state: State, reason: str = "") -> list[str]:
    """Run all tasks that wait to their end; return their ids."""
    leases = storage.reserve("consumer", limit=2000, timeout=0, lease=1000.0)
    for lease in leases:
        storage.complete(lease, completed(lease, state, reason=reason))
    return [lease.task.id for lease in leases]


class Searching(Base):
    """A search finds what matches, in the order in which tasks were added, at a bounded cost."""

    def test_a_search_without_conditions_finds_all(self, storage: Any, clock: Any) -> None:
        """In the order in which they were added, each as lists show it."""
        tasks = [bring_to(storage, clock, state) for state in ORDER]
        page = storage.admin.search(TaskFilter())
        assert ids(page.tasks) == ids(tasks)
        assert list(page.tasks) == storage.admin.tasks()
        assert page.cursor is None

    def test_an_empty_queue_has_no_tasks(self, storage: Any) -> None:
        """The page is empty, and there is no other."""
        assert storage.admin.search(TaskFilter()) == TaskPage(())
        assert storage.admin.search(TaskFilter(states=(FAILED,), user="jane")) == TaskPage(())

    @pytest.mark.parametrize(
        "wanted", [*((state,) for state in STATES), (FAILED, CANCELLED), (RUNNING, QUEUED)]
    )
    def test_by_states(self, storage: Any, clock: Any, wanted: tuple[State, ...]) -> None:
        """The order of several states together is that in which the tasks were added, too."""
        tasks = [(state, bring_to(storage, clock, state)) for state in (*ORDER[:3], *ORDER)]
        expected = [task.id for state, task in tasks if state in wanted]
        assert found(storage, TaskFilter(states=wanted)) == expected
        assert found(storage, TaskFilter(states=wanted), 1) == expected

    def test_the_order_of_a_state_is_another_one(self, storage: Any, clock: Any) -> None:
        """Tasks that end, fall due or come back in another order are found in the first one."""
        now = clock()
        later = add(storage, *(new_task(due=now + due) for due in (300, 100, 200)))
        assert found(storage, TaskFilter(states=(SCHEDULED,))) == ids(later)
        tasks = add(storage, *(new_task() for _ in range(4)))
        leases = storage.reserve("consumer", limit=3, timeout=0, lease=1000.0)
        for lease in reversed(leases):
            storage.complete(lease, completed(lease, FAILED))
        assert found(storage, TaskFilter(states=(FAILED,))) == ids(tasks[:3])
        storage.admin.retry(tasks[1].id)
        storage.admin.retry(tasks[0].id)
        expected = [tasks[0].id, tasks[1].id, tasks[3].id]
        assert found(storage, TaskFilter(states=(QUEUED,))) == expected
        assert found(storage, TaskFilter(states=(QUEUED,)), 1) == expected

    def test_by_user(self, storage: Any, clock: Any) -> None:
        """A user id is that of users in all folders; an identity is one of them."""
        users = (JANE, JOE, None, OTHER_JANE, JANE)
        tasks = [bring_to(storage, clock, FAILED, user=user) for user in users]
        waiting = add(storage, *(new_task(user=user) for user in users))
        for size in (1, 50):
            for states, among in (((), (*tasks, *waiting)), ((FAILED,), tasks)):
                for user in (JANE, OTHER_JANE, JOE):
                    mine = [task.id for task in among if task.user == user]
                    assert found(storage, TaskFilter(states, user=user), size) == mine
                janes = [task.id for task in among if task.user in (JANE, OTHER_JANE)]
                assert found(storage, TaskFilter(states, user="jane"), size) == janes
        assert found(storage, TaskFilter(user="without-tasks")) == []
        assert found(storage, TaskFilter(user="ja")) == []

    def test_by_the_beginning_of_the_url(self, storage: Any) -> None:
        """As it is written: no character stands for others, and case counts."""
        urls = ("/Plone/a/b", "/Plone/a%25", "/plone/a", "/Plone/ab?x=1", "/x/Plone/a", "/Plone")
        tasks = add(storage, *(new_task(url=url) for url in urls))
        for prefix in ("/Plone", "/Plone/a", "/Plone/a/", "/Plone/a%", "/Plone/a_", "/Plone/ab?x"):
            expected = [task.id for task in tasks if task.url.startswith(prefix)]
            assert found(storage, TaskFilter(url=prefix)) == expected
            assert found(storage, TaskFilter(url=prefix), 1) == expected

    def test_by_the_reason(self, storage: Any, clock: Any) -> None:
        """A part of it is enough. Upper and lower case of A to Z are the same, no others."""
        reasons = ("ValueError: 100% of Ä_b", "value missing", "timeout", "")
        tasks = []
        for reason in reasons:
            tasks.append(add_one(storage))
            lease = take(storage)
            storage.complete(lease, completed(lease, FAILED, reason=reason))
        for part in ("value", "VALUE", "100%", "0%o", "Ä_B", "ä_b", "TimeOut", "_", "."):
            expected = [
                task.id
                for task, reason in zip(tasks, reasons, strict=True)
                if part.encode().lower() in reason.encode().lower()
            ]
            assert found(storage, TaskFilter(reason=part)) == expected
            assert found(storage, TaskFilter((FAILED,), reason=part)) == expected

    def test_by_the_time_when_it_was_added(self, storage: Any) -> None:
        """From `since` on, and before `until`; tasks may come in another order than they were
        made."""
        created = (100.0, 300.0, 200.0, 200.5, 0.0)
        tasks = add(storage, *(new_task(created=when) for when in created))
        for since, until in ((200.0, None), (None, 200.5), (100.0, 300.0), (500.0, None)):
            expected = [
                task.id
                for task in tasks
                if (since is None or task.created >= since)
                and (until is None or task.created < until)
            ]
            assert found(storage, TaskFilter(since=since, until=until)) == expected

    def test_all_conditions_together(self, storage: Any, clock: Any) -> None:
        """A task that fulfils all conditions but one is not found."""
        right = {"user": JANE, "url": "/Plone/a", "created": 100.0}
        wrong: tuple[dict[str, Any], ...] = ({"user": JOE}, {"url": "/b"}, {"created": 99.0})
        tasks = [bring_to(storage, clock, FAILED, **{**right, **one}) for one in ({}, *wrong)]
        add_one(storage, **right)
        conditions = TaskFilter((FAILED,), "/Plone", JANE, 100.0, 101.0)
        assert found(storage, conditions) == [tasks[0].id]
        assert found(storage, TaskFilter((FAILED,), "/Plone", JANE, reason="never said")) == []

    def test_pages_make_up_the_whole_whatever_happens_between_them(
        self, storage: Any, clock: Any
    ) -> None:
        """A task that matches all the time is on one page; removed and new ones shift nothing."""
        tasks = [*add(storage, *(new_task(user=JANE) for _ in range(12)))]
        for conditions in (TaskFilter(), TaskFilter(STATES), TaskFilter(user=JANE)):
            seen: list[str] = []
            stay = set(ids(tasks))
            for number, page in enumerate(pages(storage, conditions, 2)):
                seen += ids(page.tasks)
                # The oldest ones run and end, and go before those that are shown next.
                lease = take(storage)
                storage.complete(lease, completed(lease, FAILED))
                if number % 2:
                    storage.admin.retry(lease.task.id)
                else:
                    storage.admin.remove(lease.task.id)
                    stay.discard(lease.task.id)
                    tasks.append(add_one(storage, user=JANE))
            assert len(seen) == len(set(seen))
            assert stay <= set(seen)
            known = {status.id for status in storage.admin.tasks(size=100)}
            tasks = [task for task in tasks if task.id in known]

    def test_tasks_that_come_back_to_the_front_are_shown_once(
        self, storage: Any, clock: Any
    ) -> None:
        """A recovered task keeps its place in a search."""
        tasks = add(storage, *(new_task() for _ in range(4)))
        conditions = TaskFilter((QUEUED, RUNNING))
        first = storage.admin.search(conditions, None, 2)
        lose(storage, clock)
        storage.admin.recover()
        take_all(storage)
        rest = storage.admin.search(conditions, first.cursor, 10)
        assert ids([*first.tasks, *rest.tasks]) == ids(tasks)

    def test_a_scan_is_cut(self, make_storage: Callable[..., Any], clock: Any) -> None:
        """After a thousand tasks that do not match, the page is empty, and there is a cursor."""
        storage = make_storage()
        add(storage, *(new_task(url="/other") for _ in range(SCAN + 200)))
        task = add_one(storage, url="/wanted")
        conditions = TaskFilter(url="/wanted")
        first = storage.admin.search(conditions)
        assert (first.tasks, first.cursor is None) == ((), False)
        second = storage.admin.search(conditions, first.cursor)
        assert (ids(second.tasks), second.cursor) == ([task.id], None)
        assert found(storage, TaskFilter((QUEUED,), "/wanted")) == [task.id]

    def test_few_tasks_of_a_state_are_found_at_once(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """However many tasks in other states, or of other users, were added before them."""
        storage = make_storage()
        add(storage, *(new_task(due=clock() + 100.0, user=JOE) for _ in range(SCAN + 200)))
        task = bring_to(storage, clock, FAILED, user=JANE)
        for conditions in (
            TaskFilter((FAILED,)),
            TaskFilter((FAILED, CANCELLED, RUNNING)),
            TaskFilter(user=JANE),
            TaskFilter(user="jane"),
            TaskFilter((FAILED,), user=JANE),
            TaskFilter((FAILED, SCHEDULED), user="jane"),
        ):
            page = storage.admin.search(conditions)
            assert (ids(page.tasks), page.cursor) == ([task.id], None)

    def test_many_tasks_of_a_state(self, make_storage: Callable[..., Any]) -> None:
        """Each is found once, also if there are more than one call examines."""
        storage = make_storage()
        tasks = add(storage, *(new_task(user=JANE) for _ in range(SCAN + 50)))
        for conditions in (TaskFilter((QUEUED,)), TaskFilter((QUEUED,), user="jane")):
            assert found(storage, conditions, 400) == ids(tasks)

    def test_expired_records_are_not_found(
        self, make_storage: Callable[..., Any], clock: Any
    ) -> None:
        """As in all lists."""
        storage = make_storage(keep_failed=100.0)
        bring_to(storage, clock, FAILED)
        clock.advance(200.0)
        kept = bring_to(storage, clock, FAILED)
        for conditions in (TaskFilter(), TaskFilter((FAILED,))):
            assert found(storage, conditions) == [kept.id]

    def test_a_cursor_belongs_to_its_search(self, storage: Any) -> None:
        """A damaged one, and that of another filter, is refused by a sentence."""
        add(storage, *(new_task() for _ in range(3)))
        cursor = storage.admin.search(TaskFilter(), None, 1).cursor
        other = storage.admin.search(TaskFilter(user="jane"))
        assert other.cursor is None
        wrong = ["", "x", cursor[:-1], cursor + "A", cursor.swapcase(), "ä", "A" * 24, "A" * 25]
        for text in wrong:
            with pytest.raises(InvalidTask, match="no page of this search"):
                storage.admin.search(TaskFilter(), text)
        with pytest.raises(InvalidTask, match="no page of this search"):
            storage.admin.search(TaskFilter(url="/view"), cursor)
        assert len(storage.admin.search(TaskFilter(), cursor).tasks) == 2

    def test_searching_changes_nothing(self, storage: Any, clock: Any) -> None:
        """However often."""
        for state in ORDER:
            bring_to(storage, clock, state, user=JANE)
        with unchanged(storage):
            for conditions in (TaskFilter(), TaskFilter(STATES), TaskFilter(user="jane")):
                assert len(found(storage, conditions, 2)) == len(ORDER)

    # changes

    @pytest.mark.parametrize("action", ACTIONS)
    def test_many_are_changed_as_one_would_be(
        self, storage: Any, clock: Any, action: Action
    ) -> None:
        """Those in a state that does not allow it stay as they are, and unknown ones, too."""
        tasks = [(state, bring_to(storage, clock, state)) for state in (*ORDER[:3], *ORDER)]
        names = [*(task.id for _, task in tasks), "unknown"]
        changed = storage.admin.change(action, names, STATES)
        expected = [task.id for state, task in tasks if state in ACTIONS[action]]
        assert list(changed) == expected
        after = {status.id: status.state for status in storage.admin.tasks()}
        for state, task in tasks:
            if task.id not in changed:
                assert after[task.id] == state
            elif action == "remove":
                assert task.id not in after
                assert changed[task.id] == state
            else:
                kept = action == "cancel" and state == RUNNING
                now = state if kept else {"retry": QUEUED, "cancel": CANCELLED}[action]
                assert after[task.id] == changed[task.id] == now
                assert storage.admin.get(task.id).cancel_requested is kept
        # Running tasks are asked once; a task that was retried waits.
        assert storage.admin.change(action, names, STATES) == {}

    def test_only_tasks_in_the_states_that_are_given(self, storage: Any, clock: Any) -> None:
        """A task that has changed its state since it was found stays as it is."""
        failed = bring_to(storage, clock, FAILED)
        cancelled = bring_to(storage, clock, CANCELLED)
        both = [failed.id, cancelled.id]
        assert storage.admin.change("retry", both, (FAILED,)) == {failed.id: QUEUED}
        assert storage.admin.change("remove", both, ()) == {}
        assert storage.admin.change("remove", [], STATES) == {}
        assert storage.admin.get(cancelled.id).state == CANCELLED

    def test_retried_tasks_run_in_their_order(self, storage: Any, clock: Any) -> None:
        """In the order of the ids, behind all tasks that wait; with all their attempts."""
        tasks = [bring_to(storage, clock, FAILED, max_attempts=3) for _ in range(5)]
        waiting = add_one(storage)
        storage.admin.change("retry", ids(tasks), (FAILED,))
        assert ids(storage.admin.tasks(QUEUED)) == [waiting.id, *ids(tasks)]
        leases = storage.reserve("consumer", limit=9, timeout=0)
        assert [lease.task.id for lease in leases] == [waiting.id, *ids(tasks)]
        assert {(lease.attempt, lease.counted) for lease in leases[1:]} == {(2, 0)}

    def test_one_task_of_a_key_is_retried(self, storage: Any, clock: Any) -> None:
        """The others would be replaced by it."""
        tasks = []
        for _ in range(3):
            tasks.append(add_one(storage, key="key", on_conflict="replace"))
            lease = take(storage)
            storage.complete(lease, completed(lease, FAILED))
        assert storage.admin.change("retry", ids(tasks), (FAILED,)) == {tasks[0].id: QUEUED}
        assert storage.admin.change("retry", ids(tasks), (FAILED,)) == {}
        assert ids(storage.admin.tasks(QUEUED)) == [tasks[0].id]

    def test_cancelled_tasks_do_not_run(self, storage: Any, clock: Any) -> None:
        """They are gone from all lists of waiting tasks; their keys are free."""
        now = clock()
        tasks = add(
            storage,
            new_task(key="a", on_conflict="after_running"),
            new_task(key="b"),
            new_task(due=now + 100.0, key="c"),
            new_task(),
        )
        assert len(storage.admin.change("cancel", ids(tasks[:3]), STATES)) == 3
        again = add(storage, *(new_task(key=key) for key in "abc"))
        assert take_all(storage) == [tasks[3].id, *ids(again)]
        assert storage.admin.throughput()[CANCELLED] == 3

    def test_a_full_portion(self, storage: Any) -> None:
        """A hundred tasks: all in one act."""
        tasks = add(storage, *(new_task(user=JANE) for _ in range(CHANGES)))
        for action, state in (("cancel", CANCELLED), ("retry", QUEUED), ("cancel", CANCELLED)):
            changed = storage.admin.change(action, ids(tasks), STATES)
            assert changed == dict.fromkeys(ids(tasks), state)
        assert len(storage.admin.change("remove", ids(tasks), STATES)) == CHANGES
        assert storage.admin.tasks() == []

    def test_each_task_is_changed_by_one_of_many(self, storage: Any, clock: Any) -> None:
        """Of calls at the same moment, each task is retried by one."""
        tasks = [add_one(storage, key=f"key-{n}", on_conflict="replace") for n in range(40)]
        end_all(storage, FAILED)
        names = ids(tasks)

        def call(order: list[str]) -> Callable[[], dict[str, State]]:
            return lambda: storage.admin.change("retry", order, (FAILED,))

        results = at_once([call(order) for order in (names, names[::-1]) * 4])
        assert sorted(one for changed in results for one in changed) == sorted(names)
        assert storage.admin.counts()[QUEUED] == len(names)

    def test_a_search_beside_changes(self, storage: Any, clock: Any) -> None:
        """Pages and changes in turn come to an end, and each task is retried once."""
        tasks: list[Task] = [bring_to(storage, clock, FAILED) for _ in range(7)]
        retried: list[str] = []
        for page in islice(pages(storage, TaskFilter((FAILED, CANCELLED)), 2), 10):
            changed = storage.admin.change("retry", ids(page.tasks), (FAILED,))
            retried += changed
            # They fail again at once.
            end_all(storage, FAILED)
        assert retried == ids(tasks)
