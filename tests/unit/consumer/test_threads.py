"""The threads of a consumer: as many as may be, and they never die."""

from batchers import eventually
from collective.taskqueue.consumer import shutdown
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.errors import TaskTimeout
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import new_task
from consumers import messages
from consumers import started
import logging
import pytest
import threading


@pytest.mark.parametrize("limit", [1, 3])
def test_exactly_as_many_run_at_once_as_they_may(make, storage, told, limit):
    """C82, O10: limit 1 never overlaps, limit 3 has a peak of 3."""
    rendezvous = threading.Barrier(limit)
    running, peaks = [], []

    def perform(attempt):
        running.append(attempt)
        peaks.append(len(running))
        # No task goes on before `limit` tasks run at the same time.
        rendezvous.wait(BOUND)
        peaks.append(len(running))
        running.remove(attempt)
        return Outcome(200)

    add(storage, *(new_task() for _ in range(4 * limit)))
    with started(make(perform, concurrent_limit=limit)):
        told.wait_for(4 * limit)
    assert storage.admin.counts()[SUCCEEDED] == 4 * limit
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
    assert storage.admin.counts()[SUCCEEDED] == 20
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
    with started(make(maintenance=lambda: done.append(1))):
        told.wait_for(5)
    assert done == [1]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (TaskDecodeError("not a task"), "unexpected error, going on"),
        (OSError("broken"), "unexpected error, going on"),
        (SystemExit(1), "unexpected error, going on"),
    ],
)
def test_a_thread_survives_any_error_of_reserve(
    make, storage, told, quick, caplog, failure, message
):
    """One line for each failure, then the tasks are run."""
    storage.failures["reserve"] = [failure] * 3
    task = add_one(storage)
    with started(make()):
        told.wait_for(1)
    assert storage.admin.get(task.id).state == SUCCEEDED
    expected = f"consumer worker1 of queue default: {message}"
    assert messages(caplog) == [expected] * 3
    assert all(record.exc_info for record in caplog.records if record.message == expected)


def test_an_outage_is_said_when_it_begins_and_when_it_is_over(make, storage, told, quick, caplog):
    """N48: with any number of threads and failures; afterwards the tasks are run."""
    caplog.set_level(logging.INFO, "collective.taskqueue")
    storage.failures["reserve"] = [StorageUnavailable("gone") for _ in range(12)]
    task = add_one(storage)
    with started(make(concurrent_limit=4)):
        told.wait_for(1)
        eventually(lambda: not outage_of(storage).lasts())
    assert storage.admin.get(task.id).state == SUCCEEDED
    begun, over = [line for line in caplog.messages if line.startswith("queue default: storage")]
    assert begun == "queue default: storage unavailable (gone), trying again"
    assert over.startswith("queue default: storage available again after ")
    assert [record.levelno for record in caplog.records if record.levelno >= 30] == [logging.ERROR]


def test_a_consumer_that_stops_is_none_any_more(make, storage, told):
    add_one(storage)
    with started(make()):
        told.wait_for(1)
        assert [consumer.name for consumer in storage.admin.consumers()] == ["worker1"]
    assert storage.admin.consumers() == []


def test_a_thread_survives_any_error_of_maintenance(make, storage, told, quick, caplog):
    """The tasks do not suffer from it."""

    def maintenance():
        raise OSError("broken")

    tasks = add(storage, new_task(), new_task())
    with started(make(maintenance=maintenance)):
        told.wait_for(2)
    assert {storage.admin.get(task.id).state for task in tasks} == {SUCCEEDED}
    assert messages(caplog) == ["consumer worker1 of queue default: unexpected error, going on"]


def test_a_thread_lives_on_after_poisonous_tasks(make, storage, told, caplog):
    """D08: after a task that raises any of these errors, the thread runs the next one."""
    poisons = [ValueError("no"), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), TaskTimeout()]

    def perform(attempt):
        if poisons:
            raise poisons.pop()
        return Outcome(200)

    tasks = add(storage, *(new_task() for _ in range(6)))
    with started(make(perform)):
        told.wait_for(6)
    assert [storage.admin.get(task.id).state for task in tasks] == [FAILED] * 5 + [SUCCEEDED]


@pytest.mark.parametrize("failure", [StorageUnavailable("gone"), OSError("broken")])
def test_a_result_outlives_an_outage(make, storage, told, quick, caplog, failure):
    """It is stored as soon as that is possible, and the task is not run again."""
    performed = []

    def perform(attempt):
        performed.append(attempt.task.id)
        return Outcome(200)

    storage.failures["complete"] = [failure] * 3
    task = add_one(storage)
    with started(make(perform)):
        told.wait_for(1)
    assert performed == [task.id]
    assert storage.finishes == 4
    assert storage.admin.get(task.id).state == SUCCEEDED
    expected = f"task {task.id}: succeeded, but its storage failed ({failure}), trying again"
    # An outage is said once for the queue, and once what it means for this task.
    times = 1 if isinstance(failure, StorageUnavailable) else 3
    assert [line for line in messages(caplog) if line.startswith("task ")] == [expected] * times


def test_pauses_grow_up_to_a_limit():
    """O11: and are spread, so that consumers do not march in step."""
    pauses = [[shutdown.pause(errors) for _ in range(200)] for errors in (1, 2, 3, 100, 10**6)]
    for found, longest in zip(pauses, (0.2, 0.4, 0.8, 4.0, 4.0), strict=True):
        assert longest / 2 <= min(found) < max(found) <= longest


def test_without_a_thread_the_task_runs_all_the_same(make, storage, monkeypatch, caplog):
    """No limit and no thread to be had: others wait, nothing is lost nor called poison."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    task = add_one(storage)
    consumer = make(concurrent_limit=0)
    # The heartbeat has a thread of its own.
    consumer._heartbeat.begin = consumer._heartbeat.end = lambda watched: None
    monkeypatch.setattr(threading.Thread, "start", refuse)
    consumer.step()
    assert storage.admin.get(task.id).state == SUCCEEDED
    assert consumer._extra == set()
    assert "no thread can be started (can't start new thread)" in caplog.text
