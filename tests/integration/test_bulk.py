"""Many tasks are retried, cancelled or removed by a filter."""

from collective.taskqueue import queue as module
from collective.taskqueue import taskqueue
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import BulkResult
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing import task_queue
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import new_task
import logging
import pytest


JANE = Identity("/Plone/acl_users", "jane")


@pytest.fixture
def queue(functional):
    settings = QueueSettings(max_finished=5000)
    queue = TaskQueue(settings, LocalStorage(settings))
    yield queue
    queue._heartbeat.stop()


def fail(queue):
    """Run all tasks that wait; they fail."""
    for lease in queue.storage.reserve("consumer", limit=5000, timeout=0, lease=1000.0):
        queue.storage.complete(lease, completed(lease, FAILED))


def failed(queue, number, **fields):
    """Add so many tasks that have failed."""
    tasks = add(queue.storage, *(new_task(**fields) for _ in range(number)))
    fail(queue)
    return ids(tasks)


@pytest.mark.parametrize(
    ("action", "after"), [("retry", QUEUED), ("remove", None), ("cancel", CANCELLED)]
)
def test_all_that_match(queue, caplog, action, after):
    """Each has its log line; others stay as they are."""
    caplog.set_level(logging.INFO)
    tasks = failed(queue, 250, user=JANE)
    others = failed(queue, 3)
    if action == "cancel":
        queue.bulk("retry", TaskFilter())
    caplog.clear()
    result = queue.bulk(action, TaskFilter(user="jane"))
    assert result == BulkResult(250, 0)
    before = QUEUED if action == "cancel" else FAILED
    states = {status.id: status.state for status in queue.tasks(size=1000)}
    assert [states.get(task_id) for task_id in tasks] == [after] * 250
    assert {states[task_id] for task_id in others} == {before}
    line = {
        "retry": "queued again",
        "remove": "record removed",
        "cancel": "cancellation asked for, now cancelled",
    }[action]
    assert caplog.messages == [f"task {task_id}: {line}" for task_id in tasks]


def test_at_most_so_many(queue):
    """The oldest come first; the rest is counted, and the cursor leads to it."""
    tasks = failed(queue, 30)
    first = queue.bulk("retry", TaskFilter(), 12)
    assert (first.done, first.left) == (12, 18)
    assert ids(queue.tasks(QUEUED)) == tasks[:12]
    assert queue.bulk("retry", TaskFilter(), 18, first.cursor) == BulkResult(18, 0)
    assert ids(queue.tasks(QUEUED)) == tasks


def test_without_a_cursor_it_comes_to_an_end(queue):
    """Each call finds the oldest that match; tasks that were retried wait, and match no more."""
    tasks = failed(queue, 30)
    results = [queue.bulk("retry", TaskFilter(), 8) for _ in range(4)]
    assert [(result.done, result.left) for result in results] == [(8, 22), (8, 14), (8, 6), (6, 0)]
    assert results[-1].cursor is None
    assert ids(queue.tasks(QUEUED)) == tasks


def test_a_task_that_fails_again_is_retried_once(queue):
    """With the cursor, a loop ends also if all tasks fail again at once."""
    failed(queue, 30)
    cursor, done = None, 0
    for _ in range(10):
        result = queue.bulk("retry", TaskFilter((FAILED,)), 8, cursor)
        fail(queue)
        done, cursor = done + result.done, result.cursor
        if cursor is None:
            break
    assert (done, cursor) == (30, None)


def test_running_tasks_are_asked_once(queue):
    """Otherwise a loop would go on until they have stopped."""
    add(queue.storage, *(new_task() for _ in range(3)))
    queue.storage.reserve("consumer", limit=3, timeout=0)
    assert queue.bulk("cancel", TaskFilter(), 2).left == 1
    assert queue.bulk("cancel", TaskFilter(), 2) == BulkResult(1, 0)
    assert queue.bulk("cancel", TaskFilter(), 2) == BulkResult(0, 0)
    assert all(status.cancel_requested for status in queue.tasks(RUNNING))


def test_states_that_do_not_allow_it_do_not_match(queue):
    """A filter of such states finds nothing to do."""
    failed(queue, 3)
    assert queue.bulk("cancel", TaskFilter((FAILED,))) == BulkResult(0, 0)
    assert queue.bulk("retry", TaskFilter((QUEUED, RUNNING))) == BulkResult(0, 0)
    assert queue.bulk("remove", TaskFilter((QUEUED, FAILED))) == BulkResult(3, 0)


def test_what_was_changed_meanwhile_is_skipped(queue, monkeypatch, caplog):
    """It is neither counted nor logged, nor is it an error."""
    caplog.set_level(logging.INFO)
    tasks = failed(queue, 3)
    change = queue.storage.admin.change

    def others_first(action, task_ids, states):
        queue.storage.admin.remove(tasks[0])
        queue.storage.admin.retry(tasks[1])
        return change(action, task_ids, states)

    monkeypatch.setattr(queue.storage.admin, "change", others_first)
    caplog.clear()
    assert queue.bulk("retry", TaskFilter()) == BulkResult(1, 0)
    assert caplog.messages == [f"task {tasks[2]}: queued again"]


def test_only_what_is_allowed(queue):
    """Tasks for which `allowed` says no are neither changed nor counted."""
    tasks = failed(queue, 20)
    result = queue.bulk("remove", TaskFilter(), 4, None, lambda status: status.id in tasks[::2])
    assert (result.done, result.left) == (4, 6)
    result = queue.bulk("remove", TaskFilter(), 100, None, lambda status: status.id in tasks[::2])
    assert result == BulkResult(6, 0)
    assert ids(queue.tasks(size=100)) == tasks[1::2]


def test_a_call_searches_for_a_bounded_time(queue, monkeypatch):
    """Then at least one may be left, and the cursor leads on."""
    monkeypatch.setattr(module, "PAGES", 2)
    add(queue.storage, *(new_task(url="/other") for _ in range(3500)))
    failed(queue, 0)
    fail(queue)
    wanted = add(queue.storage, *(new_task(url="/wanted") for _ in range(2)))
    fail(queue)
    first = queue.bulk("retry", TaskFilter(url="/wanted"))
    assert (first.done, first.left) == (0, 1)
    assert queue.bulk("retry", TaskFilter(url="/wanted"), 10, first.cursor) == BulkResult(2, 0)
    assert ids(queue.tasks(QUEUED)) == ids(wanted)


def test_few_round_trips(queue, monkeypatch):
    """A thousand tasks take one search and one change for each hundred."""
    failed(queue, 1100)
    calls = []
    for name in ("search", "change", "get", "retry"):
        method = getattr(queue.storage.admin, name)

        def counted(*arguments, name=name, method=method):
            calls.append(name)
            return method(*arguments)

        monkeypatch.setattr(queue.storage.admin, name, counted)
    result = queue.bulk("retry", TaskFilter())
    assert (result.done, result.left) == (1000, 100)
    assert calls == ["search", "change"] * 10 + ["search"]


def test_a_failure_half_way(queue, monkeypatch):
    """Each task is either changed or not; the event of none that is not is expected."""
    failed(queue, 250)
    change = queue.storage.admin.change
    calls = []

    def away(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise StorageUnavailable("away")
        return change(*arguments)

    monkeypatch.setattr(queue.storage.admin, "change", away)
    with pytest.raises(StorageUnavailable):
        queue.bulk("retry", TaskFilter())
    assert queue.counts()[QUEUED] == 100
    assert queue._arrivals._expected == {}
    assert queue.bulk("retry", TaskFilter()) == BulkResult(150, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("restart", TaskFilter()), "action is one of cancel, remove, retry"),
        (("retry", TaskFilter(), 0), "limit is a number from 1 to 1000, not 0"),
        (("retry", TaskFilter(), 1001), "limit is a number from 1 to 1000, not 1001"),
        (("retry", TaskFilter(), True), "limit is a number from 1 to 1000, not True"),
        (("retry", TaskFilter(), 10, "x"), "no page of this search had this cursor"),
    ],
)
def test_mistakes(queue, arguments, sentence):
    """One sentence each, and nothing is changed."""
    failed(queue, 2)
    with pytest.raises(InvalidTask, match=sentence):
        queue.bulk(*arguments)
    assert queue.counts()[FAILED] == 2


@pytest.mark.parametrize("size", [0, 1001, 1.0])
def test_the_size_of_a_page(queue, size):
    """From 1 to 1000."""
    with pytest.raises(InvalidTask, match=f"size is a number from 1 to 1000, not {size}"):
        queue.search(TaskFilter(), None, size)


def test_public_functions(functional):
    """They look for their queue as others do."""
    with task_queue("other") as other:
        tasks = failed(other, 5, url="/x")
        page = taskqueue.search(TaskFilter(STATES, "/x"), "other", size=2)
        assert ids(page.tasks) == tasks[:2]
        page = taskqueue.search(TaskFilter(STATES, "/x"), "other", page.cursor)
        assert (ids(page.tasks), page.cursor) == (tasks[2:], None)
        result = taskqueue.bulk("retry", TaskFilter(url="/x"), "other", 3)
        assert (result.done, result.left) == (3, 2)
        assert (
            taskqueue.bulk("retry", TaskFilter(url="/x"), "other", cursor=result.cursor).done == 2
        )
        other.reset()
    with pytest.raises(UnknownQueue):
        taskqueue.bulk("retry", TaskFilter(), "nowhere")
    with pytest.raises(UnknownQueue):
        taskqueue.search(TaskFilter(), "nowhere")
