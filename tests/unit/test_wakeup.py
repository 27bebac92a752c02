"""Who sleeps in a SQL queue, and who listens meanwhile."""

from collective.taskqueue.storages.sql.wakeup import Notifier
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from concurrent.futures import wait
from load import until
import pytest
import threading
import time


#: Seconds that are longer than any test waits.
LONG = 2 * BOUND


class Listener:
    """Looks each time it may, and tells of it."""

    def __init__(self):
        self.notifier = Notifier(self.listen)
        self.looks = 0
        self.changed = threading.Condition()
        self.ended = threading.Event()

    def listen(self, notifier):
        while not notifier.rest(0.0):
            with self.changed:
                self.looks += 1
                self.changed.notify_all()
        self.ended.set()

    def wait_for(self, looks):
        with self.changed:
            assert self.changed.wait_for(lambda: self.looks >= looks, BOUND)

    def is_still(self):
        """Whether it looks no more."""
        deadline = time.monotonic() + BOUND
        while time.monotonic() < deadline:
            before = self.looks
            if not self.ended.wait(0.05) and self.looks == before:
                return True
        return False


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.notifier.close()
    assert listener.looks == 0 or listener.ended.wait(BOUND)


def sleeping(notifier, seconds=LONG):
    changes, wakes = notifier.changes, notifier.wakes
    return aside(lambda: notifier.sleep(seconds, changes, wakes))


def test_the_listener_looks_only_while_a_thread_sleeps(listener):
    """It looks at once when a thread sleeps again; else that thread would be woken late."""
    for _ in range(3):
        first, second = sleeping(listener.notifier), sleeping(listener.notifier)
        # Who does not sleep yet when it rings returns, too.
        until(lambda: listener.notifier.sleepers == 2)
        listener.wait_for(listener.looks + 100)
        listener.notifier.ring()
        assert len(wait([first, second], BOUND, "FIRST_COMPLETED").done) == 1
        looks = listener.looks
        listener.wait_for(looks + 100)
        listener.notifier.wake()
        first.result(BOUND)
        second.result(BOUND)
        assert listener.is_still()


def test_who_sleeps_too_long_is_no_longer_waited_for(listener):
    sleeping(listener.notifier, 0.001).result(BOUND)
    assert listener.is_still()


def test_a_change_before_the_sleep_is_not_missed(listener):
    changes, wakes = listener.notifier.changes, listener.notifier.wakes
    listener.notifier.ring()
    aside(lambda: listener.notifier.sleep(LONG, changes, wakes)).result(BOUND)


def test_the_listener_ends_while_no_thread_sleeps(listener):
    sleeping(listener.notifier, 0.001).result(BOUND)
    assert listener.is_still()
    listener.notifier.close()
    assert listener.looks == 0 or listener.ended.is_set()


def test_the_listener_does_not_look_after_its_end(listener):
    listener.notifier.close()
    sleeping(listener.notifier, 0.001).result(BOUND)
    assert listener.looks == 0
