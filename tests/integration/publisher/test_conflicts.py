"""A task that runs into a conflict is published again, up to a limit."""

from collective.taskqueue import taskqueue
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.publisher import request
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.testing import run_tasks
from integration.publisher.conftest import user_id
from plone.app.testing import TEST_USER_ID
from ZODB.POSException import ConflictError
import pytest
import transaction


class Conflicting:
    """A view that runs into a conflict a number of times, and remembers its executions."""

    def __init__(self, conflicts):
        self.conflicts = conflicts
        self.executions = []

    def __call__(self, context, request):
        body = request["BODY"] if request.method == "POST" else b""
        self.executions.append((ITaskQueueLayer.providedBy(request), body, user_id()))
        if len(self.executions) <= self.conflicts:
            raise ConflictError
        return "done"


@pytest.mark.parametrize("conflicts", [0, 1, 3, 4, 10])
def test_conflicts_within_the_limit(run, view, delays, conflicts):
    """C83, C84, D07: k conflicts are k+1 executions, on the same layer with the same body."""
    conflicting = Conflicting(conflicts)
    done = run(view("work", conflicting, layer=ITaskQueueLayer), "POST", payload=b"a=1")
    assert (done.outcome.status, done.outcome.body) == (200, b"done")
    assert conflicting.executions == [(True, b"a=1", TEST_USER_ID)] * (conflicts + 1)
    assert len(delays) == conflicts
    assert all(0 <= seconds <= request.MAX_CONFLICT_PAUSE for seconds in delays)
    assert done.outcome.error == ""
    assert done.status.attempts[0].number == len(done.status.attempts) == 1


@pytest.mark.parametrize("conflicts", [11, 1000])
def test_conflicts_beyond_the_limit(run, view, delays, conflicts):
    """C83, D07: exactly 11 executions, and then it is a failed attempt."""
    conflicting = Conflicting(conflicts)
    done = run(view("work", conflicting))
    assert len(conflicting.executions) == 11
    assert len(delays) == 10
    assert "ConflictError" in done.outcome.reason
    assert (done.outcome.ok, done.status.state) == (False, "failed")


@pytest.mark.parametrize(("limit", "executions"), [(0, 1), (1, 2), (12, 13)])
def test_limit_of_conflicts_is_the_consumers(view, queue, delays, limit, executions):
    """C83: `retry_max_count` of the <taskqueue-server>."""
    conflicting = Conflicting(1000)
    taskqueue.add(view("work", conflicting))
    transaction.commit()
    consumer = Consumer(queue.storage, publish, ServerSettings(retry_max_count=limit))
    assert consumer.step() == 1
    consumer.stop()
    assert len(conflicting.executions) == executions


def test_conflicts_that_outlast_an_attempt(run, view, delays):
    """Then it counts as an attempt, and the next one is scheduled."""
    done = run(view("work", Conflicting(1000)), max_attempts=2)
    assert done.status.state == "scheduled"


def test_conflict_in_the_commit(run, view, portal, delays):
    """C83: a real one, which shows only when the database votes."""
    portal.number = 0
    transaction.commit()
    executions = []

    def count(context, request):
        executions.append(context.number)
        context.number += 1
        taskqueue.add("/plone/@@after", queue="default")
        if len(executions) < 3:
            _meanwhile(context._p_jar.db(), lambda root: setattr(root.plone, "number", 10))

    view("after", lambda context, request: "")
    taskqueue.add(view("count", count))
    transaction.commit()
    first, *others = run_tasks()
    assert first.outcome.ok
    assert executions == [0, 10, 10]
    assert portal.number == 11
    # C32: what the executions added that were not committed is gone.
    assert [done.task.url for done in others] == ["/plone/@@after"]


def _meanwhile(database, change):
    """Commit a change in another connection."""
    manager = transaction.TransactionManager()
    connection = database.open(transaction_manager=manager)
    try:
        change(connection.root()["Application"])
        manager.commit()
    finally:
        connection.close()
