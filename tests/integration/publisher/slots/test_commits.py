"""Which commit of an attempt has the slot, and what the slot says of its outcome."""

from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.redelivery import COMMITTED
from collective.taskqueue.publisher import request as publisher
from collective.taskqueue.publisher import slot
from collective.taskqueue.publisher.answer import MAX_COMMITTED
from collective.taskqueue.publisher.slot import Reference
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from plone import api
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from slotted import add
from slotted import calls
from slotted import found
from slotted import reserve
from slotted import run
from slotted import subscriber
from weakref import ref
from ZODB.POSException import ConflictError
from zope.interface import implementer
from ZPublisher.interfaces import IPubBeforeCommit
from ZPublisher.interfaces import IPubSuccess
from ZPublisher.Iterators import IStreamIterator
import gc
import pytest
import transaction


def conflict(portal):
    """Change the site in another thread: what this thread has changed of it conflicts."""

    def change():
        with portal._p_jar.db().transaction() as connection:
            connection.get(portal._p_oid).changed = True

    aside(change).result(BOUND)


def test_the_request_of_an_object_that_is_gone(queue, worker, view, portal):
    """There is no request, and so no slot: the reason is told all the same."""
    setRoles(portal, TEST_USER_ID, ["Manager"])
    page = api.content.create(portal, "Document", "about")
    transaction.commit()
    view("look", lambda context, request: "seen")
    task_id = taskqueue.add(page, view="look", queue="slots", max_attempts=3)
    api.content.delete(page)
    transaction.commit()
    assert worker().step() == 1
    status = queue.status(task_id)
    assert (status.state, len(status.attempts)) == (FAILED, 1)
    assert status.reason.startswith("ObjectGone")


def test_a_commit_of_nothing_does_not_use_the_slot(queue, worker, view, portal, clock):
    """It belongs to the first commit that writes, whatever was aborted before."""

    def count(context, request):
        context.aborted = True
        transaction.abort()
        transaction.commit()
        context.calls = getattr(context, "calls", 0) + 1

    add(view("count", count))
    lease = reserve(queue, portal)
    assert run(queue, lease).ok
    assert found(portal, lease).outcome.ok
    clock.advance(60)
    assert worker().step() == 1
    assert calls(portal) == 1


def test_a_retry_that_only_reads_does_not_use_the_slot(queue, view, portal):
    """The first try had written, and ended with a conflict. Later slots are not in doubt."""
    tries = []

    def count(context, request):
        tries.append(request.retry_count)
        if len(tries) == 1:
            context.calls = 1
            conflict(portal)

    add(view("count", count))
    lease = reserve(queue, portal)
    outcome = run(queue, lease)
    assert (outcome.ok, outcome.drops_slot, tries) == (True, False, [0, 1])
    assert not found(portal, lease).is_there
    last = slot._last_committed[portal._p_jar.db()]
    assert last != Reference.parse(lease.slot).slot


def test_a_retry_that_commits_by_itself_has_no_outcome(queue, worker, view, portal, clock):
    """The first try was done, and ended with a conflict. Of the second one half is committed."""
    tries = []

    def count(context, request):
        tries.append(request.retry_count)
        context.calls = getattr(context, "calls", 0) + 1
        if len(tries) == 1:
            conflict(portal)
        elif len(tries) == 2:
            transaction.commit()
            raise SystemExit

    task_id = add(view("count", count), once=True)
    lease = reserve(queue, portal)
    run(queue, lease)
    assert found(portal, lease) == (True, True, None, False)
    clock.advance(60)
    assert worker().step() == 1
    status = queue.status(task_id)
    assert (status.state, len(tries)) == (FAILED, 2)
    assert "its view had committed by itself" in status.reason


@pytest.mark.parametrize("error", [ConflictError, ValueError])
def test_what_fails_after_the_last_commit(queue, counting, portal, error):
    """The task is done: the request is not made again, and the attempt does not fail."""

    def fail(event):
        raise error("after the commit")

    with subscriber(fail, IPubSuccess):
        add(counting)
        outcome = run(queue, reserve(queue, portal))
    assert (outcome.ok, outcome.drops_slot) == (True, True)
    assert calls(portal) == 1


def test_the_outcome_is_that_of_the_last_subscriber(queue, counting, portal):
    def fail(event):
        event.request.response.setStatus(500)

    with subscriber(fail, IPubBeforeCommit):
        add(counting)
        lease = reserve(queue, portal)
        outcome = run(queue, lease)
    assert (outcome.status, found(portal, lease).outcome.status) == (500, 500)


@implementer(IStreamIterator)
class Stream(list):
    def __len__(self):
        return 4


def test_the_outcome_is_the_reported_one(queue, view, portal):
    """But for a body that is sent while it is made: the commit comes first."""

    def answer(context, request):
        context.calls = 1
        request.response.setStatus(503)
        for number in ("1", "2"):
            request.response.addHeader("X-Number", number)
        request.response.setHeader("Retry-After", "7")
        return "x" * 2000

    add(view("answer", answer))
    lease = reserve(queue, portal)
    outcome, stored = run(queue, lease), found(portal, lease).outcome
    for name in ("status", "reason", "retry_after", "verdict"):
        assert getattr(stored, name) == getattr(outcome, name)
    assert stored.retry_after == 7
    assert [value for name, value in stored.headers if name == "X-Number"] == ["1", "2"]
    assert (stored.body, stored.truncated) == (outcome.body[:MAX_COMMITTED], True)


@pytest.mark.parametrize("way", ["iterator", "write"])
def test_a_body_that_is_not_known_yet_is_cut(queue, view, portal, way):
    def answer(context, request):
        context.calls = 1
        if way == "iterator":
            return Stream([b"body"])
        request.response.write(b"body")
        return None

    add(view("answer", answer))
    lease = reserve(queue, portal)
    assert run(queue, lease).body == b"body"
    stored = found(portal, lease).outcome
    assert (stored.status, stored.body, stored.truncated) == (200, b"", True)


def test_the_request_is_freed_without_a_search_for_cycles(queue, view, portal):
    """A cycle would keep all that the request refers to, until many tasks later."""
    requests = []

    def write(context, request):
        context.calls = 1
        requests.append(ref(request))

    add(view("write", write))
    lease = reserve(queue, portal)
    gc.disable()
    try:
        assert run(queue, lease).ok
        assert [request() for request in requests] == [None]
    finally:
        gc.enable()


def test_a_failure_that_was_committed(queue, worker, view, portal, clock):
    """The history tells both: why it failed, and that the worker was lost."""

    def fail(context, request):
        context.calls = getattr(context, "calls", 0) + 1
        request.response.setStatus(404)

    task_id = add(view("fail", fail))
    assert run(queue, reserve(queue, portal)).status == 404
    clock.advance(60)
    assert worker().step() == 1
    assert calls(portal) == 1
    assert queue.status(task_id).attempts[-1].reason == f"status 404, {COMMITTED}"


def test_a_slot_of_another_version(queue, worker, counting, portal, clock, monkeypatch):
    """It cannot be read, now or later: a person decides, or the task runs again."""
    record_of = publisher.record_of
    task_id = add(counting, once=True)
    with monkeypatch.context() as patched:
        patched.setattr(publisher, "record_of", lambda *args: (*record_of(*args), "of later"))
        assert run(queue, reserve(queue, portal)).ok
    clock.advance(60)
    assert worker().step() == 1
    status = queue.status(task_id)
    assert status.state == FAILED
    assert status.reason.startswith("its slot is damaged")


def test_the_last_delivery_is_for_looking(queue, worker, counting, view, portal, clock):
    """Lost too often, a task does not run again; but it may have committed."""
    most = queue.settings.max_deliveries
    done, lost = add(counting), add(view("look", lambda context, request: "seen"))
    for turn in range(most):
        first, second = reserve(queue, portal), reserve(queue, portal)
        if turn == most - 1:
            assert run(queue, first).ok
        assert second.lost == turn
        clock.advance(60)
    consumer = worker()
    assert [consumer.step() for _ in range(3)] == [1, 1, 0]
    assert queue.status(done).state == SUCCEEDED
    status = queue.status(lost)
    assert (status.state, status.reason) == (FAILED, f"its process was lost {most} times")
    assert calls(portal) == 1


def test_a_lease_outlasts_a_database_that_answers_late(queue, worker, counting, portal, clock):
    """The consumer renews it while it looks for the slot."""
    task_id = add(counting)
    reserve(queue, portal)
    clock.advance(60)
    consumer = worker()
    look = consumer._calls.slots.find
    renewed = []

    def late(reference, task):
        renewed.extend(consumer._heartbeat.running())
        return look(reference, task)

    consumer._calls.slots.find = late
    assert consumer.step() == 1
    assert [attempt.task.id for attempt in renewed] == [task_id]
