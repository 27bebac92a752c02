"""The public functions for one task: what they answer, and how they refuse."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from integration.api.conftest import add
from integration.api.conftest import finished
from integration.api.conftest import NOWHERE
from plone.app.testing import TEST_USER_ID
from uuid import UUID
from zope.component import getGlobalSiteManager
import pytest
import time
import transaction


@pytest.mark.parametrize("task_id", [None, 5, b"x", ["x"]])
def test_what_is_no_id(functional, task_id):
    """No storage is asked for it: each would have a word of its own."""
    with pytest.raises(UnknownTask, match="is not the id of a task"):
        taskqueue.status(task_id)


@pytest.mark.parametrize("page", [{"state": "success"}, {"start": -1}, {"size": -1}])
def test_what_is_no_page(functional, page):
    """A state that does not exist is not all of them, and not none of them either."""
    with pytest.raises(ValueError, match=r"there is no state 'success'|must not be negative"):
        taskqueue.tasks(**page)


# add


def test_add(url, queue):
    """The id is known before the commit; nothing waits before it."""
    task_id = taskqueue.add(url)
    assert str(UUID(task_id)) == task_id
    assert len(queue) == 0
    with pytest.raises(UnknownTask):
        taskqueue.status(task_id)
    transaction.commit()
    assert len(queue) == 1
    assert taskqueue.status(task_id).state == QUEUED


def test_add_to_a_queue(url, queue, other):
    """C21: by default it is the alphabetically first one."""
    with task_queue("a") as first:
        add(url, queue="other")
        add(url)
        assert [len(first), len(queue), len(other)] == [1, 0, 1]


def test_add_to_an_unknown_queue(url, queue, other):
    with pytest.raises(UnknownQueue, match=r"'missing' \(known: default, other\)"):
        taskqueue.add(url, queue="missing")
    transaction.commit()
    assert len(queue) == len(other) == 0


def test_add_without_any_queue(functional):
    registry = getGlobalSiteManager()
    queue = registry.getUtility(ITaskQueue, name="default")
    registry.unregisterUtility(queue, ITaskQueue, name="default")
    try:
        with pytest.raises(UnknownQueue, match="is there a <taskqueue> section"):
            taskqueue.add("/plone")
        with pytest.raises(UnknownTask):
            taskqueue.status(NOWHERE)
    finally:
        registry.registerUtility(queue, ITaskQueue, name="default")


@pytest.mark.parametrize(
    "options",
    [
        {"url": ""},
        {"url": "ftp://example.org"},
        {"method": "TRACE"},
        {"headers": {"X-Bad": "a\nb"}},
        {"payload": 1},
        {"payload": b"x" * 1_100_000},
        {"delay": -1},
        {"delay": 1, "eta": datetime.now(UTC)},
        {"eta": datetime.now()},
        {"timeout": 0},
        {"max_attempts": 0},
        {"backoff": "random"},
        {"min_backoff": 10, "max_backoff": 1},
        {"max_age": float("nan")},
        {"key": ""},
        {"on_conflict": "skip"},
        {"key": "k", "on_conflict": "explode"},
        {"description": 3},
        {"params": {"x": None}},
        {"view": "view"},
        {"keep": "long"},
        {"priority": 1},
    ],
    ids=" ".join,
)
def test_add_refuses(url, queue, options):
    """Anything out of range raises at once, and nothing joins the transaction."""
    with pytest.raises(ValueError, match=r"\w"):
        taskqueue.add(**{"url": url, **options})
    assert transaction.get()._resources == []
    transaction.commit()
    assert len(queue) == 0


@pytest.mark.parametrize("option", ["delay", "countdown", "eta"])
def test_add_for_later(url, option):
    """O03."""
    before = time.time()
    eta = datetime.now(UTC) + timedelta(seconds=60)
    status = taskqueue.status(add(url, **{option: eta if option == "eta" else 60}))
    assert status.state == SCHEDULED
    # A datetime is exact to the microsecond only.
    assert before + 59.999 <= status.due <= time.time() + 60.001
    assert run_tasks() == []


def test_options_of_a_task_are_those_of_its_queue_unless_it_has_its_own(url, functional):
    with task_queue("strict", max_attempts=4, min_backoff=5.0, timeout=7.0):
        plain = taskqueue.status(add(url, queue="strict")).task
        own = taskqueue.status(add(url, queue="strict", max_attempts=2, timeout=1)).task
    assert (plain.max_attempts, plain.min_backoff, plain.timeout) == (4, 5.0, 7.0)
    assert (own.max_attempts, own.min_backoff, own.timeout) == (2, 5.0, 1.0)


# status and result


def test_status(url):
    before = time.time()
    task_id = finished(url, description="Work")
    status = taskqueue.status(task_id)
    assert (status.id, status.state, status.status) == (task_id, SUCCEEDED, 200)
    assert (status.task.description, status.task.user.id) == ("Work", TEST_USER_ID)
    assert [state for state, _ in status.changes] == [QUEUED, RUNNING, SUCCEEDED]
    assert before <= status.time_of(QUEUED) <= status.time_of(SUCCEEDED) <= time.time()
    assert status.time_of(FAILED) is None
    assert status.elapsed == status.attempts[0].seconds > 0


def test_result(url):
    task_id = finished(url)
    result = taskqueue.result(task_id)
    assert (result.status, result.body, result.truncated) == (200, b"done", False)
    assert dict(result.headers)["Content-Type"].startswith("text/plain")
    assert (result.attempts, result.elapsed) == (1, taskqueue.status(task_id).elapsed)
    assert result.started <= result.finished


def test_result_of_a_task_that_has_none(url):
    """Not finished, or finished without ever having run."""
    task_id = add(url)
    assert taskqueue.result(task_id) is None
    taskqueue.cancel(task_id)
    assert taskqueue.result(task_id) is None


def test_status_of_a_skipped_task(url):
    """Its id is another name of the task that waits."""
    first, second = add(url, key="k"), add(url, key="k")
    assert taskqueue.status(second).id == first


@pytest.mark.parametrize("name", ["status", "result", "cancel", "retry", "remove"])
def test_unknown_task(name, other):
    """O14: in all queues by default, or in the one that is named."""
    function = getattr(taskqueue, name)
    with pytest.raises(UnknownTask, match=f"no task {NOWHERE} in any queue"):
        function(NOWHERE)
    with pytest.raises(UnknownTask, match=f"no task {NOWHERE} in queue other"):
        function(NOWHERE, queue="other")
    with pytest.raises(UnknownQueue, match="missing"):
        function(NOWHERE, queue="missing")


def test_a_task_is_found_in_its_queue_only(url, other):
    task_id = add(url, queue="other")
    assert taskqueue.status(task_id).id == taskqueue.status(task_id, "other").id == task_id
    with pytest.raises(UnknownTask, match="in queue default"):
        taskqueue.status(task_id, "default")


def test_a_task_is_found_although_another_queue_is_away(url, queue, other, monkeypatch):
    """But a task that is nowhere else may be in that one."""
    task_id = add(url, queue="other")

    def get(task_id, brief=False):
        raise StorageUnavailable("gone")

    monkeypatch.setattr(queue.storage.admin, "get", get)
    assert taskqueue.status(task_id).id == task_id
    with pytest.raises(StorageUnavailable, match="gone"):
        taskqueue.status(NOWHERE)


# cancel, retry, remove


def test_cancel(url, queue):
    task_id = add(url)
    assert taskqueue.cancel(task_id) == CANCELLED
    assert run_tasks() == []
    status = taskqueue.status(task_id)
    assert (status.state, status.reason) == (CANCELLED, "cancelled")


def test_cancel_a_running_task(view):
    """It is asked to stop, and goes on until it looks."""
    answers = []

    def work(context, request):
        task_id = request.getHeader("X-Task-Id")
        answers.append(taskqueue.cancel(task_id))
        answers.append(taskqueue.status(task_id).cancel_requested)
        answers.append(taskqueue.cancelled())
        taskqueue.checkpoint()

    task_id = add(view("work", work))
    (run,) = run_tasks()
    assert answers == [RUNNING, True, True]
    assert run.outcome.reason == "Cancelled: cancelled while running"
    assert taskqueue.status(task_id).state == CANCELLED


def test_retry(bad):
    task_id = finished(bad)
    taskqueue.retry(task_id)
    assert taskqueue.status(task_id).state == QUEUED
    run_tasks()
    status = taskqueue.status(task_id)
    assert status.state == FAILED
    assert [attempt.number for attempt in status.attempts] == [1, 2]


def test_retry_a_cancelled_task(url):
    task_id = add(url)
    taskqueue.cancel(task_id)
    taskqueue.retry(task_id)
    run_tasks()
    assert taskqueue.status(task_id).state == SUCCEEDED


def test_remove(url, bad):
    """O14."""
    for task_id in (finished(url), finished(bad)):
        taskqueue.remove(task_id)
        with pytest.raises(UnknownTask):
            taskqueue.status(task_id)


def test_transitions_that_are_not_allowed(url, view):
    """Nothing is changed by what is refused."""
    refused = []

    def work(context, request):
        task_id = request.getHeader("X-Task-Id")
        for function in (taskqueue.retry, taskqueue.remove):
            with pytest.raises(ForbiddenTransition):
                function(task_id)
        refused.append(task_id)

    running = finished(view("running", work))
    assert refused == [running]
    waiting = add(url)
    for function, task_id in (
        (taskqueue.retry, waiting),
        (taskqueue.remove, waiting),
        (taskqueue.cancel, running),
        (taskqueue.retry, running),
    ):
        with pytest.raises(ForbiddenTransition):
            function(task_id)
    assert taskqueue.status(running).state == SUCCEEDED
    assert taskqueue.status(waiting).state == QUEUED
