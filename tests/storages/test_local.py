"""What only the local storage promises: it is this process's memory, and wakes for nothing."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue.fields import FIELDS
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import everything
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from contextlib import suppress
import pytest
import random
import threading
import time


class Watched(threading.Condition):
    """A condition that remembers the timeout of each wait."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self.waited = threading.Event()

    def wait(self, timeout=None):
        self.waits.append(timeout)
        self.waited.set()
        return super().wait(timeout)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def storage(clock):
    return LocalStorage(QueueSettings(), clock)


def test_an_idle_consumer_sleeps_without_a_limit(storage):
    """No polling: what waits for nothing wakes for nothing."""
    storage._changed = storage._memory.changed = Watched()
    blocked = aside(lambda: storage.reserve("consumer"))
    assert storage._changed.waited.wait(BOUND)
    assert storage._changed.waits == [None]
    storage.close()
    assert blocked.result(BOUND) == []
    assert storage._changed.waits == [None]


def test_a_consumer_sleeps_until_the_next_task_is_due(storage, clock):
    """It waits once, until the next due time; later tasks and a paused queue wake no consumer."""
    storage._changed = storage._memory.changed = Watched()
    add(storage, new_task(due=clock() + 500), new_task(due=clock() + 100))
    blocked = aside(lambda: storage.reserve("consumer"))
    assert storage._changed.waited.wait(BOUND)
    assert storage._changed.waits == [pytest.approx(100)]
    storage.admin.pause()
    storage.close()
    assert blocked.result(BOUND) == []
    storage._changed = storage._memory.changed = Watched()
    blocked = aside(lambda: storage.reserve("consumer"))
    assert storage._changed.waited.wait(BOUND)
    assert storage._changed.waits == [None]
    storage.close()
    assert blocked.result(BOUND) == []


class Late(Watched):
    """A condition whose wait for a moment is over just when it is notified."""

    def wait(self, timeout=None):
        began = time.monotonic()
        if timeout is None or timeout > 1:
            return super().wait(timeout)
        self.waits.append(timeout)
        self.waited.set()
        threading.Condition.wait(self)
        while time.monotonic() <= began + timeout:
            pass
        return False


def test_a_consumer_sleeps_until_a_record_is_to_be_forgotten(clock):
    """Retention runs by the clock; nothing else wakes for it, and nothing comes too late."""
    storage = LocalStorage(QueueSettings(keep_failed=100.0, keep_succeeded=50.0), clock)
    _, other = add(storage, new_task(), new_task(due=clock() + 1000))
    lease = take(storage)
    storage._changed = storage._memory.changed = Watched()
    blocked = aside(lambda: storage.reserve("consumer"))
    assert storage._changed.waited.wait(BOUND)
    storage._changed.waited.clear()
    storage.admin.cancel(other.id)
    assert storage._changed.waited.wait(BOUND)
    storage._changed.waited.clear()
    storage.complete(lease, completed(lease))
    assert storage._changed.waited.wait(BOUND)
    storage._changed.waited.clear()
    clock.advance(60)
    storage.wake()
    assert blocked.result(BOUND) == []
    assert list(storage._board.records) == [other.id]
    assert storage._changed.waits[1:] == [pytest.approx(100), pytest.approx(50)]


def test_many_records_are_forgotten_a_portion_at_a_time(clock):
    """In portions, so that no other thread waits long for the lock; lists show none of them."""
    storage = LocalStorage(QueueSettings(keep_failed=100.0), clock)
    for task in add(storage, *(new_task() for _ in range(1000))):
        storage.admin.cancel(task.id)
    clock.advance(200)
    before = len(storage._board.records)
    storage.reserve("consumer", timeout=0)
    assert 0 < len(storage._board.records) < before == 1000
    assert everything(storage) == []
    assert len(storage._board.records) == 0


def test_who_leaves_passes_the_notification_on(storage, clock):
    """It may have been for one who waits without a limit, and would sleep for ever."""
    storage._changed = Late()
    leaving = aside(lambda: storage.reserve("leaving", timeout=0.3))
    assert storage._changed.waited.wait(BOUND)
    storage._changed.waited.clear()
    staying = aside(lambda: storage.reserve("staying"))
    assert storage._changed.waited.wait(BOUND)
    storage._changed.waited.clear()
    add_one(storage, due=clock() + 100)
    assert leaving.result(BOUND) == []
    assert storage._changed.waited.wait(BOUND)
    assert storage._changed.waits[-1] == pytest.approx(100)
    clock.advance(200)
    storage.wake()
    assert len(staying.result(BOUND)) == 1


@pytest.mark.parametrize("seconds", [-1e6, 1e6])
def test_leases_do_not_follow_a_clock_that_is_set(clock, seconds):
    """NTP makes no lease expire, and none last longer."""
    storage = LocalStorage(QueueSettings(), clock, clock.monotonic)
    task = add_one(storage)
    lease = take(storage, lease=30.0)
    clock.step(seconds)
    assert storage.admin.recover() == []
    clock.advance(20)
    assert storage.renew(lease, 30.0) is True
    clock.step(-seconds)
    clock.advance(20)
    assert storage.admin.recover() == []
    clock.advance(20)
    assert storage.admin.recover() == [task.id]


@pytest.mark.parametrize("seconds", [-1e6, 1e6])
def test_batches_do_not_age_by_a_clock_that_is_set(clock, seconds):
    """Else one whose commit is on its way could be taken for lost."""
    storage = LocalStorage(QueueSettings(), clock, clock.monotonic)
    storage.stage("batch", [new_task()])
    clock.step(seconds)
    clock.advance(20)
    (batch,) = storage.admin.in_doubt()
    assert batch.age == 20


def test_a_page_of_one_user_does_not_cost_all_that_was_theirs(storage):
    """Only the line of the state is looked at."""

    class Counting(dict):
        looked = 0

        def __getitem__(self, key):
            self.looked += 1
            return super().__getitem__(key)

    jane = Identity("/acl_users", "jane")
    add(storage, *(new_task(user=jane) for _ in range(900)))
    take_all(storage)
    waiting = add_one(storage, user=jane)
    storage._board.records = Counting(storage._board.records)
    assert ids(storage.admin.tasks(QUEUED, "jane")) == [waiting.id]
    assert storage._board.records.looked < 10


def test_a_restart_loses_everything(storage):
    """C38: volatile by design, and a forked child is a new process."""
    add_one(storage)
    storage.stage("batch", [new_task()])
    storage.admin.pause()
    storage.after_fork()
    assert everything(storage) == []
    assert storage.admin.in_doubt() == []
    assert storage.admin.paused() is False
    task = add_one(storage)
    assert take_all(storage) == [task.id]


def test_ten_thousand_tasks_in_one_batch(storage):
    """C35: unbounded, and never slow."""
    tasks = add(storage, *(new_task() for _ in range(10_000)))
    assert storage.admin.counts()["queued"] == 10_000
    assert ids(lease.task for lease in storage.reserve("c", limit=10_000)) == ids(tasks)


def test_what_is_forgotten_leaves_nothing_behind(storage, clock):
    """Random calls for the tasks, in random order."""
    rng = random.Random(1)
    leases = []
    for _ in range(3000):
        happening = rng.choice(["add", "add", "reserve", "end", "end", "wait", "steer"])
        if happening == "add":
            add_one(
                storage,
                key=rng.choice([None, "a", "b"]),
                on_conflict=rng.choice(FIELDS["on_conflict"].choices),
                due=rng.choice([None, clock() + 20]),
                user=rng.choice([None, Identity("/acl_users", "jane")]),
            )
        elif happening == "reserve":
            leases += storage.reserve("consumer", limit=2, timeout=0)
        elif happening == "end" and leases:
            lease = leases.pop(rng.randrange(len(leases)))
            state = rng.choice([SUCCEEDED, FAILED, SCHEDULED])
            storage.complete(lease, completed(lease, state, due=clock() + 20))
        elif happening == "wait":
            clock.advance(rng.uniform(0, 20))
        elif happening == "steer":
            task_id = rng.choice(ids(storage.admin.tasks(size=1000)) or ["none"])
            with suppress(ForbiddenTransition, UnknownTask):
                getattr(storage.admin, rng.choice(["cancel", "retry", "remove", "run_now"]))(
                    task_id
                )
    counts = storage.admin.counts()
    assert all(counts.values())
    for status in storage.admin.tasks(RUNNING, size=1000):
        storage.admin.cancel(status.id)
    clock.advance(1000)
    storage.admin.recover()
    storage.admin.clear()
    for state in FINISHED:
        storage.admin.purge(state)
    assert everything(storage) == []
    board = vars(storage._board)
    containers = {name: value for name, value in board.items() if hasattr(value, "__len__")}
    containers |= vars(storage._board.lines)
    assert len(containers) >= 9
    del containers["_expiry"]
    # How much was done is remembered for an hour.
    assert len(containers.pop("ended")) <= 60
    assert {name: len(value) for name, value in containers.items() if len(value)} == {}


def test_a_consumer_that_sleeps_is_alive(storage, clock):
    """It need not wake up to say so."""
    blocked = aside(lambda: storage.reserve("sleeper", timeout=BOUND))
    assert is_blocked(blocked)
    clock.advance(10_000)
    assert [(consumer.name, consumer.age) for consumer in storage.admin.consumers()] == [
        ("sleeper", 0.0)
    ]
    storage.wake()
    assert blocked.result(BOUND) == []


def test_records_that_gave_way_take_no_memory(clock):
    """Their number is bounded, not only the time they are kept."""
    storage = LocalStorage(QueueSettings(max_finished=10), clock)
    for _ in range(5000):
        add_one(storage)
        lease = take(storage)
        storage.complete(lease, completed(lease))
    assert len(everything(storage)) == 10
    assert len(storage._board._expiry) < 500
    clock.advance(10_000)
    add_one(storage)
    lease = take(storage)
    storage.complete(lease, completed(lease))
    assert ids(everything(storage)) == [lease.task.id]
