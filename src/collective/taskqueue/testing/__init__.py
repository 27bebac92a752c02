"""For the tests of add-ons that queue tasks. Needs the extra `test`.

* `TASKQUEUE_FIXTURE` is a layer to base yours on: Plone, this package, and a queue that is
  empty when a test begins, without any zope.conf.
* `trap_tasks` shows what a transaction queues, and runs nothing.
* `run_tasks` runs what is due now as real requests, in this thread.
* `set_up` and `isolated` make pytest fixtures out of layers, `task_queue` one of a queue.

A task sees what is committed, and commits itself; so `run_tasks` needs a functional layer.
In an integration layer nothing is ever committed: look at `trap_tasks().uncommitted`.

``layers.py`` has all of these. ``contract/`` is what every storage promises, as tests, and
``model/`` the same in long random sequences; import these from where they are.
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
