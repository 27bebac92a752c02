"""Layers, queues and runs of tasks for tests of add-ons, see `collective.taskqueue.testing`."""

from __future__ import annotations

from AccessControl.SecurityManagement import getSecurityManager
from AccessControl.SecurityManagement import setSecurityManager
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import events
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.consumer.policy import classify
from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.local.storage import LocalStorage
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from contextlib import contextmanager
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from plone.app.testing import applyProfile
from plone.app.testing import FunctionalTesting
from plone.app.testing import IntegrationTesting
from plone.app.testing import PLONE_FIXTURE
from plone.app.testing import PloneSandboxLayer
from plone.testing.zope import installProduct
from plone.testing.zope import uninstallProduct
from typing import Any
from zope.component import getGlobalSiteManager
from zope.component import getUtilitiesFor
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import getRequest
from zope.globalrequest import setRequest
from zope.security.management import endInteraction
from zope.security.management import queryInteraction
from zope.security.management import thread_local as interactions
import collective.taskqueue
import Products
import time
import transaction


#: The old-style product in this package that makes the PAS plugin addable in the ZMI.
PRODUCT = "collective.taskqueue.pasplugin"


class TaskQueueFixture(PloneSandboxLayer):
    """A Plone site with this package, its PAS plugin, and the local queue `default`.

    The plugin is active because a user logged in by a test has no cookie that a task could
    copy. For a site without it, apply ``collective.taskqueue.pasplugin:uninstall``.
    """

    defaultBases = (PLONE_FIXTURE,)

    def setUpZope(self, app: Any, configurationContext: Any) -> None:
        """Load this package and register the queue."""
        self.loadZCML(package=collective.taskqueue)
        self._meta_types = Products.meta_types
        installProduct(app, PRODUCT)
        self._stack = ExitStack()
        self._stack.enter_context(task_queue())

    def setUpPloneSite(self, portal: Any) -> None:
        """Install the PAS plugin, so that tasks run as the user that queued them."""
        applyProfile(portal, f"{PRODUCT}:default")

    def tearDownZope(self, app: Any) -> None:
        """Unregister the queue and uninstall the product."""
        self._stack.close()
        uninstallProduct(app, PRODUCT)
        # `uninstallProduct` leaves the meta types, and the next set-up would add them twice.
        Products.meta_types = self._meta_types

    def testSetUp(self) -> None:
        """Empty all local queues, whatever the set-up or another test has left in them."""
        for _, queue in getGlobalSiteManager().getUtilitiesFor(ITaskQueue):
            if isinstance(queue.storage, LocalStorage):
                _replace_storage(queue, LocalStorage(queue.settings))


TASKQUEUE_FIXTURE = TaskQueueFixture()

TASKQUEUE_INTEGRATION_TESTING = IntegrationTesting(
    bases=(TASKQUEUE_FIXTURE,), name="TaskQueue:Integration"
)

TASKQUEUE_FUNCTIONAL_TESTING = FunctionalTesting(
    bases=(TASKQUEUE_FIXTURE,), name="TaskQueue:Functional"
)


@contextmanager
def task_queue(name: str = "default", **settings: Any) -> Iterator[TaskQueue]:
    """Register an empty local queue while the block runs.

    `settings` are keys of a `<taskqueue>` section, such as ``max_attempts=3``. If a queue
    of that name is registered already, it is registered again afterwards.
    """
    registry = getGlobalSiteManager()
    earlier = registry.queryUtility(ITaskQueue, name=name)
    known = QueueSettings(queue=name, **settings)
    queue = TaskQueue(known, LocalStorage(known))
    registry.registerUtility(queue, ITaskQueue, name=name)
    try:
        yield queue
    finally:
        registry.unregisterUtility(queue, ITaskQueue, name=name)
        if earlier is not None:
            registry.registerUtility(earlier, ITaskQueue, name=name)


def _replace_storage(queue: Any, storage: LocalStorage) -> None:
    storage.notify = queue.publish_event
    queue.storage = storage


class TrappedTasks(list[Task]):
    """The queued tasks, in the order in which consumers would get them."""

    def __init__(self, queues: Sequence[Any]) -> None:
        super().__init__()
        self._queues = queues

    @property
    def uncommitted(self) -> list[Task]:
        """The tasks that a commit of the current transaction would queue."""
        return [task for queue in self._queues for task in pending(queue)]


@contextmanager
def trap_tasks() -> Iterator[TrappedTasks]:
    """Catch the tasks that are queued while the block runs; none of them is ever run.

    The tasks of a transaction appear in the list when it is committed. Tasks that were
    skipped or replaced for another one of their `key` do not. Tasks that waited before are
    untouched. The caught tasks are dropped when the block ends.
    """
    queues = [queue for _, queue in getUtilitiesFor(ITaskQueue)]
    storages = [queue.storage for queue in queues]
    caught = TrappedTasks(queues)
    for queue in queues:
        _replace_storage(queue, _Trap(queue.settings, caught))
    try:
        yield caught
    finally:
        for queue, storage in zip(queues, storages, strict=True):
            queue.storage = storage


class _Trap(LocalStorage):
    """A storage that lists the promoted tasks that wait."""

    def __init__(self, settings: QueueSettings, caught: list[Task]) -> None:
        super().__init__(settings)
        self._caught = caught

    def promote(self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        super().promote(batch_id, tid, tasks)
        waiting = {
            status.id: self.admin.get(status.id).task
            for status in self.admin.tasks(size=sum(self.admin.counts().values()))
            if not status.finished
        }
        self._caught[:] = [
            task
            for task in self._caught
            if task.queue != self.settings.queue or waiting.pop(task.id, None) is not None
        ]
        self._caught += waiting.values()


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task that `run_tasks` has run."""

    task: Task
    #: The result of its request.
    outcome: Outcome
    #: Its status in the queue after the run; None if the record is not kept.
    status: TaskStatus | None


def run_tasks(
    queue: str | None = None,
    limit: int = 1000,
    hook: Callable[[Task], Outcome] | None = None,
) -> list[TaskRun]:
    """Run the tasks that are due now, oldest first, and those queued meanwhile; return the runs.

    Each task is a request of the real publisher, in this thread and in its own transaction.
    `queue` names one queue; by default, all queues are run, one after the other. Tasks that
    are queued by tasks and by subscribers of task events are run, too. Tasks that are due
    later stay in the queue, among them tasks that wait for a second attempt.

    A web hook is not sent: `hook` is called with its task instead, and returns the outcome,
    such as ``Outcome(200)``. If `hook` raises, the attempt has failed.

    When this function returns, subscribers of task events have been called, and the caller has
    the same request, site and user as before. A new transaction has begun, which sees the
    changes of the tasks. Nothing is committed on behalf of the caller: a transaction with
    changes is refused, and so is a layer that forbids commits.

    Raises `UnknownQueue` if there is no such queue. Raises `TaskQueueError` if the transaction
    or the layer is refused, for a web hook without `hook`, and if more tasks are due after
    `limit` runs. The next task waits then, as before.
    """
    queues = [found for name, found in sorted(getUtilitiesFor(ITaskQueue)) if queue in (None, name)]
    if queue is not None and not queues:
        raise UnknownQueue(f"there is no task queue {queue!r}")
    _check_transaction(queues)
    runs: list[TaskRun] = []
    with _put_aside():
        events.flush()
        # Tasks and subscribers of task events may add to a queue that has been emptied.
        while any(_run(item, runs, limit, hook) for item in queues):
            events.flush()
    return runs


def _check_transaction(queues: Sequence[Any]) -> None:
    if transaction.commit != transaction.manager.commit:
        raise TaskQueueError("a task commits, and this layer forbids it: use a functional one")
    added = sum(len(pending(queue)) for queue in queues)
    if added:
        raise TaskQueueError(f"{added} added tasks are not committed yet: commit before run_tasks")
    current = transaction.get()
    if current._resources or any(True for _ in current.getBeforeCommitHooks()):
        raise TaskQueueError("there are changes that are not committed: no task would see them")


def _run(queue: Any, runs: list[TaskRun], limit: int, hook: Any) -> int:
    settings = ServerSettings(name="testing", queue=queue.name)
    perform = partial(_perform, queue.settings, hook)
    consumer = Consumer(queue.storage, perform, settings, queue.publish_event)
    before = len(runs)
    try:
        while _may_go_on(queue, len(runs), limit, hook):
            leases = queue.storage.reserve(settings.name, 1, 0, settings.lease)
            if not leases:
                break
            (lease,) = leases
            outcome = consumer.work(lease)
            if outcome is not None:
                runs.append(TaskRun(lease.task, outcome, _status(queue, lease.task.id)))
    finally:
        consumer.stop()
    return len(runs) - before


def _perform(settings: QueueSettings, hook: Any, attempt: Attempt) -> Outcome:
    outcome = hook(attempt.task) if attempt.task.is_hook else publish(attempt)
    return classify(outcome, settings.transient_statuses)


def _may_go_on(queue: Any, done: int, limit: int, hook: Any) -> bool:
    """Return whether a task is due; raise before a task that cannot run is reserved."""
    if queue.storage.admin.paused():
        return False
    queue.storage.admin.recover()
    waiting = [*queue.tasks(QUEUED, size=1), *queue.tasks(SCHEDULED, size=1)]
    due = [status.task for status in waiting if (status.due or 0.0) <= time.time()]
    if due and done == limit:
        raise TaskQueueError(f"{limit} tasks were run and more are due; is it a loop?")
    for task in due:
        if task.is_hook and hook is None:
            raise TaskQueueError(
                f"{task.method} {task.url} is a web hook, which is not sent: run_tasks needs a hook"
            )
    return bool(due)


def _status(queue: Any, task_id: str) -> TaskStatus | None:
    try:
        status: TaskStatus = queue.status(task_id)
    except UnknownTask:
        return None
    return status


@contextmanager
def _put_aside() -> Iterator[None]:
    """Save request, site, user and interaction of this thread, and restore them afterwards."""
    request, site, manager = getRequest(), getSite(), getSecurityManager()
    interaction = queryInteraction()
    if interaction is not None:
        endInteraction()
    try:
        yield
    finally:
        transaction.begin()
        setSecurityManager(manager)
        setSite(site)
        setRequest(request)
        if interaction is not None:
            interactions.interaction = interaction


#: Layers that `set_up` has set up and not yet torn down.
_standing: set[Any] = set()


@contextmanager
def set_up(*layers: Any) -> Iterator[None]:
    """Set up layers, each after its bases; tear them down when the block ends.

    Does what zope.testrunner does for a layer, for a pytest fixture with a wide scope. A layer
    that is already set up is neither set up nor torn down, so such fixtures can be nested.
    """
    with ExitStack() as stack:
        for layer in _bases_first(layers):
            if layer not in _standing:
                layer.setUp()
                _standing.add(layer)
                stack.callback(_tear_down, layer)
        yield


def _tear_down(layer: Any) -> None:
    _standing.remove(layer)
    layer.tearDown()


@contextmanager
def isolated(layer: Any) -> Iterator[Any]:
    """Isolate one test in a layer that is set up; the block gets the layer and its resources.

    Does what zope.testrunner does around a test, for a pytest fixture.
    """
    with ExitStack() as stack:
        for item in _bases_first([layer]):
            item.testSetUp()
            stack.callback(item.testTearDown)
        yield layer


def _bases_first(layers: Sequence[Any]) -> list[Any]:
    found: dict[Any, None] = {}
    for layer in layers:
        found.update(dict.fromkeys(_bases_first(layer.__bases__)))
        found[layer] = None
    return list(found)
