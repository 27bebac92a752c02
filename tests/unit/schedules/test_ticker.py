"""One look at a schedule: its tasks are queued once, however many processes look."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.schedules.ticker import Entry
from collective.taskqueue.schedules.ticker import LOOK
from collective.taskqueue.schedules.ticker import MARGIN
from collective.taskqueue.schedules.ticker import PAUSE
from collective.taskqueue.schedules.ticker import TaskScheduleMissed
from collective.taskqueue.schedules.ticker import Ticker
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import QUEUED
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from threading import Event
import pytest
import zope.event


#: A whole hour.
NOW = 1_749_999_600.0


@pytest.fixture
def clock():
    return ManualClock(NOW + 1)


@pytest.fixture
def queue(clock):
    settings = QueueSettings()
    return TaskQueue(settings, LocalStorage(settings, clock, clock.monotonic))


@pytest.fixture
def missed():
    """The events about ticks without a task."""
    found = []

    def hear(event):
        if isinstance(event, TaskScheduleMissed):
            found.append(event)

    zope.event.subscribers.append(hear)
    yield found
    zope.event.subscribers.remove(hear)


@pytest.fixture
def entry(queue):
    """Return a process's view of a schedule; `made` has the ticks of its tasks."""

    def make(**fields):
        settings = ScheduleSettings(name="nightly", url="/", **{"period": 60.0, **fields})
        made = []

        def job(at):
            made.append(at)
            return new_task(description=f"{at:.0f}")

        entry = Entry(settings, queue, job)
        entry.made = made
        return entry

    return make


def queued(queue):
    return [float(status.task.description) for status in queue.tasks(QUEUED)]


def test_a_new_schedule_waits_for_its_next_tick(queue, entry, clock):
    assert entry().tick() == pytest.approx(59 + MARGIN)
    assert not queued(queue)
    clock.advance(59)
    process = entry()
    assert process.tick() == pytest.approx(LOOK)
    assert queued(queue) == process.made == [NOW + 60]


def test_a_look_once_a_minute_at_a_rare_schedule(entry):
    """Another process may have paused or resumed it."""
    assert entry(period=86400.0).tick() == LOOK


def test_of_two_processes_one_queues_the_task(queue, entry, clock, caplog):
    caplog.set_level("INFO", "collective.taskqueue")
    one, other = entry(), entry()
    one.tick()
    other.tick()
    for number in range(1, 4):
        clock.advance(60)
        for process in (one, other) if number % 2 else (other, one):
            process.tick()
        assert queued(queue) == [NOW + 60 * number]
        finish(queue)
    assert caplog.text.count("queued by schedule nightly") == 3


def finish(queue):
    while leases := queue.storage.reserve("consumer", timeout=0):
        queue.storage.complete(leases[0], completed(leases[0]))


@pytest.mark.parametrize(
    ("overlap", "numbers"), [("skip", [1]), ("queue", [1, 2, 3]), ("parallel", [1, 2, 3])]
)
def test_the_last_task_has_not_ended(queue, entry, clock, overlap, numbers, caplog, missed):
    """The key of the tasks is made by `job`; without one, each is queued."""
    process = entry(overlap=overlap)
    process.tick()
    for number in range(3):
        clock.advance(60)
        process.tick()
        if not number:
            take(queue.storage)
    ticks = [run.tick for run in queue.storage.admin.schedule("nightly").runs]
    assert ticks == [NOW + 60 * number for number in reversed(numbers)]
    assert queue.storage.admin.schedule("nightly").last == NOW + 180
    skipped = overlap == "skip"
    assert caplog.text.count("the task of the last tick has not ended") == 2 * skipped
    assert [event.number for event in missed] == [1, 1] * skipped


def test_it_goes_on_when_the_last_task_has_ended(queue, entry, clock):
    process = entry()
    process.tick()
    for _ in range(3):
        clock.advance(60)
        process.tick()
        finish(queue)
    assert len(queue.storage.admin.schedule("nightly").runs) == 3


def test_the_record_of_the_last_task_is_not_kept(queue, entry, clock):
    process = entry()
    process.tick()
    clock.advance(60)
    process.tick()
    finish(queue)
    queue.purge("succeeded")
    clock.advance(60)
    process.tick()
    assert queued(queue) == [NOW + 120]


def test_a_paused_schedule(queue, entry, clock):
    process = entry()
    process.tick()
    queue.storage.admin.pause_schedule("nightly")
    clock.advance(600)
    assert process.tick() <= LOOK
    queue.storage.admin.resume_schedule("nightly")
    process.tick()
    assert not queued(queue)
    clock.advance(60)
    process.tick()
    assert len(queued(queue)) == 1


def test_after_a_downtime(queue, entry, clock, caplog, missed):
    process = entry()
    process.tick()
    clock.advance(3600)
    process.tick()
    assert queued(queue) == [NOW + 3600]
    assert "schedule nightly: 59 ticks without a task, no process was there in time" in caplog.text
    (event,) = missed
    assert (event.schedule, event.queue, event.number) == ("nightly", "default", 59)


def test_all_ticks_of_a_downtime(queue, entry, clock):
    process = entry(catch_up="all", overlap="parallel")
    process.tick()
    clock.advance(600)
    process.tick()
    assert queued(queue) == [NOW + 60 * number for number in range(1, 11)]


def test_a_storage_that_is_unavailable(queue, entry, clock, monkeypatch):
    """It is looked at again soon, and what was due is made up for."""
    process = entry()
    ticker = Ticker([process])
    ticker.step()
    clock.advance(60)
    monkeypatch.setattr(queue.storage.admin, "schedule", unavailable)
    assert ticker.step() == PAUSE
    monkeypatch.undo()
    clock.advance(PAUSE)
    ticker.step()
    assert queued(queue) == [NOW + 60]


def unavailable(*args):
    raise StorageUnavailable("no route")


def test_a_task_that_cannot_be_made(queue, entry, clock, caplog):
    """It does not stop other schedules, and is tried again: the tick is not lost."""
    broken, sound = entry(), entry()
    broken.settings = ScheduleSettings(name="broken", url="/", period=60.0)
    ticker = Ticker([broken, sound])
    ticker.step()
    clock.advance(60)
    make, broken._make = broken._make, unavailable_database
    assert ticker.step() == PAUSE
    assert queued(queue) == [NOW + 60]
    assert "schedule broken: its task cannot be queued, trying again" in caplog.text
    broken._make = make
    ticker.step()
    assert queued(queue) == [NOW + 60, NOW + 60]


def unavailable_database(at):
    raise OSError("the database is unavailable")


def test_the_thread_ends(queue, entry):
    looked = Event()
    process = entry()
    tick = process.tick

    def observed():
        looked.set()
        return tick()

    process.tick = observed
    ticker = Ticker([process])
    ticker.start()
    assert looked.wait(30)
    ticker.begin_stop()
    ticker.end_stop()
    assert not ticker._thread.is_alive()
