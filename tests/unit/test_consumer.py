"""The consumer: one step without threads, threads that never die, and how they stop."""

from collective.taskqueue import consumer as consumer_module
from collective.taskqueue import grace
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import Consumer
from collective.taskqueue.contract import ManualClock
from collective.taskqueue.contract.base import add
from collective.taskqueue.contract.base import add_one
from collective.taskqueue.contract.base import aside
from collective.taskqueue.contract.base import BOUND
from collective.taskqueue.contract.base import ids
from collective.taskqueue.contract.base import is_blocked
from collective.taskqueue.contract.base import new_task
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from contextlib import contextmanager
import logging
import pytest
import threading
import time


NAME = "collective.taskqueue"


class Storage(LocalStorage):
    """A local storage that fails as it is told, and counts how often it is asked."""

    def __init__(self, clock=time.time, **settings):
        super().__init__(QueueSettings(**settings), clock)
        #: Method name → exceptions to raise before it works again.
        self.failures = {}
        self.reserves = []
        self.finishes = 0
        self.asked = threading.Event()

    def reserve(self, *args, **more):
        self.reserves.append((args, more))
        self.asked.set()
        self.fail("reserve")
        return super().reserve(*args, **more)

    def finish(self, lease, transition):
        self.finishes += 1
        self.fail("finish")
        return super().finish(lease, transition)

    def fail(self, method):
        pending = self.failures.get(method)
        if pending:
            raise pending.pop(0)


class FarStorage(Storage):
    """The same, as if it were so far away that a consumer has a clerk."""

    nearby = False
    delay = 0.02

    def exchange(self, ends, consumer, limit=1, seconds=30.0):
        states = [self.finish(lease, transition) for lease, transition in ends]
        return states, LocalStorage.reserve(self, consumer, limit, 0, seconds)


class Told(list):
    """Remembers what the consumer tells, and who waits for it."""

    def __init__(self):
        super().__init__()
        self.changed = threading.Condition()

    def __call__(self, state, task_id):
        with self.changed:
            self.append((state, task_id))
            self.changed.notify_all()

    def wait_for(self, number):
        """Wait until as many tasks have ended."""

        def ended():
            return sum(state != RUNNING for state, _ in self) >= number

        with self.changed:
            assert self.changed.wait_for(ended, BOUND)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def told():
    return Told()


@pytest.fixture(params=[Storage, FarStorage])
def storage(request, clock):
    return request.param(clock)


@pytest.fixture
def quick(monkeypatch):
    """Pauses after errors are as short as they can be."""
    for module in (consumer_module, grace):
        monkeypatch.setattr(module, "pause", lambda errors: 0.001)


@pytest.fixture
def make(storage, clock, told):
    """Make a consumer that is not started."""

    def make(perform=lambda attempt: Outcome(200), **more):
        names = ("ready", "chores")
        arguments = {name: more.pop(name) for name in names if name in more}
        settings = ServerSettings(name="worker1", **more)
        return Consumer(storage, perform, settings, told, clock, **arguments)

    return make


@contextmanager
def started(consumer, grace=BOUND):
    consumer.start()
    try:
        yield consumer
    finally:
        consumer.stop(grace)
        clerk = getattr(consumer._busy_desk, "_clerk", None)
        threads = [*consumer._threads, *([clerk] if clerk else [])]
        for thread in threads:
            thread.join(BOUND)
        assert not any(thread.is_alive() for thread in threads)


def messages(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# one step


def test_a_step_without_a_task_does_nothing(make, storage, told):
    """It returns as soon as the timeout has passed."""
    assert make().step() == 0
    assert told == []


def test_a_step_runs_one_task(make, storage, told, clock):
    """Reserved, performed, finished, and told."""
    performed = []

    def perform(attempt):
        performed.append((attempt.task.id, attempt.number, attempt.retry_max_count))
        assert storage.get(attempt.task.id).state == RUNNING
        return Outcome(204, started=clock(), seconds=2.5, body=b"done")

    tasks = add(storage, new_task(), new_task())
    consumer = make(perform, retry_max_count=7, lease=45.0)
    assert consumer.step() == 1
    assert performed == [(tasks[0].id, 1, 7)]
    status = storage.get(tasks[0].id)
    assert (status.state, status.status, status.body) == (SUCCEEDED, 204, b"done")
    assert (status.consumer, status.elapsed) == ("worker1", 2.5)
    assert told == [(RUNNING, tasks[0].id), (SUCCEEDED, tasks[0].id)]
    assert ids(storage.tasks(QUEUED)) == [tasks[1].id]
    assert storage.reserves == [(("worker1",), {"limit": 1, "timeout": 0.0, "lease": 45.0})]


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
    assert storage.get(task.id).state == state
    assert told == [(RUNNING, task.id), (state, task.id)]


def test_the_schedule_follows_the_clock_of_the_consumer(make, storage, clock):
    """Not the one of the machine."""
    task = add_one(storage, max_attempts=3, min_backoff=10.0, max_backoff=10.0)
    consumer = make(lambda attempt: Outcome(503))
    for attempt in range(1, 4):
        assert consumer.step() == 1
        assert consumer.step() == 0
        assert len(storage.get(task.id).attempts) == attempt
        clock.advance(12)
    assert storage.get(task.id).state == FAILED
    assert consumer.step() == 0


@pytest.mark.parametrize(
    "failure", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), TaskTimeout("late")]
)
def test_what_perform_raises_ends_the_attempt(make, storage, failure, caplog):
    """D08: whatever it is, with a traceback in the record and in the log, once."""

    def perform(attempt):
        raise failure

    task = add_one(storage, max_attempts=2)
    assert make(perform).step() == 1
    status = storage.get(task.id)
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
    status = storage.get(old.id)
    assert (status.state, status.reason) == (FAILED, "older than its max_age of 100 s")


def test_a_task_that_a_person_retries_is_young_again(make, storage, clock):
    """However long ago it was added: it is dispatched, and tried again within its `max_age`."""
    task = add_one(storage, created=clock() - 1000, max_age=100.0, max_attempts=9, max_backoff=30.0)
    consumer = make(lambda attempt: Outcome(503))
    consumer.step()
    assert storage.get(task.id).attempts[-1].status is None
    storage.retry(task.id)
    consumer.step()
    status = storage.get(task.id)
    assert (status.state, status.attempts[-1].status) == (SCHEDULED, 503)
    clock.advance(101)
    consumer.step()
    assert storage.get(task.id).reason == "older than its max_age of 100 s"


def test_a_storage_that_does_not_tell_the_age(make, storage, clock, monkeypatch, caplog):
    """Then it counts from when the task was added, which is never too long."""

    def away(task_id):
        raise StorageUnavailable("gone")

    task = add_one(storage, created=clock(), max_age=100.0)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "get", away)
        make(lambda attempt: Outcome(200)).step()
    assert storage.get(task.id).state == SUCCEEDED
    assert f"task {task.id}: its history cannot be read (gone)" in caplog.text


def test_a_task_cancelled_while_it_runs_ends_as_cancelled(make, storage, told):
    """Whatever its outcome; that is what is told."""

    def perform(attempt):
        assert not attempt.cancelled()
        storage.cancel(attempt.task.id)
        return Outcome(200)

    task = add_one(storage)
    make(perform).step()
    assert storage.get(task.id).state == CANCELLED
    assert told[-1] == (CANCELLED, task.id)


def test_the_outcome_of_a_lost_lease_is_dropped(make, storage, clock, told, caplog):
    """Guarantee 2: with one line, and without telling a state it did not lead to."""

    def perform(attempt):
        clock.advance(3600)
        assert storage.recover() == [attempt.task.id]
        return Outcome(200)

    task = add_one(storage)
    make(perform).step()
    assert storage.get(task.id).state == QUEUED
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
    assert storage.get(task.id).state == SUCCEEDED


def test_a_task_without_a_transaction_waits_for_nothing(make, storage):
    """It was queued without one."""
    task = add_one(storage)
    make(ready=lambda tid: pytest.fail("asked")).step()
    assert storage.get(task.id).state == SUCCEEDED


def test_the_wait_does_not_count_against_the_timeout(make, storage):
    """A task that has not begun cannot have taken too long."""
    waited = threading.Event()
    begun = time.monotonic()

    def ready(tid):
        # Longer than the timeout of the task, by whatever the machine takes for it.
        if time.monotonic() - begun > 0.5:
            waited.set()
        return waited.is_set()

    task = new_task(timeout=0.1)
    storage.stage("batch", [task])
    storage.promote("batch", b"12345678")
    make(lambda attempt: attempt.call(Outcome, 200), ready=ready).step()
    assert waited.is_set()
    assert storage.get(task.id).state == SUCCEEDED


def test_the_lease_is_renewed_during_the_wait(make, storage):
    """However long the database takes to arrive."""
    renewed = threading.Event()
    storage.renew = lambda lease, seconds: renewed.set() or True
    task = new_task()
    storage.stage("batch", [task])
    storage.promote("batch", b"12345678")
    make(ready=lambda tid: renewed.is_set(), lease=0.03).step()
    assert renewed.is_set()
    assert storage.get(task.id).state == SUCCEEDED


def test_a_transaction_that_does_not_arrive_postpones_the_task(make, storage, monkeypatch):
    """At no cost for the task, not even of its only attempt."""
    monkeypatch.setattr(consumer_module, "BARRIER", 0.01)
    task = new_task(max_attempts=1)
    storage.stage("batch", [task])
    storage.promote("batch", b"12345678")
    make(lambda attempt: pytest.fail("run"), ready=lambda tid: False).step()
    status = storage.get(task.id)
    assert status.state == SCHEDULED
    assert "did not arrive" in status.reason


# threads


@pytest.mark.parametrize("limit", [1, 3])
def test_exactly_as_many_run_at_once_as_they_may(make, storage, told, limit):
    """C82, O10: limit 1 never overlaps, limit 3 has a peak of 3."""
    rendezvous = threading.Barrier(limit)
    running, peaks = [], []

    def perform(attempt):
        running.append(attempt)
        peaks.append(len(running))
        # Nobody passes before `limit` tasks run at the same time.
        rendezvous.wait(BOUND)
        peaks.append(len(running))
        running.remove(attempt)
        return Outcome(200)

    add(storage, *(new_task() for _ in range(4 * limit)))
    with started(make(perform, concurrent_limit=limit)):
        told.wait_for(4 * limit)
    assert storage.counts()[SUCCEEDED] == 4 * limit
    assert max(peaks) == limit


def test_without_a_limit_all_run_at_once(make, storage, told):
    """C82: 0 is as many as there are tasks."""
    rendezvous = threading.Barrier(20)

    def perform(attempt):
        rendezvous.wait(BOUND)
        return Outcome(200)

    add(storage, *(new_task() for _ in range(20)))
    consumer = make(perform, concurrent_limit=0)
    with started(consumer):
        told.wait_for(20)
    assert storage.counts()[SUCCEEDED] == 20
    for thread in list(consumer._extra):
        thread.join(BOUND)
    assert not consumer._extra


def test_an_idle_consumer_does_not_wake(make, storage):
    """O11: it asks the storage once, without a limit, and sleeps in there."""
    with started(make()):
        assert storage.asked.wait(BOUND)
        assert len(storage.reserves) == 1
        ((_, arguments),) = storage.reserves
        assert arguments["timeout"] is None
    assert len(storage.reserves) == 1


def test_chores_are_done_now_and_then(make, storage, told):
    """Between two tasks, not after each of them."""
    done = []
    add(storage, *(new_task() for _ in range(5)))
    with started(make(chores=lambda: done.append(1))):
        told.wait_for(5)
    assert done == [1]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (StorageUnavailable("gone"), "storage unavailable (gone), trying again"),
        (TaskDecodeError("not a task"), "unexpected error, going on"),
        (OSError("broken"), "unexpected error, going on"),
        (SystemExit(1), "unexpected error, going on"),
    ],
)
def test_a_thread_lives_on_whatever_reserve_raises(
    make, storage, told, quick, caplog, failure, message
):
    """N48: one line for each failure, then the tasks are run."""
    storage.failures["reserve"] = [failure] * 3
    task = add_one(storage)
    with started(make()):
        told.wait_for(1)
    assert storage.get(task.id).state == SUCCEEDED
    expected = f"consumer worker1 of queue default: {message}"
    assert messages(caplog) == [expected] * 3
    assert [bool(record.exc_info) for record in caplog.records if record.message == expected] == [
        not isinstance(failure, StorageUnavailable)
    ] * 3


def test_a_thread_lives_on_whatever_a_chore_raises(make, storage, told, quick, caplog):
    """The tasks do not suffer from it."""

    def chores():
        raise OSError("broken")

    tasks = add(storage, new_task(), new_task())
    with started(make(chores=chores)):
        told.wait_for(2)
    assert {storage.get(task.id).state for task in tasks} == {SUCCEEDED}
    assert messages(caplog) == ["consumer worker1 of queue default: unexpected error, going on"]


def test_a_thread_lives_on_after_poisonous_tasks(make, storage, told, caplog):
    """D08: whatever they raise, the next one is run."""
    poisons = [ValueError("no"), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), TaskTimeout()]

    def perform(attempt):
        if poisons:
            raise poisons.pop()
        return Outcome(200)

    tasks = add(storage, *(new_task() for _ in range(6)))
    with started(make(perform)):
        told.wait_for(6)
    assert [storage.get(task.id).state for task in tasks] == [FAILED] * 5 + [SUCCEEDED]


@pytest.mark.parametrize("failure", [StorageUnavailable("gone"), OSError("broken")])
def test_a_result_outlives_an_outage(make, storage, told, quick, caplog, failure):
    """It is stored as soon as that is possible, and the task is not run again."""
    performed = []

    def perform(attempt):
        performed.append(attempt.task.id)
        return Outcome(200)

    storage.failures["finish"] = [failure] * 3
    task = add_one(storage)
    with started(make(perform)):
        told.wait_for(1)
    assert performed == [task.id]
    assert storage.finishes == 4
    assert storage.get(task.id).state == SUCCEEDED
    expected = f"task {task.id}: succeeded, but its storage failed ({failure}), trying again"
    assert messages(caplog) == [expected] * 3


def test_pauses_grow_up_to_a_limit():
    """O11: and are spread, so that consumers do not march in step."""
    pauses = [[grace.pause(errors) for _ in range(200)] for errors in (1, 2, 3, 100, 10**6)]
    for found, longest in zip(pauses, (0.2, 0.4, 0.8, 4.0, 4.0), strict=True):
        assert longest / 2 <= min(found) < max(found) <= longest


# stopping


@pytest.mark.parametrize("method", ["reserve", "finish"])
def test_a_pause_is_interrupted_by_the_stop(make, storage, method, monkeypatch, caplog):
    """Nobody waits for a back-off, nor is it cut short; a result that is lost is said to be."""
    for module in (consumer_module, grace):
        monkeypatch.setattr(module, "pause", lambda errors: 10 * BOUND)
    failed = threading.Event()

    class Failures(list):
        def pop(self, index):
            failed.set()
            return super().pop(index)

    storage.failures[method] = Failures([StorageUnavailable("gone")] * 1000)
    task = add_one(storage)
    with started(make(), grace=0.2):
        assert failed.wait(BOUND)
    lost = f"task {task.id}: succeeded, but stopped before its storage knew; it will run again"
    assert (lost in caplog.messages) is (method == "finish")
    # A result has a last try when the grace period ends.
    assert storage.finishes == (2 if method == "finish" else 0)
    assert len(storage.reserves) == 1
    assert storage.get(task.id).state == (RUNNING if method == "finish" else QUEUED)


@pytest.fixture
def door():
    """Opened at the end, so that no thread stays behind it."""
    door = threading.Event()
    yield door
    door.set()


@pytest.fixture
def running():
    return threading.Event()


@pytest.fixture
def perform(door, running):
    """Runs until the door is open."""

    def perform(attempt):
        running.set()
        assert door.wait(BOUND)
        return Outcome(200)

    return perform


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_stop_drains(make, storage, door, running, perform, limit):
    """C89, H25, O19: what runs ends, what waits stays queued."""
    first = add_one(storage)
    consumer = make(perform, concurrent_limit=limit)
    consumer.start()
    assert running.wait(BOUND)
    storage.pause()
    second = add_one(storage)
    stopping = aside(consumer.stop)
    assert is_blocked(stopping)
    storage.resume()
    door.set()
    stopping.result(BOUND)
    assert storage.get(first.id).state == SUCCEEDED
    assert storage.get(second.id).state == QUEUED
    assert not any(thread.is_alive() for thread in [*consumer._threads, *consumer._extra])


def test_a_stop_waits_for_what_was_taken_at_the_last_moment(make, storage, door, perform, told):
    """Without a limit a thread for it may be started when the stop has already begun."""
    woken = threading.Semaphore(0)
    wake, reserve = storage.wake, storage.reserve
    storage.wake = lambda: (wake(), woken.release())

    def reserve_late(*args, **more):
        # The second time `stop` wakes it already waits for its threads.
        assert woken.acquire(timeout=BOUND)
        assert woken.acquire(timeout=BOUND)
        return reserve(*args, **{**more, "timeout": 0})

    storage.reserve = reserve_late
    task = add_one(storage)
    consumer = make(perform, concurrent_limit=0)
    consumer.start()
    stopping = aside(consumer.stop)
    assert is_blocked(stopping)
    with told.changed:
        assert told.changed.wait_for(lambda: (RUNNING, task.id) in told, BOUND)
    assert is_blocked(stopping)
    door.set()
    stopping.result(BOUND)
    assert storage.get(task.id).state == SUCCEEDED


def test_a_stuck_task_is_left_and_said_to_be(make, storage, running, perform, caplog):
    """After the grace period, with its lease: it may yet commit."""
    task = add_one(storage)
    consumer = make(perform, grace=0.05)
    consumer.start()
    assert running.wait(BOUND)
    aside(consumer.stop).result(BOUND)
    expected = f"task {task.id}: still running after the grace period, left unfinished"
    assert messages(caplog, logging.ERROR) == [expected]
    assert storage.get(task.id).state == RUNNING
    assert storage.recover() == []


def test_a_stopped_consumer_takes_nothing(make, storage):
    """Its threads are gone."""
    consumer = make(concurrent_limit=2)
    consumer.start()
    consumer.stop()
    task = add_one(storage)
    assert not any(thread.is_alive() for thread in consumer._threads)
    assert storage.get(task.id).state == QUEUED


def test_it_says_when_it_starts_and_stops(make, caplog):
    """One line each, with name and queue."""
    caplog.set_level(logging.INFO, NAME)
    consumer = make(concurrent_limit=0)
    consumer.start()
    consumer.stop()
    assert [m for m in caplog.messages if "worker1 of queue default: st" in m] == [
        "consumer worker1 of queue default: started, concurrent limit none",
        "consumer worker1 of queue default: stopping, 0 tasks running",
        "consumer worker1 of queue default: stopped",
    ]


def test_a_reason_that_cannot_be_encoded_is_stored_all_the_same():
    """A storage must not choke on half of a surrogate pair, again and again."""
    storage = LocalStorage(QueueSettings())
    storage.stage("batch", [new_task(id="a")])
    storage.promote("batch")
    bad = "no such file: \udcff"
    outcome = Outcome(500, bad, headers=(("X", bad),), error=bad)
    Consumer(storage, lambda attempt: outcome, ServerSettings()).step()
    status = storage.get("a")
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
    status = storage.get("a")
    assert (status.state, status.attempts[0].status) == ("scheduled", None)


def test_without_a_thread_the_task_runs_all_the_same(make, storage, monkeypatch, caplog):
    """No limit and no thread to be had: others wait, nothing is lost nor called poison."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    task = add_one(storage)
    consumer = make(concurrent_limit=0)
    # The keeper has a thread of its own.
    consumer._keeper.begin = consumer._keeper.end = lambda watched: None
    monkeypatch.setattr(threading.Thread, "start", refuse)
    consumer.step()
    assert storage.get(task.id).state == SUCCEEDED
    assert consumer._extra == set()
    assert "no thread can be had (can't start new thread)" in caplog.text


class Unspeakable(Exception):
    """Its text cannot be told."""

    def __str__(self):
        raise ValueError("no")


def test_an_exception_without_a_text(make, storage):
    def perform(attempt):
        raise Unspeakable

    task = add_one(storage)
    make(perform).step()
    status = storage.get(task.id)
    assert status.state == FAILED
    assert status.reason == "Unspeakable: its text cannot be told: ValueError"


def test_a_storage_that_chokes_on_the_response(make, storage, quick):
    """What it cannot hold is left out; the state is what counts."""
    finish = LocalStorage.finish

    def choke(lease, transition):
        if transition.body:
            raise TypeError("cannot hold this")
        return finish(storage, lease, transition)

    storage.finish = choke
    task = add_one(storage)
    make(lambda attempt: Outcome(200, body=b"x")).step()
    status = storage.get(task.id)
    assert (status.state, status.body, status.truncated) == (SUCCEEDED, b"", True)


def test_an_outage_while_it_stops_is_waited_for(make, storage, perform, running, door, quick):
    """As long as there is grace left: else the task would run again."""
    task = add_one(storage)
    storage.failures["finish"] = [StorageUnavailable("away")] * 5
    consumer = make(perform, grace=BOUND)
    consumer.start()
    assert running.wait(BOUND)
    stopping = aside(consumer.stop)
    assert consumer._grace.begun.wait(BOUND)
    door.set()
    stopping.result(BOUND)
    assert storage.get(task.id).state == SUCCEEDED


def test_a_stop_while_a_task_waits_for_its_transaction(make, storage):
    """It has not begun, so it goes back to where it stood, for somebody else."""
    waiting = threading.Event()

    def ready(tid):
        waiting.set()
        return False

    storage.stage("batch", [new_task(id="a")])
    storage.promote("batch", b"\0" * 8)
    with started(make(ready=ready)):
        assert waiting.wait(BOUND)
    add_one(storage)
    status = storage.get("a")
    assert (status.state, status.attempts) == (QUEUED, ())
    (lease,) = storage.reserve("other", timeout=0)
    assert (lease.task.id, lease.attempt) == ("a", 1)
