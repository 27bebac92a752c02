"""An attempt: what it reports, and what is cut when it is cancelled."""

from attempts import make_attempt
from attempts import Reports
from collective.taskqueue.consumer import attempt as module
from collective.taskqueue.consumer.response import MAX_REASON
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.task import Progress
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
import pytest
import threading
import time


@pytest.fixture
def storage():
    return Reports()


@pytest.fixture
def clock(monkeypatch):
    """The time as the attempt sees it."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock.now, sleep=time.sleep))
    return clock


# reports


def test_progress_is_stored_at_most_twice_a_second(storage, clock):
    attempt = make_attempt(storage)
    for done in range(100):
        attempt.report(done, None, "")
        clock.now += 1 / 64
    assert [progress.done for progress in storage.reports] == [0, 32, 64, 96]


def test_the_last_progress_is_stored_in_the_end(storage, clock):
    with make_attempt(storage) as attempt:
        attempt.report(1, 10, "one")
        attempt.report(2, 10, "two")
        assert len(storage.reports) == 1
    assert storage.reports[-1] == Progress(2, 10, "two", 1000.0)
    assert attempt.ended


def test_completion_is_stored_at_once(storage, clock):
    attempt = make_attempt(storage)
    attempt.report(1, 2, "")
    attempt.report(2, 2, "")
    assert [progress.done for progress in storage.reports] == [1, 2]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ((Decimal("0.5"), Fraction(3, 2), "half"), (0.5, 1.5, "half")),
        ((True, 2, 3), (1.0, 2.0, "3")),
        ((1, None, "a\n\tb\x00"), (1.0, None, "a b\ufffd")),
        ((1, None, "x" * 10_000_000), (1.0, None, "x" * MAX_REASON)),
    ],
)
def test_progress_is_what_every_storage_can_keep(storage, clock, given, stored):
    """Two numbers, and one line that fits into a list."""
    make_attempt(storage).report(*given)
    assert storage.reports == [Progress(*stored, clock.now)]
    assert all(isinstance(value, float) for value in stored[:2] if value is not None)


@pytest.mark.parametrize("given", [("half", None), (None, None), (1, "all"), (10**400, None)])
def test_progress_that_is_no_number_is_refused_in_the_view(storage, given):
    """The view gets the error, not the client that asks for the progress later."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        make_attempt(storage).report(*given, "")
    assert storage.reports == []


def test_a_clock_that_is_set_back_does_not_hold_reports_back(storage, clock):
    attempt = make_attempt(storage)
    attempt.report(1, None, "")
    clock.now -= 3600
    attempt.report(2, None, "")
    assert not attempt.cancelled()
    clock.now -= 3600
    storage.cancelled = True
    assert attempt.cancelled()
    assert [progress and progress.done for progress in storage.reports] == [1, 2, None]


def test_cancellation_is_asked_for_twice_a_second_until_it_is_known(storage, clock):
    attempt = make_attempt(storage)
    assert not attempt.cancelled()
    storage.cancelled = True
    assert not attempt.cancelled()
    clock.now += 0.5
    assert attempt.cancelled()
    storage.cancelled = False
    clock.now += 0.5
    assert attempt.cancelled()
    assert len(storage.reports) == 2


def test_progress_learns_of_cancellation_on_the_way(storage, clock):
    attempt = make_attempt(storage)
    storage.cancelled = True
    attempt.report(1, 10, "")
    assert attempt.cancelled()
    assert len(storage.reports) == 1


@pytest.mark.parametrize("failure", [StorageUnavailable("gone"), OSError("broken")])
def test_a_task_does_not_fail_for_want_of_an_audience(storage, caplog, failure):
    storage.failures = [failure, failure]
    with make_attempt(storage) as attempt:
        attempt.report(1, 1, "")
        assert not attempt.cancelled()
        attempt.report(1, None, "")
    assert f"task t1: progress not stored ({failure}), going on" in caplog.messages


# cutting


def test_a_wait_for_another_server_is_cut():
    attempt, cuts = make_attempt(), []
    with attempt.cut_by(lambda: cuts.append(threading.get_ident())):
        assert attempt.interrupt()
        assert attempt.interrupt()
        assert sum(range(100_000))  # nothing is raised in the thread that waits
    assert cuts == [threading.get_ident()] * 2
    assert not attempt.interrupt()
    assert len(cuts) == 2


def test_nothing_is_cut_after_a_failure():
    attempt, cuts = make_attempt(), []
    with pytest.raises(OSError, match="reset"), attempt.cut_by(lambda: cuts.append(1)):
        raise OSError("reset")
    assert not attempt.interrupt()
    assert cuts == []


def test_nothing_is_cut_unless_cancellation_was_asked_for(storage, clock):
    attempt, cuts = make_attempt(storage), []
    storage.cancelled = True
    attempt.cut_if_cancelled()
    assert storage.reports == []
    storage.cancelled = False
    with attempt.cut_by(lambda: cuts.append(1)):
        attempt.cut_if_cancelled()
        assert cuts == []
        storage.cancelled = True
        clock.now += module.REPORT_INTERVAL
        attempt.cut_if_cancelled()
        assert cuts == [1]


def test_an_outage_cuts_nothing(storage):
    attempt, cuts = make_attempt(storage), []
    storage.failures = [StorageUnavailable("gone")]
    with attempt.cut_by(lambda: cuts.append(1)):
        attempt.cut_if_cancelled()
    assert cuts == []
