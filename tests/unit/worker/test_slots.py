"""When a supervisor starts the next process after one has died."""

from collective.taskqueue.worker import slots
from collective.taskqueue.worker.slots import Slot
from types import SimpleNamespace
import pytest


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(slots.time, "monotonic", lambda: clock.now)
    return clock


def test_the_pause_grows_up_to_a_minute(clock):
    slot = Slot(1)
    pauses = [slot.buried(SimpleNamespace(started=clock.now)) for _ in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not slot.starts(clock.now + 59)
    assert slot.starts(clock.now + 60)


def test_a_long_life_ends_the_row(clock):
    slot = Slot(1)
    for _ in range(5):
        slot.buried(SimpleNamespace(started=clock.now))
    assert slot.buried(SimpleNamespace(started=clock.now - slots.LONG_LIFE)) == 1


def test_one_process_for_each_slot(clock):
    """Also while only the successor of a dead process is there, and not when all is done."""
    slot = Slot(1)
    assert slot.starts(clock.now)
    slot.successor = SimpleNamespace(loaded=False)
    assert not slot.starts(clock.now)
    slot.successor, slot.done = None, True
    assert not slot.starts(clock.now)
