"""The desk of a consumer whose storage is far away: many ends and many leases at once."""

from collections import deque
from collective.taskqueue import clerk as clerk_room
from collective.taskqueue import desk as desk_room
from collective.taskqueue import grace as pauses
from collective.taskqueue.clerk import BusyDesk
from collective.taskqueue.clerk import Held
from collective.taskqueue.clerk import MOMENT
from collective.taskqueue.clerk import MOST
from collective.taskqueue.clerk import PATIENCE
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import Consumer
from collective.taskqueue.contract.base import add
from collective.taskqueue.contract.base import add_one
from collective.taskqueue.contract.base import aside
from collective.taskqueue.contract.base import BOUND
from collective.taskqueue.contract.base import ending
from collective.taskqueue.contract.base import ids
from collective.taskqueue.contract.base import is_blocked
from collective.taskqueue.contract.base import new_task
from collective.taskqueue.desk import Ending
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.grace import Grace
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
import pytest
import threading
import time


class FarStorage(LocalStorage):
    """Holds each exchange until it is let go, and fails as it is told."""

    nearby = False
    delay = 0.02

    def __init__(self, **settings):
        super().__init__(QueueSettings(**settings))
        self.failures = []
        #: The number of ends, and the limit, of each exchange.
        self.exchanges = []
        self.changed = threading.Condition()
        self.open = True
        self.reserves = 0

    def reserve(self, *args, **more):
        self.reserves += 1
        return super().reserve(*args, **more)

    def exchange(self, ends, consumer, limit=1, seconds=30.0):
        with self.changed:
            self.exchanges.append((len(ends), limit))
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.open, BOUND)
        if self.failures:
            raise self.failures.pop(0)
        for lease, transition in ends:
            self.check_end(lease, transition)
        states = [self.finish(lease, transition) for lease, transition in ends]
        return states, super().reserve(consumer, limit, 0, seconds) if limit else []

    def check_end(self, lease, transition):
        """Raise if the storage cannot hold that."""

    def finish(self, lease, transition):
        self.check_end(lease, transition)
        return super().finish(lease, transition)

    def let(self, go):
        with self.changed:
            self.open = go
            self.changed.notify_all()

    def wait_for(self, number):
        """Wait until as many exchanges have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.exchanges) >= number, BOUND)


class Stored(list):
    """What the desk has told, and who waits for it."""

    def __init__(self):
        self.changed = threading.Condition()

    def __call__(self, ending, state):
        with self.changed:
            self.append((ending.lease.task.id, state))
            self.changed.notify_all()

    def wait_for(self, number):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self) >= number, BOUND)


@pytest.fixture(params=[False, True], ids=["far", "nearby"])
def storage(request):
    storage = FarStorage()
    storage.nearby = request.param
    storage.delay = 0.1 if request.param else 0.02
    return storage


@pytest.fixture
def stored():
    return Stored()


@pytest.fixture
def quick(monkeypatch):
    """Pauses after errors are as short as they can be."""
    monkeypatch.setattr(pauses, "pause", lambda errors: 0.001)


@pytest.fixture
def make(storage, stored):
    """Make desks; they are closed at the end."""
    desks = []

    def make(**settings):
        desk = BusyDesk(storage, ServerSettings(**settings), Grace(), stored)
        desks.append(desk)
        return desk

    yield make
    storage.let(go=True)
    for desk in desks:
        desk._grace.begin(BOUND)
        desk.close()
        assert desk._clerk is None or not desk._clerk.is_alive()


def fill(storage, number):
    return ids(add(storage, *(new_task() for _ in range(number))))


def end(desk, lease, state=SUCCEEDED, release=lambda: None):
    desk.end(Ending(lease, ending(lease, state), release))


def take(desk):
    (lease,) = aside(desk.take).result(BOUND)
    return lease


def run(desk, number):
    """Take as many tasks and end them; return their ids."""
    order = []
    for _ in range(number):
        lease = take(desk)
        order.append(lease.task.id)
        end(desk, lease)
    return order


def hand_in(desk):
    """What has ended is on its way: with the clerk, or with a thread that goes by itself."""

    with desk._work:
        desk._first -= 2 * desk._delay
        desk._work.notify()
    if desk._nearby:
        aside(desk._go)


def older(held, seconds):
    return Held(held.lease, held.since - seconds, held.arrived - seconds)


def in_stream(make, storage, stored, **settings):
    """Return a desk that has tasks in hand, of a hundred that were there, and their ids."""
    tasks = fill(storage, 100)
    desk = make(**settings)
    run(desk, 40)
    stored.wait_for(40)
    return desk, tasks


def eventually(condition):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_tasks_come_in_their_order_and_none_twice(make, storage, stored):
    """However many are brought at once."""
    tasks = fill(storage, 300)
    assert run(make(), 300) == tasks
    stored.wait_for(300)
    assert [task_id for task_id, _ in stored] == tasks
    assert {state for _, state in stored} == {SUCCEEDED}
    assert storage.counts()[SUCCEEDED] == 300
    # One to begin with, then at most one for each.
    assert storage.reserves + len(storage.exchanges) <= 301


def test_ends_travel_together(make, storage, stored):
    """What ends while the clerk is away goes with the next exchange; the others go on."""
    fill(storage, 200)
    desk = make()
    run(desk, 50)
    stored.wait_for(50)
    # The first end is on its way; the rest waits for it.
    storage.let(go=False)
    number = len(storage.exchanges)
    lease = take(desk)
    end(desk, lease)
    hand_in(desk)
    storage.wait_for(number + 1)
    held = len(desk._hand)
    assert held > 3
    run(desk, 3)
    storage.let(go=True)
    stored.wait_for(54)
    assert storage.exchanges[number + 1][0] == 3


def test_no_more_than_a_bounded_number_is_brought(make, storage, stored):
    """Neither ends nor leases: the storage serves others, too."""
    fill(storage, 500)
    desk = make()
    run(desk, 400)
    stored.wait_for(400)
    assert max(ends for ends, _ in storage.exchanges) <= MOST
    assert max(limit for _, limit in storage.exchanges) <= MOST


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


def test_what_cannot_begin_is_given_back(make, storage, stored):
    """In its order, before all that waits, with nothing in its history."""
    desk, tasks = in_stream(make, storage, stored)
    slow = take(desk)
    assert slow.task.id == tasks[40]
    eventually(lambda: len(storage) == 59)
    assert ids(storage.tasks(QUEUED, size=100)) == tasks[41:]
    assert ids(storage.tasks(RUNNING)) == [slow.task.id]
    assert storage.get(tasks[41]).attempts == ()
    (lease,) = storage.reserve("other", timeout=0)
    assert (lease.task.id, lease.attempt) == (tasks[41], 1)


def test_it_is_given_back_in_time(make, storage, stored):
    """Not before somebody had time to take it, and not long after."""
    desk, _ = in_stream(make, storage, stored)
    storage.let(go=False)
    before = len(storage.exchanges)
    end(desk, take(desk))
    hand_in(desk)
    storage.wait_for(before + 1)
    with desk._work:
        assert not desk._is_late()
        desk._hand[0] = older(desk._hand[0], 2 * PATIENCE)
        assert desk._is_late()


def test_a_lease_that_may_be_over_is_not_begun(make, storage, stored):
    """The clerk was held up for so long: somebody else may have been given the task."""
    desk, _ = in_stream(make, storage, stored, lease=30.0)
    storage.let(go=False)
    number = len(storage.exchanges)
    end(desk, take(desk))
    hand_in(desk)
    storage.wait_for(number + 1)
    with desk._work:
        assert desk._hand
        desk._hand = deque(older(held, 11.0) for held in desk._hand)
    taken = aside(desk.take)
    storage.let(go=True)
    (lease,) = taken.result(BOUND)
    # Given back and reserved anew, by whoever was first.
    assert lease.expires > time.time() + 25.0
    assert lease.attempt == 1


def test_a_task_that_was_lost_before_begins_when_nothing_else_is_unsaid(make, storage, stored):
    """D35: if it takes down the process again, what has ended before it is stored."""
    first, second = new_task(), new_task()
    add(storage, first)
    storage.reserve("lost", timeout=0, lease=0.0)
    storage.recover()
    desk = make()
    suspect = storage.reserve("consumer", timeout=0)[0]
    assert suspect.attempt == 2
    add(storage, second)
    lease = take(desk)
    storage.let(go=False)
    end(desk, lease)
    storage.wait_for(1)
    with desk._work:
        desk._put_in_hand([suspect])
    taken = aside(desk.take)
    assert not taken.done()
    storage.let(go=True)
    (lease,) = taken.result(BOUND)
    assert lease == suspect
    assert stored == [(second.id, SUCCEEDED)]
    fill(storage, 5)
    with desk._work:
        desk._recent.extend([time.monotonic()] * 20)
        assert desk._wanted() == 0


@pytest.mark.parametrize("failures", [1, 3])
def test_an_outage_is_waited_out(make, storage, stored, quick, caplog, failures):
    """Nothing is taken meanwhile, and nothing is lost; each task is told of once."""
    tasks = fill(storage, 3)
    desk = make()
    storage.failures = [StorageUnavailable("gone")] * failures
    end(desk, take(desk))
    assert take(desk).task.id == tasks[1]
    assert stored == [(tasks[0], SUCCEEDED)]
    assert storage.exchanges == [(1, 1)] * (failures + 1)
    assert caplog.text.count("but its storage failed (gone), trying again") == failures


def test_one_end_that_cannot_be_stored_harms_no_other(make, storage, stored, quick, caplog):
    """Each is then handed in by itself, without what the storage cannot hold at last."""
    tasks = fill(storage, 6)
    desk = make(concurrent_limit=3)
    leases = [take(desk) for _ in range(3)]

    def choke(lease, transition):
        if lease.task.id == tasks[1] and not transition.truncated:
            raise TypeError("cannot hold this")

    storage.check_end = choke
    storage.let(go=False)
    for lease in leases:
        end(desk, lease)
    storage.let(go=True)
    stored.wait_for(3)
    assert sorted(stored) == sorted((task_id, SUCCEEDED) for task_id in tasks[:3])
    assert storage.get(tasks[1]).truncated
    assert not storage.get(tasks[2]).truncated


def test_who_waits_is_let_go_by_the_stop(make, storage, stored):
    """And what was brought for it goes back."""
    desk, _ = in_stream(make, storage, stored)
    storage.let(go=False)
    number = len(storage.exchanges)
    end(desk, take(desk))
    storage.wait_for(number + 1)
    run(desk, len(desk._hand))
    waiting = aside(desk.take)
    desk._grace.begin(BOUND)
    desk.wake()
    assert waiting.result(BOUND) == []
    storage.let(go=True)
    desk.close()
    counts = storage.counts()
    assert counts[RUNNING] == 0
    assert counts[SUCCEEDED] == len(stored)
    assert counts[QUEUED] + counts[SUCCEEDED] == 100


def test_a_stop_during_an_outage_says_what_will_run_again(make, storage, stored, quick, caplog):
    (task,) = fill(storage, 1)
    desk = make()
    storage.failures = [StorageUnavailable("gone")] * 10_000
    released = []
    end(desk, take(desk), release=lambda: released.append(True))
    desk._grace.begin(0.0)
    desk.close()
    eventually(lambda: released)
    message = f"task {task}: succeeded, but stopped before its storage knew; it will run again"
    assert message in caplog.text
    assert stored == []


def test_who_ends_after_the_stop_still_hands_in(make, storage, stored):
    """It ran longer than the grace period, and the process is still there."""
    (task,) = fill(storage, 1)
    desk = make()
    lease = take(desk)
    desk._grace.begin(0.0)
    desk.close()
    end(desk, lease, FAILED)
    assert stored == [(task, FAILED)]


def test_without_a_clerk_each_hands_in_by_itself(make, storage, stored, monkeypatch, caplog):
    """No thread can be had: slower, and nothing is lost."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    tasks = fill(storage, 3)
    desk = make()
    lease = desk.take()[0]
    monkeypatch.setattr(threading.Thread, "start", refuse)
    end(desk, lease)
    assert stored == [(tasks[0], SUCCEEDED)]
    assert f"task {tasks[0]}: no thread can be had" in caplog.text
    assert desk.take()[0].task.id == tasks[1]
    monkeypatch.undo()
    assert storage.exchanges == []


def test_a_clerk_lives_on_whatever_happens(make, storage, stored, caplog):
    """What it is called back with may be wrong."""
    tasks = fill(storage, 2)
    desk = make()

    def broken():
        raise ValueError("broken")

    end(desk, take(desk), release=broken)
    lease = take(desk)
    end(desk, lease)
    stored.wait_for(1)
    assert stored[-1] == (tasks[1], SUCCEEDED)
    assert "going on" in caplog.text


def test_what_cannot_be_given_back_is_said(make, storage, stored, caplog):
    """Its lease expires."""
    desk, _ = in_stream(make, storage, stored)

    def broken(leases):
        raise ValueError("broken")

    storage.give_back = broken
    take(desk)
    eventually(lambda: "not begun, not given back (broken), its lease expires" in caplog.text)


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
    assert storage.counts()[SUCCEEDED] == 500


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_stopped_consumer_keeps_nothing(storage, limit):
    """Whenever it is stopped: each task has ended or waits, as if nobody had looked at it."""
    tasks = fill(storage, 400)
    begun = threading.Event()
    performed = []

    def perform(attempt):
        performed.append(attempt.task.id)
        if len(performed) == 100:
            begun.set()
        return Outcome(200)

    settings = ServerSettings(concurrent_limit=limit, grace=BOUND)
    consumer = Consumer(storage, perform, settings)
    consumer.start()
    assert begun.wait(BOUND)
    consumer.stop()
    counts = storage.counts()
    assert counts[RUNNING] == 0
    assert counts[SUCCEEDED] == len(performed)
    assert counts[SUCCEEDED] + counts[QUEUED] == 400
    left = ids(storage.tasks(QUEUED, size=400))
    assert left == [task_id for task_id in tasks if task_id not in set(performed)]
    assert all(storage.get(task_id).attempts == () for task_id in left)
    add_one(storage)


@pytest.fixture
def now(monkeypatch):
    """The clock of the desk stands still: a list of one moment, which may be moved."""
    moment = [time.monotonic()]
    clock = SimpleNamespace(monotonic=lambda: moment[0], sleep=lambda seconds: None)
    monkeypatch.setattr(desk_room, "time", clock)
    monkeypatch.setattr(clerk_room, "time", clock)
    return moment


def test_what_came_late_has_not_waited(make, storage, stored, now):
    """A storage that takes long to answer: what it gave is begun, and not given back at once."""
    tasks = fill(storage, 3)
    desk = make()
    storage.check_end = lambda lease, transition: now.__setitem__(0, now[0] + 3 * PATIENCE)
    storage.give_back = lambda leases: pytest.fail("given back")
    assert run(desk, 3) == tasks
    now[0] += 2 * storage.delay
    stored.wait_for(3)
    # The first was reserved, the others came with the ends of those before.
    assert storage.reserves == 1


def test_a_thread_goes_by_itself_to_what_is_nearby(make, storage, stored, monkeypatch):
    """It does not wait for a clerk, who would compute in its stead."""
    monkeypatch.setattr(BusyDesk, "_run", lambda self: self._grace.begun.wait(BOUND))
    storage.nearby = True
    tasks = fill(storage, 30)
    desk = make()
    assert run(desk, 30) == tasks
    assert aside(partial(desk.take, 0)).result(BOUND) == []
    assert sorted(stored) == sorted((task_id, SUCCEEDED) for task_id in tasks)
    assert len(storage.exchanges) < 20
    desk._grace.begin(0)


def test_the_clerk_goes_if_nobody_comes(make, storage, stored, now):
    """It lets them have the time to: two that compute take the lock from each other."""
    storage.nearby = True
    tasks = fill(storage, 9)
    desk = make()
    assert run(desk, 9) == tasks
    with desk._work:
        assert desk._ends
        assert desk._is_pressing()
        assert desk._pause() == pytest.approx(2 * storage.delay)
        now[0] += 1.5 * storage.delay
        assert not desk._is_its_turn()
        now[0] += storage.delay
    stored.wait_for(9)


def test_the_clerk_goes_at_once_if_the_consumer_stops(make, storage, stored, now):
    storage.delay = 1000.0
    fill(storage, 1)
    desk = make(concurrent_limit=2)
    end(desk, take(desk))
    desk._grace.begin(BOUND)
    desk.wake()
    stored.wait_for(1)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_clerk_goes_for_a_thread_that_waits(make, storage, stored, now, threads):
    """For a task that was lost before: it does not begin while anything is unsaid."""
    (task,) = fill(storage, 1)
    storage.delay = 1000.0 if threads == 1 else PATIENCE / 2
    desk = make(concurrent_limit=threads)
    lease = take(desk)
    suspect = replace(lease, token="suspect", attempt=2, counted=0)
    with desk._work:
        desk._put_in_hand([suspect, suspect])
    rests = []
    desk._pause = lambda: rests.append(True) or 10 * BOUND
    end(desk, lease)
    # With the lock; it is let go when the clerk waits.
    eventually(lambda: rests)
    with desk._work:
        assert not desk._waiting
    waiting = aside(desk.take)
    if threads == 2:
        # The other one may still add something.
        eventually(lambda: desk._waiting)
        assert stored == []
        with desk._work:
            assert not desk._is_its_turn()
            now[0] += storage.delay
            assert desk._is_its_turn()
            desk._work.notify()
    assert waiting.result(BOUND) == [suspect]
    assert stored == [(task, SUCCEEDED)]


def test_what_is_brought_lasts_longer_than_ends_wait(make, storage, now):
    storage.delay = 1.0
    desk = make()
    for seconds, wanted in [(1.4, 20), (1.6, 1)]:
        with desk._work:
            desk._recent.clear()
            desk._recent.extend([now[0] - seconds] * 20)
            assert desk._wanted() == wanted


def test_threads_give_way_to_a_clerk_that_works(make, storage, stored, monkeypatch):
    """Else it waits for the interpreter's lock, as long as they compute."""
    fill(storage, 2)
    desk = make()
    with desk._work:
        desk._put_in_hand(storage.reserve("consumer", limit=2, timeout=0))
    slept: list[float] = []
    pauses = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr(clerk_room, "time", pauses)
    take(desk)
    assert slept == []
    desk._under_way = True
    take(desk)
    assert slept == [MOMENT]
    desk._under_way = False


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


def test_without_a_limit_nobody_waits_for_the_clerk(make, storage):
    """The clerk brings nothing then, and while many tasks run it is always away."""
    tasks = fill(storage, 2)
    desk = make(concurrent_limit=0)
    lease = take(desk)
    storage.let(go=False)
    end(desk, lease)
    storage.wait_for(1)
    assert take(desk).task.id == tasks[1]


def test_what_cannot_be_given_back_now_is_later(make, storage, stored, quick, monkeypatch):
    """No process was lost, so no attempt counts as lost, and the order stays."""
    desk, tasks = in_stream(make, storage, stored)
    failures = [StorageUnavailable("gone")] * 3
    give_back = storage.give_back

    def away(leases):
        if failures:
            raise failures.pop()
        return give_back(leases)

    storage.give_back = away
    take(desk)
    eventually(lambda: len(storage) == 59)
    assert not failures
    assert ids(storage.tasks(QUEUED, size=100)) == tasks[41:]


def test_it_is_tried_no_longer_than_the_leases_last(make, storage, stored, quick, now, caplog):
    """Then they have been given back by whoever came first, and the ends are more urgent."""
    fill(storage, 100)
    desk = make(lease=5.0)
    run(desk, 40)
    now[0] += 2 * storage.delay
    stored.wait_for(40)

    def away(leases):
        now[0] += 1.0
        raise StorageUnavailable("gone")

    storage.give_back = away
    slow = take(desk)
    now[0] += 2 * PATIENCE
    desk.wake()
    eventually(lambda: "not begun, not given back (gone), its lease expires" in caplog.text)
    end(desk, slow)
    now[0] += 2 * storage.delay
    stored.wait_for(41)


def test_one_end_that_can_never_be_stored_harms_no_other(make, storage, stored, quick):
    """Somebody else tries it again and again; the clerk goes on."""
    tasks = fill(storage, 6)
    desk = make(concurrent_limit=2)
    leases = [take(desk), take(desk)]
    broken = threading.Event()
    broken.set()

    def choke(lease, transition):
        if lease.task.id == tasks[0] and broken.is_set():
            raise TypeError("cannot hold this")

    storage.check_end = choke
    for lease in leases:
        end(desk, lease)
    stored.wait_for(1)
    assert stored == [(tasks[1], SUCCEEDED)]
    assert run(desk, 4) == tasks[2:]
    stored.wait_for(5)
    broken.clear()
    stored.wait_for(6)
    assert stored[-1] == (tasks[0], SUCCEEDED)


def test_an_end_that_is_lost_renews_no_lease(make, storage, stored, caplog):
    """Whatever strikes the clerk: then the task runs again, and is not held for ever."""
    tasks = fill(storage, 2)
    desk = make()
    released = []

    def struck(lease, transition):
        raise SystemExit

    storage.check_end = struck
    end(desk, take(desk), release=lambda: released.append(True))
    eventually(lambda: released)
    del storage.check_end
    assert run(desk, 1) == tasks[1:]
    stored.wait_for(1)


def test_a_clerk_that_died_is_replaced(make, storage, stored, monkeypatch):
    """Nobody should wait for one who does not come back."""
    tasks = fill(storage, 2)
    desk = make()
    run(desk, 1)
    stored.wait_for(1)
    clerk = desk._clerk
    with monkeypatch.context() as patch:
        # It is asleep; when it is woken it cannot even look around.
        patch.setattr(desk, "_is_late", lambda: 1 / 0)
        patch.setattr(threading, "excepthook", lambda args: None)
        desk.wake()
        clerk.join(BOUND)
        assert not clerk.is_alive()
    assert run(desk, 1) == tasks[1:]
    stored.wait_for(2)


def test_a_task_that_must_not_be_lost_is_not_held(make, storage, stored):
    """With one delivery only, what is held when the process dies would fail unseen."""
    storage.settings = QueueSettings(max_deliveries=1)
    in_stream(make, storage, stored)
    assert {limit for _, limit in storage.exchanges} == {1}


def test_a_suspect_from_the_storage_waits_as_well(make, storage, stored, monkeypatch):
    """D35: it makes no difference which of the threads it comes to, and how."""
    first, suspect = new_task(), new_task()
    monkeypatch.setattr(clerk_room, "_is_suspect", lambda lease: lease.task == suspect)
    add(storage, first)
    desk = make(concurrent_limit=2)
    lease = take(desk)
    waiting = aside(desk.take)
    eventually(lambda: storage._blocked["default"])
    storage.let(go=False)
    end(desk, lease)
    storage.wait_for(1)
    add(storage, suspect)
    assert waiting.result(BOUND) == []
    waiting = aside(desk.take)
    assert is_blocked(waiting)
    storage.let(go=True)
    # Given back and reserved again, if that took long.
    (lease,) = waiting.result(BOUND) or [take(desk)]
    assert lease.task == suspect
    assert stored == [(first.id, SUCCEEDED)]


def test_what_a_stop_gives_back_stays_in_its_order(make, storage, stored):
    """One waits for its transaction, others have been brought: they go back together."""
    desk, tasks = in_stream(make, storage, stored)
    with desk._work:
        desk._hand = deque(older(held, -1000.0) for held in desk._hand)
    lease = take(desk)
    assert desk._hand
    desk._grace.begin(BOUND)
    # As the consumer does that could not begin it; the clerk has not been woken yet.
    desk.drop(lease)
    desk.give_back([lease])
    desk.wake()
    desk.close()
    assert ids(storage.tasks(QUEUED, size=100)) == tasks[40:]
