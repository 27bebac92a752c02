"""The public functions of `taskqueue`: what they answer, and how they refuse."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import Discard
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
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from plone.app.testing import logout
from plone.app.testing import TEST_USER_ID
from uuid import UUID
from zope.component import getGlobalSiteManager
import pytest
import threading
import time
import transaction


NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def other(functional):
    """A second queue, alphabetically after `default`."""
    with task_queue("other") as queue:
        yield queue


@pytest.fixture
def url(view):
    return view("work", lambda context, request: "done")


@pytest.fixture
def bad(view):
    def work(context, request):
        raise Discard("pointless")

    return view("bad", work)


def add(url, **options):
    """Queue a task, and return its id."""
    task_id = taskqueue.add(url, **options)
    transaction.commit()
    return task_id


def finished(url, **options):
    """Queue a task, run it, and return its id."""
    task_id = add(url, **options)
    run_tasks()
    assert taskqueue.status(task_id).finished
    return task_id


# what cannot be asked for


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
        {"description": "two\nlines"},
        {"keep": "long"},
        {"priority": 1},
    ],
    ids=str,
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

    def get(task_id):
        raise StorageUnavailable("gone")

    monkeypatch.setattr(queue.storage, "get", get)
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


# queues


def test_counts(url, bad, queue):
    """O14."""
    assert taskqueue.counts() == dict.fromkeys(STATES, 0)
    finished(url)
    finished(bad)
    add(url, delay=60)
    taskqueue.cancel(add(url))
    add(url)
    assert taskqueue.counts() == {
        QUEUED: 1,
        SCHEDULED: 1,
        RUNNING: 0,
        SUCCEEDED: 1,
        FAILED: 1,
        CANCELLED: 1,
    }
    assert len(queue) == 1


def test_tasks(url, bad, other):
    failed = finished(bad)
    ids = [add(url) for _ in range(3)]
    logout()
    anonymous = add(url)
    elsewhere = add(url, queue="other")
    assert [status.id for status in taskqueue.tasks()] == [failed, *ids, anonymous]
    assert [status.id for status in taskqueue.tasks(state=FAILED)] == [failed]
    assert [status.id for status in taskqueue.tasks(user=TEST_USER_ID)] == [failed, *ids]
    assert [s.id for s in taskqueue.tasks(user=TEST_USER_ID, state=QUEUED)] == ids
    assert [s.id for s in taskqueue.tasks(state=QUEUED, start=1, size=2)] == ids[1:]
    assert [status.id for status in taskqueue.tasks(queue="other")] == [elsewhere]
    assert taskqueue.tasks(start=99) == []


def test_pause_and_resume(url, other):
    task_id, elsewhere = add(url), add(url, queue="other")
    taskqueue.pause()
    assert [run.task.id for run in run_tasks()] == [elsewhere]
    assert taskqueue.counts()[QUEUED] == 1
    taskqueue.resume()
    assert [run.task.id for run in run_tasks()] == [task_id]


def test_purge(url, bad):
    """One final state, by default succeeded; others are no state to purge."""
    waiting = add(url, delay=60)
    failed = finished(bad)
    for _ in range(2):
        finished(url)
    assert taskqueue.purge() == 2
    assert taskqueue.purge() == 0
    assert {status.id for status in taskqueue.tasks()} == {waiting, failed}
    assert taskqueue.purge(state=FAILED) == 1
    for state in (QUEUED, SCHEDULED, RUNNING, "unheard-of"):
        with pytest.raises(ForbiddenTransition):
            taskqueue.purge(state=state)
    assert [status.id for status in taskqueue.tasks()] == [waiting]


def test_reset(url, other):
    """D25: what waits in that queue is gone at once, and nothing else."""
    done = finished(url)
    for options in ({}, {"delay": 60}, {"queue": "other"}):
        add(url, **options)
    uncommitted = taskqueue.add(url)
    assert taskqueue.reset() == 2
    transaction.commit()
    assert [status.id for status in taskqueue.tasks()] == [done, uncommitted]
    assert taskqueue.counts("other")[QUEUED] == 1
    assert taskqueue.reset("other") == 1


@pytest.mark.parametrize("name", ["tasks", "counts", "pause", "resume", "purge", "reset"])
def test_unknown_queue(name, url, queue):
    """C22: the known ones are listed; nothing is changed."""
    task_id = add(url)
    with pytest.raises(UnknownQueue, match=r"'missing' \(known: default\)"):
        getattr(taskqueue, name)(queue="missing")
    assert [run.task.id for run in run_tasks()] == [task_id]


# inside of a task, and outside


def test_progress(view):
    """It is there before the task commits, also for another thread."""
    seen = []

    def work(context, request):
        task_id = request.getHeader("X-Task-Id")
        taskqueue.progress(1, 4, "one")
        thread = threading.Thread(target=lambda: seen.append(taskqueue.status(task_id)))
        thread.start()
        thread.join()

    task_id = finished(view("work", work))
    (status,) = seen
    assert status.state == RUNNING
    assert (status.progress.done, status.progress.total, status.progress.message) == (1, 4, "one")
    assert taskqueue.status(task_id).progress == status.progress


def test_progress_of_an_aborted_task_is_kept(view):
    def work(context, request):
        taskqueue.progress(3)
        raise ValueError("half-way")

    progress = taskqueue.status(finished(view("work", work))).progress
    assert (progress.done, progress.total, progress.message) == (3, None, "")


def test_progress_begins_again_with_the_next_attempt(view):
    seen = []

    def work(context, request):
        seen.append(taskqueue.status(request.getHeader("X-Task-Id")).progress)
        taskqueue.progress(1, 2)
        raise ValueError("again")

    add(view("work", work), max_attempts=2, min_backoff=0)
    while run_tasks():
        pass
    assert seen == [None, None]


def test_progress_that_nobody_can_store(view, queue, monkeypatch):
    """A task does not fail for want of an audience."""

    def report(lease, progress=None):
        raise StorageUnavailable("gone")

    def work(context, request):
        taskqueue.progress(1, 2)
        return "cancelled" if taskqueue.cancelled() else "done"

    task_id = add(view("work", work))
    monkeypatch.setattr(queue.storage, "report", report)
    run_tasks()
    assert taskqueue.result(task_id).body == b"done"


def test_a_task_that_nobody_cancels(view):
    def work(context, request):
        taskqueue.checkpoint()
        return str(taskqueue.cancelled())

    assert taskqueue.result(finished(view("work", work))).body == b"False"


def test_outside_of_a_task(functional, http, view):
    """The same view can be called by a browser: nothing happens, nobody cancels."""

    def work(context, request):
        taskqueue.progress(1, 2, "half")
        taskqueue.checkpoint()
        return str(taskqueue.cancelled())

    assert http(view("work", work))[2] == b"False"
    taskqueue.progress(1)
    taskqueue.checkpoint()
    assert not taskqueue.cancelled()
