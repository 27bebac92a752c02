"""One step of a consumer, without threads."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import consumer as consumer_module
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import new_task
import pytest
import threading
import time


def test_a_step_without_a_task_does_nothing(make, storage, told):
    """It returns as soon as the timeout has passed."""
    assert make().step() == 0
    assert told == []


def test_a_step_runs_one_task(make, storage, told, clock):
    """Reserved, performed, finished, and told."""
    performed = []

    def perform(attempt):
        performed.append((attempt.task.id, attempt.number, attempt.retry_max_count))
        assert storage.admin.get(attempt.task.id).state == RUNNING
        return Outcome(204, started=clock(), seconds=2.5, body=b"done")

    tasks = add(storage, new_task(), new_task())
    consumer = make(perform, retry_max_count=7, lease=45.0)
    assert consumer.step() == 1
    assert performed == [(tasks[0].id, 1, 7)]
    status = storage.admin.get(tasks[0].id)
    assert (status.state, status.status, status.body) == (SUCCEEDED, 204, b"done")
    assert (status.consumer, status.elapsed) == ("worker1", 2.5)
    assert told == [(RUNNING, tasks[0].id), (SUCCEEDED, tasks[0].id)]
    assert ids(storage.admin.tasks(QUEUED)) == [tasks[1].id]
    assert storage.reserves == [
        (("worker1",), {"limit": 1, "timeout": 0.0, "lease": 45.0, "slots": []})
    ]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome(200), SUCCEEDED),
        (Outcome(404), FAILED),
        (Outcome(503), SCHEDULED),
        (Outcome(200, "x", verdict="discard"), FAILED),
    ],
)
def test_policy_decides_what_follows(make, storage, told, outcome, state):
    """O06: and the consumer tells the state it led to."""
    task = add_one(storage, max_attempts=2)
    make(lambda attempt: outcome).step()
    assert storage.admin.get(task.id).state == state
    assert told == [(RUNNING, task.id), (state, task.id)]


def test_the_schedule_follows_the_clock_of_the_consumer(make, storage, clock):
    """Not the one of the machine."""
    task = add_one(storage, max_attempts=3, min_backoff=10.0, max_backoff=10.0)
    consumer = make(lambda attempt: Outcome(503))
    for attempt in range(1, 4):
        assert consumer.step() == 1
        assert consumer.step() == 0
        assert len(storage.admin.get(task.id).attempts) == attempt
        clock.advance(12)
    assert storage.admin.get(task.id).state == FAILED
    assert consumer.step() == 0


@pytest.mark.parametrize(
    "failure", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), TaskTimeout("late")]
)
def test_what_perform_raises_ends_the_attempt(make, storage, failure, caplog):
    """D08: any error, with a traceback in the record and in the log, once."""

    def perform(attempt):
        raise failure

    task = add_one(storage, max_attempts=2)
    assert make(perform).step() == 1
    status = storage.admin.get(task.id)
    assert status.state == SCHEDULED
    (attempt,) = status.attempts
    assert attempt.reason == f"{type(failure).__name__}: {failure}".removesuffix(": ")
    assert "in perform" in attempt.error
    with_traceback = [record for record in caplog.records if record.exc_info]
    assert [record.getMessage() for record in with_traceback] == [
        f"task {task.id}: could not be dispatched"
    ]


def test_a_task_that_is_too_old_is_not_dispatched(make, storage, clock):
    """`max_age` counts from when it was added, not from when its turn comes."""
    young = add_one(storage, created=clock(), max_age=100.0)
    old = add_one(storage, created=clock() - 100.1, max_age=100.0, max_attempts=5)
    performed = []

    def perform(attempt):
        performed.append(attempt.task.id)
        return Outcome(200)

    consumer = make(perform)
    assert (consumer.step(), consumer.step()) == (1, 1)
    assert performed == [young.id]
    status = storage.admin.get(old.id)
    assert (status.state, status.reason) == (FAILED, "older than its max_age of 100 s")


def test_a_task_that_a_person_retries_is_young_again(make, storage, clock):
    """However long ago it was added: it is dispatched, and tried again within its `max_age`."""
    task = add_one(storage, created=clock() - 1000, max_age=100.0, max_attempts=9, max_backoff=30.0)
    consumer = make(lambda attempt: Outcome(503))
    consumer.step()
    assert storage.admin.get(task.id).attempts[-1].status is None
    storage.admin.retry(task.id)
    consumer.step()
    status = storage.admin.get(task.id)
    assert (status.state, status.attempts[-1].status) == (SCHEDULED, 503)
    clock.advance(101)
    consumer.step()
    assert storage.admin.get(task.id).reason == "older than its max_age of 100 s"


def test_a_storage_that_does_not_tell_the_age(make, storage, clock, monkeypatch, caplog):
    """Then it counts from when the task was added, which is never too long."""

    def away(task_id, brief):
        raise StorageUnavailable("gone")

    task = add_one(storage, created=clock(), max_age=100.0)
    with monkeypatch.context() as patched:
        patched.setattr(storage.admin, "get", away)
        make(lambda attempt: Outcome(200)).step()
    assert storage.admin.get(task.id).state == SUCCEEDED
    assert f"task {task.id}: its history cannot be read (gone)" in caplog.text


def test_a_task_cancelled_while_it_runs_ends_as_cancelled(make, storage, told):
    """With any outcome of the view; subscribers are told that it was cancelled."""

    def perform(attempt):
        assert not attempt.cancelled()
        storage.admin.cancel(attempt.task.id)
        return Outcome(200)

    task = add_one(storage)
    make(perform).step()
    assert storage.admin.get(task.id).state == CANCELLED
    assert told[-1] == (CANCELLED, task.id)


def test_the_outcome_of_a_lost_lease_is_dropped(make, storage, clock, told, caplog):
    """Guarantee 2: with one line, and without telling a state it did not lead to."""

    def perform(attempt):
        clock.advance(3600)
        assert storage.admin.recover() == [attempt.task.id]
        return Outcome(200)

    task = add_one(storage)
    make(perform).step()
    assert storage.admin.get(task.id).state == QUEUED
    assert told == [(RUNNING, task.id)]
    assert f"task {task.id}: finished after its lease was lost, result dropped" in caplog.messages


# the transaction that queued the task


def test_a_task_waits_for_the_transaction_that_queued_it(make, storage):
    """Guarantee 4: it starts when the database of this process has arrived there."""
    answers = [False, False, True]
    asked = []

    def ready(tid):
        asked.append(tid)
        return answers.pop(0)

    def perform(attempt):
        assert answers == []
        return Outcome(200)

    task = new_task()
    storage.stage("batch", [task])
    storage.promote("batch", b"12345678")
    make(perform, ready=ready).step()
    assert asked == [b"12345678"] * 3
    assert storage.admin.get(task.id).state == SUCCEEDED


def test_a_task_without_a_transaction_waits_for_nothing(make, storage):
    """It was queued without one."""
    task = add_one(storage)
    make(ready=lambda tid: pytest.fail("asked")).step()
    assert storage.admin.get(task.id).state == SUCCEEDED


def test_the_wait_does_not_count_against_the_timeout(make, storage):
    """A task that has not begun cannot have taken too long."""
    waited = threading.Event()
    begun = time.monotonic()

    def ready(tid):
        # Longer than the timeout of the task, with a margin for a slow machine.
        if time.monotonic() - begun > 2:
            waited.set()
        return waited.is_set()

    task = new_task(timeout=1.5)
    storage.stage("batch", [task])
    storage.promote("batch", b"12345678")
    make(lambda attempt: attempt.call(Outcome, 200), ready=ready).step()
    assert waited.is_set()
    assert storage.admin.get(task.id).state == SUCCEEDED


def test_the_lease_is_renewed_during_the_wait(make, storage):
    """However long the database takes to arrive."""
    renewed = threading.Event()
    storage.renew = lambda lease, seconds: renewed.set() or True
    task = new_task()
    storage.stage("batch", [task])
    storage.promote("batch", b"12345678")
    make(ready=lambda tid: renewed.is_set(), lease=0.03).step()
    assert renewed.is_set()
    assert storage.admin.get(task.id).state == SUCCEEDED


def test_a_transaction_that_does_not_arrive_postpones_the_task(make, storage, monkeypatch):
    """At no cost for the task, not even of its only attempt."""
    monkeypatch.setattr(consumer_module, "BARRIER", 0.01)
    task = new_task(max_attempts=1)
    storage.stage("batch", [task])
    storage.promote("batch", b"12345678")
    make(lambda attempt: pytest.fail("run"), ready=lambda tid: False).step()
    status = storage.admin.get(task.id)
    assert status.state == SCHEDULED
    assert "did not arrive" in status.reason


def test_a_reason_that_cannot_be_encoded_is_stored_all_the_same():
    """A storage must not choke on half of a surrogate pair, again and again."""
    storage = LocalStorage(QueueSettings())
    storage.stage("batch", [new_task(id="a")])
    storage.promote("batch")
    bad = "no such file: \udcff"
    outcome = Outcome(500, bad, headers=(("X", bad),), error=bad)
    Consumer(storage, lambda attempt: outcome, ServerSettings()).step()
    status = storage.admin.get("a")
    for text in (status.reason, status.attempts[0].error, status.headers[0][1]):
        assert text.encode("utf-8").endswith(b"\\udcff")


def test_a_database_that_is_away_postpones_the_task(monkeypatch):
    """The barrier cannot tell; the task is neither run nor given up as poison."""
    monkeypatch.setattr(consumer_module, "BARRIER", 0.0)
    storage = LocalStorage(QueueSettings())
    storage.stage("batch", [new_task(id="a")])
    storage.promote("batch", b"\0" * 8)

    def away(tid):
        raise ConnectionError("away")

    consumer = Consumer(storage, lambda attempt: Outcome(200), ServerSettings(), ready=away)
    consumer.step()
    status = storage.admin.get("a")
    assert (status.state, status.attempts[0].status) == ("scheduled", None)


class Unspeakable(Exception):
    """Its text cannot be told."""

    def __str__(self):
        raise ValueError("no")


def test_an_exception_without_a_text(make, storage):
    def perform(attempt):
        raise Unspeakable

    task = add_one(storage)
    make(perform).step()
    status = storage.admin.get(task.id)
    assert status.state == FAILED
    assert status.reason == "Unspeakable: its text cannot be told: ValueError"


def test_a_storage_that_chokes_on_the_response(make, storage, quick):
    """What it cannot hold is left out; the state is what counts."""
    finish = LocalStorage.complete

    def choke(lease, transition):
        if transition.body:
            raise TypeError("cannot hold this")
        return finish(storage, lease, transition)

    storage.complete = choke
    task = add_one(storage)
    make(lambda attempt: Outcome(200, body=b"x")).step()
    status = storage.admin.get(task.id)
    assert (status.state, status.body, status.truncated) == (SUCCEEDED, b"", True)
