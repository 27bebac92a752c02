"""Two queues, a view that works and one that fails, and how a task is added or run."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import Discard
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import task_queue
import pytest
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
