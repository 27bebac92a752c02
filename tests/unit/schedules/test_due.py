"""Which ticks are due, and which of them get a task."""

from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.config.timing import Cron
from collective.taskqueue.config.timing import Period
from collective.taskqueue.schedules.due import Due
from collective.taskqueue.schedules.due import due
from collective.taskqueue.schedules.due import LATE
from collective.taskqueue.schedules.due import MOST
import pytest


#: A whole hour.
NOW = 1_749_999_600.0
HOURLY = Cron("@hourly")
HOUR = 3600.0
CATCH_UPS = ["none", "latest", "all"]


def settings(**fields):
    return ScheduleSettings(name="nightly", **fields)


@pytest.mark.parametrize("catch_up", CATCH_UPS)
def test_a_new_schedule_begins_now(catch_up):
    """What would have been due before it was configured is not made up for."""
    assert due(settings(catch_up=catch_up), HOURLY, None, NOW + 1) == Due(noted=NOW)


@pytest.mark.parametrize("catch_up", CATCH_UPS)
def test_nothing_is_due_before_the_next_tick(catch_up):
    assert due(settings(catch_up=catch_up), HOURLY, NOW, NOW + HOUR - 0.001) == Due()


@pytest.mark.parametrize("catch_up", CATCH_UPS)
@pytest.mark.parametrize("late", [0.0, 0.01, LATE])
def test_a_tick_in_time(catch_up, late):
    found = due(settings(catch_up=catch_up, misfire=0.0), HOURLY, NOW - HOUR, NOW + late)
    assert found == Due((NOW,))


@pytest.mark.parametrize("catch_up", CATCH_UPS)
def test_a_last_tick_in_the_future(catch_up):
    """The clock of the storage was set back."""
    assert due(settings(catch_up=catch_up), HOURLY, NOW + 10 * HOUR, NOW) == Due()


DOWN_FOR_A_DAY = [
    ("none", HOUR, Due(noted=NOW, missed=24)),
    ("latest", HOUR, Due((NOW,), missed=23)),
    # The latest is older than that.
    ("latest", 60.0, Due(noted=NOW, missed=24)),
    ("all", 2.4 * HOUR, Due((NOW - HOUR, NOW), missed=22)),
    ("all", 100 * HOUR, Due(tuple(NOW - number * HOUR for number in range(23, -1, -1)))),
    ("all", 60.0, Due(noted=NOW, missed=24)),
]


@pytest.mark.parametrize(("catch_up", "misfire", "expected"), DOWN_FOR_A_DAY)
def test_after_a_day_without_a_process(catch_up, misfire, expected):
    now = NOW + 1800
    found = due(settings(catch_up=catch_up, misfire=misfire), HOURLY, NOW - 24 * HOUR, now)
    assert found == expected


@pytest.mark.parametrize("catch_up", CATCH_UPS)
def test_more_were_missed_than_are_looked_at(catch_up):
    """A day of a tick each second: the cost is bounded, and none of the last hour is left out."""
    last, now, each = NOW - 24 * HOUR, NOW + 0.5, Period(1.0)
    found = due(settings(catch_up=catch_up), each, last, now)
    assert found.missed == MOST
    if catch_up == "all":
        seen = []
        while found.runs or found.noted:
            seen += found.runs
            last = (found.runs or (found.noted,))[-1]
            found = due(settings(catch_up=catch_up), each, last, now)
        assert seen == [NOW - 3599 + number for number in range(3600)]
    else:
        assert found.runs == (NOW,)
