"""The public functions inside of a task: progress and checkpoints."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import RUNNING
from collective.taskqueue.testing import run_tasks
from integration.api.conftest import add
from integration.api.conftest import finished
import threading


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


def test_progress_that_cannot_be_stored(view, queue, monkeypatch):
    """A task does not fail because the storage cannot store its progress."""

    def report(lease, progress=None):
        raise StorageUnavailable("gone")

    def work(context, request):
        taskqueue.progress(1, 2)
        return "cancelled" if taskqueue.cancelled() else "done"

    task_id = add(view("work", work))
    monkeypatch.setattr(queue.storage, "report", report)
    run_tasks()
    assert taskqueue.result(task_id).body == b"done"


def test_a_task_that_is_not_cancelled(view):
    def work(context, request):
        taskqueue.checkpoint()
        return str(taskqueue.cancelled())

    assert taskqueue.result(finished(view("work", work))).body == b"False"


def test_outside_of_a_task(functional, http, view):
    """A browser may call the same view: its progress is dropped, and it is never cancelled."""

    def work(context, request):
        taskqueue.progress(1, 2, "half")
        taskqueue.checkpoint()
        return str(taskqueue.cancelled())

    assert http(view("work", work))[2] == b"False"
    taskqueue.progress(1)
    taskqueue.checkpoint()
    assert not taskqueue.cancelled()
