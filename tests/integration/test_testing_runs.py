"""What add-ons get for their tests keeps its promises: `run_tasks`."""

from AccessControl import getSecurityManager
from collective.taskqueue import task
from collective.taskqueue import taskqueue
from collective.taskqueue.errors import RetryLater
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.interfaces import ITaskSucceeded
from collective.taskqueue.task import Outcome
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
from zope.component import adapter
from zope.component import getGlobalSiteManager
from zope.component.hooks import getSite
from zope.globalrequest import getRequest
from zope.security.management import endInteraction
from zope.security.management import newInteraction
from zope.security.management import queryInteraction
import pytest
import threading
import time
import transaction


def test_runs_are_in_order_with_outcome_and_status(view):
    """U04."""
    fine = view("fine", lambda context, request: "fine")
    ids = [taskqueue.add(url) for url in (fine, "/plone/missing", fine)]
    transaction.commit()
    runs = run_tasks()
    assert [run.task.id for run in runs] == ids
    assert [run.outcome.status for run in runs] == [200, 404, 200]
    assert [run.status.state for run in runs] == ["succeeded", "failed", "succeeded"]
    assert runs[0].outcome.body == b"fine"
    assert run_tasks() == []


def test_leaves_no_thread_behind(view):
    """Else zope.testrunner says so after each test that runs a task."""
    before = set(threading.enumerate())
    taskqueue.add(view("work", lambda context, request: ""))
    transaction.commit()
    run_tasks()
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert left <= {"taskqueue-events"}


def test_runs_in_this_thread(view):
    threads = []
    taskqueue.add(view("where", lambda context, request: threads.append(threading.get_ident())))
    transaction.commit()
    run_tasks()
    assert threads == [threading.get_ident()]


def test_each_task_has_a_transaction_of_its_own(view, portal):
    def spoil(context, request):
        context.spoilt = True
        raise ValueError("no")

    taskqueue.add(view("write", lambda context, request: setattr(context, "written", True)))
    taskqueue.add(view("spoil", spoil))
    transaction.commit()
    assert [run.outcome.ok for run in run_tasks()] == [True, False]
    assert portal.written is True
    assert not hasattr(portal.aq_base, "spoilt")


def test_tasks_queued_by_tasks_run_too_in_any_queue(view):
    """O16, U37."""
    last = view("last", lambda context, request: "")
    middle = view("middle", lambda context, request: taskqueue.add(last, queue="default"))
    first = view("first", lambda context, request: taskqueue.add(middle, queue="other"))
    with task_queue("other"):
        taskqueue.add(first, queue="default")
        transaction.commit()
        assert [run.task.url for run in run_tasks()] == [first, middle, last]


def test_one_queue_only(view):
    url = view("fine", lambda context, request: "")
    with task_queue("other") as other:
        taskqueue.add(url, queue="default")
        taskqueue.add(url, queue="other")
        transaction.commit()
        assert [run.task.queue for run in run_tasks("default")] == ["default"]
        assert len(other) == 1


def test_unknown_queue(functional):
    with pytest.raises(UnknownQueue, match="'typo'"):
        run_tasks("typo")


def test_what_is_due_later_waits(view, queue):
    def later(context, request):
        raise RetryLater(3600)

    taskqueue.add(view("later", later), max_attempts=2)
    taskqueue.add(view("fine", lambda context, request: ""), delay=3600)
    transaction.commit()
    (run,) = run_tasks()
    assert run.status.state == "scheduled"
    assert run_tasks() == []
    assert queue.counts()["scheduled"] == 2


def test_a_record_that_is_not_kept(view, monkeypatch):
    monkeypatch.setattr(task, "LINGER", 0.0)
    taskqueue.add(view("fine", lambda context, request: ""), keep=0)
    taskqueue.add("/plone/@@fine")
    transaction.commit()
    first, second = run_tasks()
    assert first.outcome.ok
    assert first.status is None
    assert second.status.state == "succeeded"


def test_a_loop_is_broken(view, queue):
    url = "/plone/@@again"
    view("again", lambda context, request: taskqueue.add(url))
    taskqueue.add(url)
    transaction.commit()
    with pytest.raises(TaskQueueError, match="5 tasks were run"):
        run_tasks(limit=5)
    # The sixth task is not reserved yet.
    assert (len(queue), queue.counts()["running"]) == (1, 0)


def test_as_many_as_the_limit(view):
    for _ in range(3):
        taskqueue.add(view("fine", lambda context, request: ""))
    transaction.commit()
    assert len(run_tasks(limit=3)) == 3


def test_a_web_hook_is_not_sent(view, queue):
    """Nor is it published as if it was a view; what comes before it has run."""
    taskqueue.add(view("fine", lambda context, request: ""))
    hook_id = taskqueue.add("https://example.org/plone/@@fine")
    transaction.commit()
    with pytest.raises(TaskQueueError, match=r"POST https://example\.org/plone/@@fine is"):
        run_tasks()
    assert [status.id for status in queue.tasks("queued")] == [hook_id]
    assert queue.counts()["succeeded"] == 1
    seen = []
    (run,) = run_tasks(hook=lambda task: seen.append(task.id) or Outcome(200))
    assert seen == [run.task.id] == [hook_id]
    assert run.status.state == "succeeded"


def test_a_web_hook_that_falls_due(queue, monkeypatch):
    taskqueue.add("https://example.org/hook", delay=3600)
    transaction.commit()
    assert run_tasks() == []
    now = time.time() + 3601
    monkeypatch.setattr(queue.storage._memory, "clock", lambda: now)
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(TaskQueueError, match="is a web hook"):
        run_tasks()
    assert queue.counts()["scheduled"] == 1


def test_a_web_hook_whose_fake_fails(functional):
    def broken(task):
        raise OSError("no route")

    taskqueue.add("https://example.org/hook", max_attempts=1)
    transaction.commit()
    (run,) = run_tasks(hook=broken)
    assert (run.status.state, run.status.reason) == ("failed", "OSError: no route")


def test_a_queue_that_is_paused(view, queue):
    taskqueue.add(view("fine", lambda context, request: ""))
    transaction.commit()
    queue.pause()
    assert run_tasks(limit=0) == []
    queue.resume()
    assert len(run_tasks()) == 1


def test_uncommitted_tasks_are_an_error(view, queue):
    taskqueue.add(view("fine", lambda context, request: ""))
    with pytest.raises(TaskQueueError, match="1 added tasks are not committed"):
        run_tasks()
    transaction.commit()
    assert len(run_tasks()) == 1


def test_uncommitted_changes_are_an_error_and_stay(view, portal):
    taskqueue.add(view("fine", lambda context, request: ""))
    transaction.commit()
    portal.title = "Changed"
    with pytest.raises(TaskQueueError, match="changes that are not committed"):
        run_tasks()
    assert portal.title == "Changed"
    transaction.commit()
    assert len(run_tasks()) == 1
    assert portal.title == "Changed"


def test_commit_hooks_are_uncommitted_changes(functional):
    transaction.get().addBeforeCommitHook(lambda: None)
    with pytest.raises(TaskQueueError, match="changes that are not committed"):
        run_tasks()


def test_an_integration_layer_is_an_error(integration):
    with pytest.raises(TaskQueueError, match="use a functional one"):
        run_tasks()


def test_the_caller_is_put_back(view, portal):
    def upset(context, request):
        endInteraction()
        raise SystemExit(1)

    taskqueue.add(view("upset", upset))
    transaction.commit()
    newInteraction()
    try:
        before = (getRequest(), getSite(), getSecurityManager(), queryInteraction())
        (run,) = run_tasks()
        assert not run.outcome.ok
        after = (getRequest(), getSite(), getSecurityManager(), queryInteraction())
    finally:
        endInteraction()
    assert None not in before
    for was, now in zip(before, after, strict=True):
        assert now is was


def test_the_caller_is_put_back_after_an_error(view):
    url = "/plone/@@again"
    view("again", lambda context, request: taskqueue.add(url))
    taskqueue.add(url)
    transaction.commit()
    request = getRequest()
    with pytest.raises(TaskQueueError):
        run_tasks(limit=1)
    assert request is not None
    assert getRequest() is request


def test_subscribers_of_task_events_have_been_called(view):
    seen = []

    @adapter(ITaskSucceeded)
    def subscriber(event):
        # Slow, so that a caller that does not wait for it is too early.
        threading.Event().wait(0.3)
        seen.append(event.status.task.id)

    registry = getGlobalSiteManager()
    registry.registerHandler(subscriber)
    try:
        task_id = taskqueue.add(view("fine", lambda context, request: ""))
        transaction.commit()
        run_tasks()
        assert seen == [task_id]
    finally:
        registry.unregisterHandler(subscriber)


def test_tasks_queued_by_subscribers_run_too(view):
    after = view("after", lambda context, request: "after")

    @adapter(ITaskSucceeded)
    def subscriber(event):
        threading.Event().wait(0.3)
        if event.status.task.url != after:
            taskqueue.add(after)

    registry = getGlobalSiteManager()
    registry.registerHandler(subscriber)
    try:
        taskqueue.add(view("fine", lambda context, request: "fine"))
        transaction.commit()
        assert [run.outcome.body for run in run_tasks()] == [b"fine", b"after"]
    finally:
        registry.unregisterHandler(subscriber)
