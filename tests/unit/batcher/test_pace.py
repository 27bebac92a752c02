"""How many completions go together, and how many tasks are prefetched."""

from batchers import end
from batchers import fill
from batchers import run
from batchers import take
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.batcher import MOST
from collective.taskqueue.consumer.batcher import PATIENCE
from collective.taskqueue.consumer.batcher import WINDOW
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import BOUND
import pytest
import threading


def test_tasks_come_in_their_order_and_none_twice(make, storage, stored):
    """However many are prefetched."""
    tasks = fill(storage, 300)
    assert run(make(), 300) == tasks
    stored.wait_for(300)
    assert [task_id for task_id, _ in stored] == tasks
    assert {state for _, state in stored} == {SUCCEEDED}
    assert storage.admin.counts()[SUCCEEDED] == 300
    # One to begin with, then at most one for each.
    assert storage.reserves + len(storage.calls) <= 301


def test_completions_travel_together(make, storage, stored, patient):
    """What completes during a flush goes with the next one, and the threads go on meanwhile."""
    fill(storage, 200)
    batcher = make()
    run(batcher, 50)
    stored.wait_for(50)
    storage.let(go=False)
    number = len(storage.calls)
    end(batcher, take(batcher))
    if storage.in_process:
        # The background thread flushes, as no thread comes.
        storage.wait_for(number + 1)
    storage.wait_for(number + 1)
    run(batcher, 3)
    storage.let(go=True)
    stored.wait_for(54)
    assert storage.calls[number + 1][0] == 3


def test_one_call_is_bounded(make, storage, stored):
    """In completions and in leases: the storage serves others, too."""
    fill(storage, 500)
    batcher = make()
    run(batcher, 400)
    stored.wait_for(400)
    assert max(number for number, _ in storage.calls) <= storage.most
    assert max(limit for _, limit in storage.calls) <= storage.most


def test_a_lonely_completion_waits_for_nothing(make, storage, stored):
    """An idle consumer reports it at once, without a thread that comes for its next task."""
    (task,) = fill(storage, 1)
    batcher = make()
    end(batcher, take(batcher))
    stored.wait_for(1)
    assert stored == [(task, SUCCEEDED)]


def test_a_completion_waits_for_others_while_more_are_prefetched(make, storage, stored, now):
    """A durable commit costs as much for one as for many; but the wait is bounded."""
    fill(storage, 100)
    batcher = make()
    run(batcher, 40)
    now[0] += 3 * storage.delay
    batcher.wake()
    stored.wait_for(40)
    number = len(storage.calls)
    end(batcher, take(batcher))
    now[0] += storage.delay / 2
    batcher.wake()
    end(batcher, take(batcher))
    assert len(storage.calls) == number
    now[0] += 2 * storage.delay
    batcher.wake()
    stored.wait_for(42)
    assert storage.calls[number][0] == 2


def test_slow_tasks_are_not_prefetched(make, storage, stored):
    """Another consumer may have a free thread for them."""
    fill(storage, 10)
    batcher = make()
    run(batcher, 3, seconds=2 * WINDOW)
    stored.wait_for(3)
    assert {limit for _, limit in storage.calls} == {1}


@pytest.mark.parametrize(
    ("delay", "seconds", "threads", "ahead"),
    [
        (0.02, 0.01, 1, 9),
        (0.02, 0.01, 3, 29),
        (0.1, 0.01, 1, 14),
        (0.5, 0.01, 1, 74),
        (0.02, 0.06, 1, 0),
    ],
)
def test_as_many_are_prefetched_as_run_in_the_window(
    make, storage, stored, now, delay, seconds, threads, ahead
):
    """The window is longer than completions wait: then the threads never run dry."""
    storage.delay = delay
    fill(storage, 500)
    batcher = make(concurrent_limit=threads)
    for number in range(1, 5):
        leases = [take(batcher) for _ in range(threads)]
        for lease in leases:
            end(batcher, lease, seconds=seconds)
        run(batcher, 8 - threads, seconds=seconds)
        now[0] += 3 * delay
        batcher.wake()
        stored.wait_for(8 * number)
    # All threads are free: one for each, and those ahead.
    assert storage.admin.counts()[RUNNING] == pytest.approx(threads + ahead, abs=1)


def test_a_bounded_number_is_prefetched(make, storage, stored, now):
    """However fast they are."""
    fill(storage, 500)
    batcher = make()
    run(batcher, 100, seconds=0.0)
    now[0] += 3 * storage.delay
    batcher.wake()
    stored.wait_for(100)
    assert storage.admin.counts()[RUNNING] <= MOST


def test_one_fast_task_is_no_reason_to_prefetch_many(make, storage, stored):
    """Those that follow may be slow."""
    fill(storage, 100)
    batcher = make()
    for number in range(1, 5):
        run(batcher, 1, seconds=0.0)
        stored.wait_for(number)
    assert max(limit for _, limit in storage.calls) <= 4


def test_many_threads_share_a_batcher(storage):
    """Each task runs once, and all completions are stored before the consumer has stopped."""
    tasks = fill(storage, 500)
    lock = threading.Lock()
    performed = []
    done = threading.Event()

    def perform(attempt):
        with lock:
            performed.append(attempt.task.id)
            if len(performed) == len(tasks):
                done.set()
        return Outcome(200)

    consumer = Consumer(storage, perform, ServerSettings(concurrent_limit=4, grace=BOUND))
    consumer.start()
    assert done.wait(BOUND)
    consumer.stop()
    assert sorted(performed) == sorted(tasks)
    assert storage.admin.counts()[SUCCEEDED] == 500


def test_prefetched_late_is_not_released_at_once(make, storage, stored, now):
    """A storage that takes long to answer: its tasks begin, and are not released at once."""
    tasks = fill(storage, 3)
    batcher = make()
    later = lambda lease, transition: now.__setitem__(0, now[0] + 3 * PATIENCE)  # noqa: E731
    storage.check_completion = later
    storage.release = lambda leases: pytest.fail("released")
    assert run(batcher, 3) == tasks
    now[0] += 3 * storage.delay
    batcher.wake()
    stored.wait_for(3)
    # The first was reserved, the others came with the completions before them.
    assert storage.reserves == 1


def test_a_slow_storage_does_not_make_tasks_slow(make, storage, stored, now):
    """How many are prefetched follows from how long tasks take, not from the round trip."""
    fill(storage, 100)
    batcher = make()
    storage.check_completion = lambda *args: now.__setitem__(0, now[0] + 1.0)
    run(batcher, 20, seconds=0.001)
    assert max(limit for _, limit in storage.calls) > 8
