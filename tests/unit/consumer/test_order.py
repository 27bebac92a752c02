"""A consumer of several queues: tasks of an earlier queue begin first."""

from batchers import eventually
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import order as order_module
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.consumer.order import Order
from collective.taskqueue.task import Outcome
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import is_blocked
from collective.taskqueue.testing.contract.base import new_task
from consumers import FarStorage
from consumers import Storage
from contextlib import ExitStack
from threading import Condition
from threading import Event
import pytest


QUEUES = ("high", "normal", "low")


class Site:
    """Runs tasks of several queues, each when the test lets it go; remembers their order."""

    def __init__(self, kind, limit, queues=QUEUES):
        self.storages = {name: kind(queue=name) for name in queues}
        self.begun = []
        self._gates = {}
        self._changed = Condition()
        self.order = order = Order(limit)
        self.consumers = []
        for name, storage in self.storages.items():
            settings = ServerSettings(queue=name, concurrent_limit=limit)
            consumer = Consumer(storage, self._perform, settings)
            consumer.use_turn(order.add())
            self.consumers.append(consumer)

    def _perform(self, attempt):
        with self._changed:
            self.begun.append(attempt.task.url)
            gate = self._gates.setdefault(attempt.task.url, Event())
            self._changed.notify_all()
        assert gate.wait(BOUND)
        return Outcome(200)

    def add(self, queue, *urls):
        add(self.storages[queue], *(new_task(url=f"/{queue}/{url}") for url in urls))

    def let_go(self, *urls):
        with self._changed:
            for url in urls:
                self._gates.setdefault(url, Event()).set()

    def wait_for(self, *urls):
        """Wait until these tasks, and no others, have begun, in this order."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= len(urls), BOUND), self.begun
        assert self.begun == list(urls)

    def wait_until_reserved(self, rank):
        """Wait until a thread of this queue has a task, which waits for its turn."""
        eventually(lambda: not self.order._idle[rank])

    def start(self, stack):
        for consumer in self.consumers:
            consumer.start()
            stack.callback(consumer.stop, BOUND)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=[Storage, FarStorage])
def make(request, stack):
    """Make consumers of some queues with a limit, and start them."""

    def make(limit=1, start=True, **more):
        site = Site(request.param, limit, **more)
        # At the end, whatever still runs may end.
        stack.callback(lambda: site.let_go(*site.begun))
        if start:
            site.start(stack)
        return site

    return make


def test_earlier_queues_come_first(make):
    """Whatever waited longer, and with the order of each queue kept."""
    site = make(start=False)
    site.add("low", "1", "2")
    site.add("normal", "1")
    site.add("high", "1", "2")
    order = ["/high/1", "/high/2", "/normal/1", "/low/1", "/low/2"]
    site.let_go(*order)
    with ExitStack() as stack:
        site.start(stack)
        site.wait_for(*order)


def test_a_task_that_comes_later_overtakes(make):
    site = make()
    site.add("low", "1", "2")
    site.wait_for("/low/1")
    site.add("high", "1")
    site.wait_until_reserved(0)
    site.let_go("/low/1", "/high/1")
    site.wait_for("/low/1", "/high/1", "/low/2")
    site.let_go("/low/2")


def test_no_more_than_the_limit_run(make):
    """Of all queues together."""
    site = make(limit=2)
    site.add("low", "1", "2")
    with site._changed:
        assert site._changed.wait_for(lambda: len(site.begun) == 2, BOUND)
    site.add("high", "1", "2")
    site.wait_until_reserved(0)
    running = [len(consumer._heartbeat.running()) for consumer in site.consumers]
    assert running == [0, 0, 2]
    site.let_go("/low/1", "/high/1", "/high/2", "/low/2")
    with site._changed:
        assert site._changed.wait_for(lambda: len(site.begun) == 4, BOUND)
    assert sorted(site.begun[2:]) == ["/high/1", "/high/2"]


def test_a_reserved_task_does_not_wait_for_long(make, monkeypatch):
    """It goes back to its queue: another process may have a thread for it."""
    monkeypatch.setattr(order_module, "PATIENCE", 0.01)
    site = make()
    site.add("low", "1")
    site.wait_for("/low/1")
    high = site.storages["high"]
    release, released = high.release, []
    high.release = lambda leases: [released.extend(leases), release(leases)][1]
    site.add("high", "1")
    eventually(lambda: released)
    eventually(lambda: high.admin.counts()["queued"] == 1)
    site.let_go("/low/1", "/high/1")
    site.wait_for("/low/1", "/high/1")


def test_a_storage_that_is_unavailable_stops_no_other(make):
    site = make(start=False)

    def fail(*args, **more):
        raise ValueError("broken")

    site.storages["high"].reserve = fail
    site.add("low", "1")
    site.let_go("/low/1")
    with ExitStack() as stack:
        site.start(stack)
        site.wait_for("/low/1")


def test_an_earlier_queue_that_may_have_a_task(monkeypatch):
    """Its thread has just asked: a later queue waits for the answer."""
    monkeypatch.setattr(order_module, "SETTLED", BOUND)
    order = Order(1)
    high, low = order.add(), order.add()
    with high.idle():
        waiting = aside(lambda: low.wait(Event()))
        assert is_blocked(waiting)
    assert waiting.result(BOUND) is False
    monkeypatch.setattr(order_module, "SETTLED", 0.0)
    with high.idle():
        assert low.wait(Event())


def test_a_stop_ends_every_wait():
    order = Order(1)
    high, low = order.add(), order.add()
    assert high.begin(Event())
    stopping = Event()
    stopping.set()
    assert not low.wait(stopping)
    assert not low.begin(stopping)
    high.end()
    assert high.begin(stopping)
