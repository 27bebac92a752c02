"""Helpers for tests of add-ons that queue tasks. They need the extra `test`.

* `TASKQUEUE_FIXTURE` is a base for your layer: Plone, this package, and a queue that is
  empty when a test begins, without any zope.conf.
* `trap_tasks` lists the tasks that a transaction queues, and runs none.
* `run_tasks` runs the tasks that are due now as real requests, in this thread.
* `set_up` and `isolated` make pytest fixtures from layers, `task_queue` one from a queue.

A task sees only committed data, and commits its own; so `run_tasks` needs a functional layer.
In an integration layer, nothing is ever committed: use `trap_tasks().uncommitted` there.

``layers.py`` has all of these. ``contract/`` has the tests that every storage must pass, and
``model/`` checks the same in long random sequences; import both from their own modules.
"""

from collective.taskqueue.testing.layers import isolated
from collective.taskqueue.testing.layers import run_tasks
from collective.taskqueue.testing.layers import set_up
from collective.taskqueue.testing.layers import task_queue
from collective.taskqueue.testing.layers import TASKQUEUE_FIXTURE
from collective.taskqueue.testing.layers import TASKQUEUE_FUNCTIONAL_TESTING
from collective.taskqueue.testing.layers import TASKQUEUE_INTEGRATION_TESTING
from collective.taskqueue.testing.layers import TaskQueueFixture
from collective.taskqueue.testing.layers import TaskRun
from collective.taskqueue.testing.layers import trap_tasks
from collective.taskqueue.testing.layers import TrappedTasks


__all__ = [
    "TASKQUEUE_FIXTURE",
    "TASKQUEUE_FUNCTIONAL_TESTING",
    "TASKQUEUE_INTEGRATION_TESTING",
    "TaskQueueFixture",
    "TaskRun",
    "TrappedTasks",
    "isolated",
    "run_tasks",
    "set_up",
    "task_queue",
    "trap_tasks",
]
