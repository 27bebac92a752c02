"""What a task writes into the ZODB is written once, whatever happens to its worker."""

from collective.taskqueue.consumer.redelivery import COMMITTED
from collective.taskqueue.publisher.slot import Slots
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from functools import partial
from slotted import add
from slotted import calls
from slotted import reserve
from slotted import run
from slotted import take_place
import pytest


def test_a_worker_that_is_lost_after_its_commit(queue, worker, counting, portal, clock):
    task_id = add(counting)
    assert run(queue, reserve(queue, portal)).ok
    clock.advance(60)
    assert worker().step() == 1
    assert calls(portal) == 1
    status = queue.status(task_id)
    assert (status.state, status.body) == (SUCCEEDED, b"call 1")
    assert status.attempts[-1].reason == COMMITTED


def test_a_worker_that_is_lost_before_its_commit(queue, worker, counting, portal, clock):
    task_id = add(counting)
    reserve(queue, portal)
    clock.advance(60)
    assert worker().step() == 1
    assert calls(portal) == 1
    assert queue.status(task_id).attempts[-1].reason == ""


def test_a_worker_that_thaws_after_another_has_committed(queue, worker, counting, portal, clock):
    """Nothing of the first worker is written."""
    task_id = add(counting)
    frozen = reserve(queue, portal)
    clock.advance(60)
    assert worker().step() == 1
    outcome = run(queue, frozen)
    assert calls(portal) == 1
    assert outcome.note == COMMITTED
    assert queue.status(task_id).state == SUCCEEDED


def test_a_worker_that_thaws_while_another_runs_the_task(queue, worker, view, portal, clock):
    """The second one is about to commit: it ends as the first one did."""
    frozen = []

    def count(context, request):
        context.calls = getattr(context, "calls", 0) + 1
        if frozen:
            aside(partial(run, queue, frozen.pop())).result(BOUND)

    add(view("count", count))
    frozen.append(reserve(queue, portal))
    clock.advance(60)
    other = worker()
    assert other.step() == 1
    assert calls(portal) == 1


def test_a_view_that_only_reads_writes_nothing(queue, worker, view, portal):
    # The first offer of a process commits a slot that is older than the others.
    Slots(portal._p_jar.db()).take(1)
    before = portal._p_jar.db().lastTransaction()
    task_id = add(view("look", lambda context, request: "looked"))
    between = portal._p_jar.db().lastTransaction()
    assert worker().step() == 1
    assert queue.status(task_id).state == SUCCEEDED
    assert portal._p_jar.db().lastTransaction() == between == before


def test_a_retry_runs_again(queue, worker, view, portal, clock):
    """Its earlier attempt has committed nothing, or has committed and is to run again."""

    def count(context, request):
        context.calls = getattr(context, "calls", 0) + 1
        if context.calls == 1:
            request.response.setStatus(503)

    task_id = add(view("count", count), max_attempts=2, min_backoff=0)
    consumer = worker()
    assert consumer.step() == 1
    clock.advance(60)
    assert consumer.step() == 1
    assert calls(portal) == 2
    assert queue.status(task_id).state == SUCCEEDED


@pytest.mark.parametrize("is_lost", [False, True])
def test_another_object_has_its_place(queue, worker, counting, portal, clock, is_lost):
    """The task gets another slot at once, and no person has to decide."""
    task_id = add(counting, once=True)
    lease = reserve(queue, portal)
    take_place(portal, lease)
    consumer = worker()
    if is_lost:
        clock.advance(60)
        assert consumer.step() == 1
    else:
        assert consumer.work(lease).verdict == "postpone"
    assert calls(portal) == 0
    assert consumer.step() == 1
    assert calls(portal) == 1
    status = queue.status(task_id)
    assert status.state == SUCCEEDED
    assert status.attempts[-2].reason.startswith("another object has the place of its slot")


def test_a_task_that_is_in_doubt(queue, worker, counting, portal, clock):
    """A person decides; then it runs."""
    task_id = add(counting, once=True)
    queue.storage.reserve("lost", timeout=0, lease=30.0)
    clock.advance(60)
    consumer = worker()
    assert consumer.step() == 1
    assert calls(portal) == 0
    status = queue.status(task_id)
    assert status.state == FAILED
    assert status.reason.endswith("so it may have been done; a person has to decide")
    queue.retry(task_id)
    assert consumer.step() == 1
    assert calls(portal) == 1
    assert queue.status(task_id).state == SUCCEEDED
