"""The outage of a storage is said when it begins, once a minute, and when it is over."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.storages.outage import Outage
from collective.taskqueue.storages.outage import outage_of
import logging
import pytest
import threading
import types


BEGUN = "queue q: storage unavailable (gone), trying again"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outage(clock, caplog):
    caplog.set_level(logging.INFO, "collective.taskqueue")
    return Outage("q", clock)


def fail(outage):
    with pytest.raises(StorageUnavailable):
        outage.call(raise_gone)


def raise_gone():
    raise StorageUnavailable("gone")


def test_forty_five_seconds(outage, clock, caplog):
    """One error and one line at the end, however many calls have failed."""
    for _ in range(450):
        fail(outage)
        clock.advance(0.1)
    assert outage.call(int, "7") == 7
    outage.call(int)
    assert caplog.messages == [BEGUN, "queue q: storage available again after 45 s"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.INFO]


def test_three_minutes(outage, clock, caplog):
    """A line a minute says that it lasts."""
    for _ in range(1850):
        fail(outage)
        clock.advance(0.1)
    lasting = [
        f"queue q: storage unavailable for {seconds} s (gone), trying again"
        for seconds in (60, 120, 180)
    ]
    assert caplog.messages == [BEGUN, *lasting]
    assert {record.levelno for record in caplog.records[1:]} == {logging.WARNING}


def test_a_call_that_was_on_its_way_proves_nothing(outage, clock, caplog):
    """Its answer came before the server was away."""

    def answered_before():
        clock.advance(1)
        fail(outage)
        clock.advance(1)

    outage.call(answered_before)
    assert outage.lasts()
    fail(outage)
    assert caplog.messages == [BEGUN]


def test_a_connection_that_was_not_used_fails_once_more(outage, clock, caplog):
    """It is part of the same outage; one that lasts is another."""
    fail(outage)
    clock.advance(10)
    outage.call(int)
    clock.advance(1)
    fail(outage)
    clock.advance(1)
    outage.call(int)
    assert caplog.messages == [BEGUN, "queue q: storage available again after 10 s"]
    clock.advance(1)
    for _ in range(100):
        clock.advance(0.1)
        fail(outage)
    assert caplog.messages[2:] == [BEGUN]


def test_the_next_outage(outage, clock, caplog):
    for _ in range(2):
        fail(outage)
        clock.advance(7)
        outage.call(int)
        clock.advance(60)
    assert caplog.messages == [BEGUN, "queue q: storage available again after 7 s"] * 2


def test_other_errors_are_no_outage(outage, caplog):
    with pytest.raises(ValueError, match="invalid literal"):
        outage.call(int, "seven")
    assert not outage.lasts()
    assert caplog.messages == []


def test_many_threads_log_once(outage, clock, caplog):
    threads = [threading.Thread(target=fail, args=(outage,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert caplog.messages == [BEGUN]


def test_one_for_each_storage():
    """All callers share it; a storage that cannot be remembered has one, too."""
    one, two = LocalStorage(QueueSettings(queue="q")), LocalStorage(QueueSettings(queue="q"))
    assert outage_of(one) is outage_of(one)
    assert outage_of(one) is not outage_of(two)
    assert outage_of(types.SimpleNamespace()).call(int) == 0
