"""Events of many tasks that are changed by a filter."""

from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.events import TaskCancelled
from collective.taskqueue.consumer.events import TaskFailed
from collective.taskqueue.consumer.events import TaskQueued
from collective.taskqueue.consumer.events import TaskStarted
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing import run_tasks
from integration.events.conftest import add
from integration.events.conftest import raising


def test_each_task_has_its_events(view, told):
    """As after a single retry or cancel; tasks that are skipped have none."""
    bad = view("bad", raising(ValueError("bad")))
    tasks = [add(bad) for _ in range(3)]
    run_tasks()
    begun = [TaskQueued, TaskStarted, TaskFailed]
    assert [told.of(task_id) for task_id in tasks] == [begun] * 3
    taskqueue.remove(tasks[0])
    assert taskqueue.bulk("retry", TaskFilter((FAILED,)), "default").done == 2
    assert taskqueue.bulk("cancel", TaskFilter(), "default").done == 2
    again = [*begun, TaskQueued, TaskCancelled]
    assert [told.of(task_id) for task_id in tasks] == [begun, again, again]
