"""What add-ons get for their tests keeps its promises: traps, layers and queues."""

from collective.taskqueue import taskqueue
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.task import Task
from collective.taskqueue.testing import isolated
from collective.taskqueue.testing import run_tasks
from collective.taskqueue.testing import set_up
from collective.taskqueue.testing import task_queue
from collective.taskqueue.testing import TASKQUEUE_FUNCTIONAL_TESTING
from collective.taskqueue.testing import trap_tasks
from plone.testing import Layer
from zope.component import getUtility
from zope.component import queryUtility
import pytest
import transaction


def test_trap_holds_what_was_committed(queue):
    with trap_tasks() as tasks:
        first = taskqueue.add("/plone/a")
        assert tasks == []
        assert [task.id for task in tasks.uncommitted] == [first]
        transaction.commit()
        assert [task.id for task in tasks] == [first]
        assert tasks.uncommitted == []
        taskqueue.add("/plone/aborted")
        transaction.abort()
        taskqueue.add("/plone/b")
        transaction.commit()
        assert len(queue) == 2
    assert [task.url for task in tasks] == ["/plone/a", "/plone/b"]
    assert all(isinstance(task, Task) for task in tasks)
    assert len(queue) == 0
    assert run_tasks() == []


def test_trap_leaves_alone_what_waited_before(queue):
    taskqueue.add("/plone/before")
    transaction.commit()
    with trap_tasks() as tasks:
        taskqueue.add("/plone/within")
        transaction.commit()
    assert [task.url for task in tasks] == ["/plone/within"]
    assert [status.task.url for status in queue.tasks()] == ["/plone/before"]


def test_trap_is_opened_again_after_an_error(queue):
    storage = queue.storage
    with pytest.raises(ZeroDivisionError), trap_tasks():
        raise ZeroDivisionError
    assert queue.storage is storage


def test_trap_catches_every_queue_in_order(queue):
    with task_queue("other"), trap_tasks() as tasks:
        taskqueue.add("/plone/a", queue="other")
        transaction.commit()
        taskqueue.add("/plone/b", queue="default")
        transaction.commit()
        taskqueue.add("/plone/c", queue="other")
        taskqueue.add("/plone/d", queue="other", delay=3600)
        transaction.commit()
    assert [(task.url, task.queue) for task in tasks] == [
        ("/plone/a", "other"),
        ("/plone/b", "default"),
        ("/plone/c", "other"),
        ("/plone/d", "other"),
    ]


def test_trap_does_not_hold_tasks_that_gave_way(queue):
    with trap_tasks() as tasks:
        for number in (1, 2):
            taskqueue.add(f"/plone/skip-{number}", key="skip")
            taskqueue.add(f"/plone/replace-{number}", key="replace", on_conflict="replace")
            transaction.commit()
    assert [task.url for task in tasks] == ["/plone/skip-1", "/plone/replace-2"]


def test_trap_in_an_integration_layer(integration):
    with trap_tasks() as tasks:
        taskqueue.add("/plone/a")
        savepoint = transaction.savepoint()
        taskqueue.add("/plone/b")
        savepoint.rollback()
        taskqueue.add("/plone/c")
    assert [task.url for task in tasks.uncommitted] == ["/plone/a", "/plone/c"]


# layers and queues


def test_each_test_begins_with_empty_queues(layers):
    with isolated(TASKQUEUE_FUNCTIONAL_TESTING):
        taskqueue.add("/plone/left")
        transaction.commit()
    with isolated(TASKQUEUE_FUNCTIONAL_TESTING):
        assert len(getUtility(ITaskQueue, name="default")) == 0


def test_each_test_has_a_database_of_its_own(layers):
    with isolated(TASKQUEUE_FUNCTIONAL_TESTING) as layer:
        layer["portal"].left = True
        transaction.commit()
    with isolated(TASKQUEUE_FUNCTIONAL_TESTING) as layer:
        assert not hasattr(layer["portal"].aq_base, "left")


def test_queue_for_the_duration(functional):
    usual = getUtility(ITaskQueue, name="default")
    with task_queue(max_attempts=3) as queue, task_queue("mails") as mails:
        assert getUtility(ITaskQueue, name="default") is queue
        assert queue.settings.max_attempts == 3
        assert getUtility(ITaskQueue, name="mails") is mails
    assert getUtility(ITaskQueue, name="default") is usual
    assert queryUtility(ITaskQueue, name="mails") is None


def test_layers_are_set_up_bases_first_and_once():
    log = []

    class Logged(Layer):
        def setUp(self):
            log.append(f"+{self.__name__}")

        def tearDown(self):
            log.append(f"-{self.__name__}")

        def testSetUp(self):
            log.append(f"({self.__name__}")

        def testTearDown(self):
            log.append(f"{self.__name__})")

    base = Logged(name="base", bases=())
    left, right = Logged(name="left", bases=(base,)), Logged(name="right", bases=(base,))
    top = Logged(name="top", bases=(left, right))
    with set_up(left), set_up(top), isolated(top):
        log.append("test")
    assert " ".join(log) == (
        "+base +left +right +top (base (left (right (top test"
        " top) right) left) base) -top -right -left -base"
    )


def test_layers_are_torn_down_after_an_error():
    log = []

    class Good(Layer):
        def setUp(self):
            log.append("+good")

        def tearDown(self):
            log.append("-good")

    class Bad(Layer):
        def setUp(self):
            raise ZeroDivisionError

        def tearDown(self):
            log.append("-bad")

    layer = Bad(name="bad", bases=(Good(name="good"),))
    with pytest.raises(ZeroDivisionError), set_up(layer):
        log.append("test")
    assert log == ["+good", "-good"]
