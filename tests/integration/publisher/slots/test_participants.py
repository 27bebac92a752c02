"""Slots of transactions that other data managers, subscribers and synchronizers take part in."""

from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.redelivery import COMMITTED
from collective.taskqueue.enqueue.indoubt import verdict_of
from collective.taskqueue.task import FAILED
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from slotted import add
from slotted import calls
from slotted import found
from slotted import reserve
from slotted import run
from slotted import subscriber
from ZODB.POSException import ConflictError
from ZPublisher.interfaces import IPubSuccess
import pytest
import transaction


def test_a_task_that_only_adds_tasks(queue, worker, view, counting, portal, clock):
    """Its transaction writes nothing else, and gets a slot all the same."""

    def add_three(context, request):
        for _ in range(3):
            taskqueue.add(counting, queue="slots")

    task_id = add(view("add-three", add_three))
    assert run(queue, reserve(queue, portal)).ok
    clock.advance(60)
    consumer = worker()
    while consumer.step():
        pass
    assert calls(portal) == 3
    assert queue.status(task_id).attempts[-1].reason == COMMITTED


def test_a_task_that_only_adds_tasks_is_killed_before_they_are_promoted(
    queue, worker, view, counting, portal, monkeypatch
):
    """It has committed, its slot says so: the tasks that it has added have to be promoted."""

    def add_one(context, request):
        taskqueue.add(counting, queue="slots")

    add(view("add-one", add_one))
    lease = reserve(queue, portal)
    staged = []
    stage = queue.storage.stage
    monkeypatch.setattr(queue.storage, "stage", lambda *args: staged.append(args) or stage(*args))
    assert run(queue, lease).ok
    assert found(portal, lease).is_slot
    ((_, _, witness),) = staged
    verdict = verdict_of(portal._p_jar.db().databases, witness, age=0.0)
    assert verdict.end == "committed"


class Refusing:
    """A data manager that refuses to commit."""

    transaction_manager = None

    def sortKey(self):
        return "zz"

    def tpc_vote(self, current):
        raise ConflictError

    def tpc_begin(self, current):
        """Do nothing, as all below."""

    abort = commit = tpc_finish = tpc_abort = tpc_begin


def test_a_task_that_only_adds_tasks_and_meets_a_conflict(queue, view, counting, portal):
    tries = []

    def add_one(context, request):
        tries.append(request.retry_count)
        taskqueue.add(counting, queue="slots")
        if len(tries) == 1:
            transaction.get().join(Refusing())

    add(view("add-one", add_one))
    lease = reserve(queue, portal)
    outcome = run(queue, lease)
    assert (outcome.ok, outcome.drops_slot, tries) == (True, True, [0, 1])
    assert found(portal, lease).outcome.ok
    assert queue.storage.admin.counts()["queued"] == 1


def test_a_subscriber_that_adds_a_task_after_the_commit(
    queue, worker, view, counting, portal, clock
):
    """The view has only read. What the subscriber commits is not committed a second time."""
    added = []

    def succeeded(event):
        if "look" in event.request["URL"]:
            added.append(taskqueue.add(counting, queue="slots"))
            transaction.commit()

    task_id = add(view("look", lambda context, request: "seen"), once=True)
    lease = reserve(queue, portal)
    with subscriber(succeeded, IPubSuccess):
        run(queue, lease)
        clock.advance(60)
        consumer = worker()
        while consumer.step():
            pass
    assert (len(added), calls(portal)) == (1, 1)
    status = queue.status(task_id)
    assert status.state == FAILED
    assert "its view had committed by itself" in status.reason


@pytest.mark.parametrize("optimistic", [False, True])
def test_a_savepoint_at_the_end_of_the_transaction(queue, view, portal, optimistic):
    """Another synchronizer makes one, after the slot has joined the transaction."""

    class Saving:
        def beforeCompletion(self, current):
            if current.status == "Active" and getattr(saving, "written", False):
                transaction.savepoint(optimistic).rollback()

        def afterCompletion(self, current):
            """Do nothing, as below."""

        newTransaction = afterCompletion

    saving = Saving()

    def write(context, request):
        context.calls = 1
        saving.written = True
        transaction.manager.registerSynch(saving)

    add(view("write", write))
    lease = reserve(queue, portal)
    assert run(queue, lease).ok
    assert found(portal, lease).outcome.ok
    assert calls(portal) == 1


def test_a_doomed_transaction_beside_another_worker(queue, view, portal, clock):
    """The other one has committed: that is the outcome, whatever happens in this one."""
    runs = []

    def count(context, request):
        context.calls = getattr(context, "calls", 0) + 1
        runs.append(request)
        if len(runs) == 1:
            aside(lambda: run(queue, frozen)).result(BOUND)
            transaction.doom()
            raise LookupError

    add(view("count", count))
    frozen = reserve(queue, portal)
    clock.advance(60)
    outcome = run(queue, reserve(queue, portal))
    assert (outcome.ok, outcome.note) == (True, COMMITTED)
    assert calls(portal) == 1
