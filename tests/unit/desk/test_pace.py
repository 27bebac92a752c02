"""How many go together, and how many are brought ahead."""

from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.clerk import PATIENCE
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from desks import end
from desks import eventually
from desks import fill
from desks import hold_up
from desks import run
from desks import take
import pytest
import threading


def test_tasks_come_in_their_order_and_none_twice(make, storage, stored):
    """However many are brought at once."""
    tasks = fill(storage, 300)
    assert run(make(), 300) == tasks
    stored.wait_for(300)
    assert [task_id for task_id, _ in stored] == tasks
    assert {state for _, state in stored} == {SUCCEEDED}
    assert storage.admin.counts()[SUCCEEDED] == 300
    # One to begin with, then at most one for each.
    assert storage.reserves + len(storage.exchanges) <= 301


def test_ends_travel_together(make, storage, stored, patient):
    """What ends while the clerk is away goes with the next call; the others go on."""
    fill(storage, 200)
    desk = make()
    run(desk, 50)
    stored.wait_for(50)
    # The first end is on its way; the rest waits for it.
    hold_up(desk, storage)
    number = len(storage.exchanges)
    held = len(desk._hand)
    assert held > 3
    run(desk, 3)
    storage.let(go=True)
    stored.wait_for(54)
    assert storage.exchanges[number][0] == 3


def test_no_more_than_a_bounded_number_is_brought(make, storage, stored):
    """Neither ends nor leases: the storage serves others, too."""
    fill(storage, 500)
    desk = make()
    run(desk, 400)
    stored.wait_for(400)
    assert max(ends for ends, _ in storage.exchanges) <= storage.most
    assert max(limit for _, limit in storage.exchanges) <= storage.most


def test_an_end_waits_for_nothing(make, storage, stored):
    """Who is idle hands it in at once, whatever it is going to do next."""
    (task,) = fill(storage, 1)
    desk = make()
    end(desk, take(desk))
    stored.wait_for(1)
    assert stored == [(task, SUCCEEDED)]


def test_an_end_waits_for_company_while_there_is_more_to_begin(make, storage, stored, now):
    """A commit that lasts costs as much for one as for many; but nobody waits for long."""
    fill(storage, 100)
    desk = make()
    run(desk, 40)
    now[0] += 2 * storage.delay
    stored.wait_for(40)
    number = len(storage.exchanges)
    assert len(desk._hand) > 2
    end(desk, take(desk))
    # The clock of the desk stands still, but for this.
    now[0] += storage.delay / 2
    with desk._work:
        assert len(desk._ends) == 1
        assert not desk._is_pressing()
    now[0] += storage.delay
    stored.wait_for(41)
    assert storage.exchanges[number][0] == 1


def test_slow_tasks_are_not_reserved_ahead(make, storage, stored):
    """Another consumer would have had a hand free for them."""
    fill(storage, 10)
    desk = make()
    for number in range(1, 4):
        lease = take(desk)
        # As if it had taken long.
        desk._recent.clear()
        end(desk, lease)
        stored.wait_for(number)
    assert [limit for _, limit in storage.exchanges] == [1] * 3


def test_many_threads_share_a_desk(storage):
    """Each task is run once, and all ends are stored before the consumer has stopped."""
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


def test_what_came_late_has_not_waited(make, storage, stored, now):
    """A storage that takes long to answer: what it gave is begun, and not given back at once."""
    tasks = fill(storage, 3)
    desk = make()
    storage.check_end = lambda lease, transition: now.__setitem__(0, now[0] + 3 * PATIENCE)
    storage.release = lambda leases: pytest.fail("given back")
    assert run(desk, 3) == tasks
    now[0] += 2 * storage.delay
    stored.wait_for(3)
    # The first was reserved, the others came with the ends of those before.
    assert storage.reserves == 1


def test_what_is_brought_lasts_longer_than_ends_wait(make, storage, now):
    storage.delay = 1.0
    desk = make()
    for seconds, wanted in [(1.4, 20), (1.6, 1)]:
        with desk._work:
            desk._recent.clear()
            desk._recent.extend([now[0] - seconds] * 20)
            assert desk._wanted() == wanted


def test_a_slow_storage_does_not_make_tasks_slow(make, storage, stored, now):
    """How many are brought ahead follows from how long tasks take, not from how far it is."""
    fill(storage, 10)
    desk = make()
    lease = take(desk)
    for number in range(2):
        storage.let(go=False)
        end(desk, lease)
        waiting = aside(desk.take)
        eventually(lambda: desk._waiting)
        storage.wait_for(number + 1)
        now[0] += 1.0
        storage.let(go=True)
        (lease,) = waiting.result(BOUND)
    assert [limit for _, limit in storage.exchanges] == [1, 2]
