"""The ticks of cron expressions and of periods, with the two nights of the year."""

from collective.taskqueue.config.timing import Cron
from collective.taskqueue.config.timing import Period
from collective.taskqueue.config.timing import SHORT
from datetime import datetime
from datetime import timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo
import pytest


BERLIN = "Europe/Berlin"

#: Expression, time zone, a time, and the ticks after it.
NIGHTS = """
# At 2:30 is no 2:30 in spring; in autumn there are two.
30 2 * * *      | BERLIN    | 2026-03-28_03:00+01:00 | 2026-03-29_03:00+02:00 2026-03-30_02:30+02:00
30 2 * * *      | BERLIN    | 2026-10-24_03:00+02:00 | 2026-10-25_02:30+02:00 2026-10-26_02:30+01:00
30 2 * * *      | NEW_YORK  | 2026-03-07_03:00-05:00 | 2026-03-08_03:00-04:00 2026-03-09_02:30-04:00
30 1 * * *      | NEW_YORK  | 2026-10-31_03:00-04:00 | 2026-11-01_01:30-04:00 2026-11-02_01:30-05:00
# Half an hour is left out, and is repeated.
15 2 * * *      | LORD_HOWE | 2026-10-03_03:00+10:30 | 2026-10-04_02:30+11:00 2026-10-05_02:15+11:00
45 1 * * *      | LORD_HOWE | 2026-04-04_03:00+11:00 | 2026-04-05_01:45+11:00 2026-04-06_01:45+10:30
# In the repeated hour both times, in the one that is left out not at all.
*/30 * * * *    | BERLIN    | 2026-10-25_02:15+02:00 | 2026-10-25_02:30+02:00 2026-10-25_02:00+01:00
*/30 * * * *    | BERLIN    | 2026-10-25_02:15+01:00 | 2026-10-25_02:30+01:00 2026-10-25_03:00+01:00
*/30 * * * *    | BERLIN    | 2026-03-29_01:15+01:00 | 2026-03-29_01:30+01:00 2026-03-29_03:00+02:00
# No summer time.
30 2 * * *      | KOLKATA   | 2026-03-28_03:00+05:30 | 2026-03-29_02:30+05:30 2026-03-30_02:30+05:30
30 2 * * *      | UTC       | 2026-10-24_03:00+00:00 | 2026-10-25_02:30+00:00 2026-10-26_02:30+00:00
# Leap days, and the last day of a month.
0 12 29 2 *     | UTC       | 2026-01-01_00:00+00:00 | 2028-02-29_12:00+00:00 2032-02-29_12:00+00:00
0 12 L * *      | UTC       | 2027-01-31_13:00+00:00 | 2027-02-28_12:00+00:00 2027-03-31_12:00+00:00
# Names.
0 9 * * mon-fri | BERLIN    | 2026-11-27_10:00+01:00 | 2026-11-30_09:00+01:00 2026-12-01_09:00+01:00
@daily          | BERLIN    | 2026-11-27_10:00+01:00 | 2026-11-28_00:00+01:00 2026-11-29_00:00+01:00
"""

ZONES = {
    "BERLIN": "Europe/Berlin",
    "NEW_YORK": "America/New_York",
    "LORD_HOWE": "Australia/Lord_Howe",
    "KOLKATA": "Asia/Kolkata",
    "UTC": "UTC",
}

#: Each has the nights of all zones in it.
WINDOWS = [("2026-03-01", "2026-04-10"), ("2026-09-25", "2026-11-05")]


def rows():
    lines = [line for line in NIGHTS.splitlines() if line and not line.startswith("#")]
    return [tuple(part.strip() for part in line.split("|")) for line in lines]


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(("expression", "name", "after", "ticks"), rows())
def test_ticks(expression, name, after, ticks):
    timezone = ZONES[name]
    cron, moment = Cron(expression, timezone), seconds(after)
    for tick in ticks.split():
        following = cron.next(moment)
        shown = datetime.fromtimestamp(following, ZoneInfo(timezone))
        assert shown.isoformat("_", timespec="minutes") == tick
        # From both sides: the last tick before the next one is that before it.
        assert cron.latest(following) == following
        assert cron.latest(following - 0.001) < following
        assert cron.latest(following + 59.9) == following
        moment = following


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("timezone", ZONES.values())
@pytest.mark.parametrize("expression", ["30 2 * * *", "@hourly", "5,35 1-3 * * *"])
def test_forwards_and_backwards_are_the_same_ticks(expression, timezone, window):
    cron = Cron(expression, timezone)
    now, end = (seconds(f"{day}_00:00+00:00") for day in window)
    forwards = []
    while (now := cron.next(now)) < end:
        forwards.append(now)
    backwards = []
    now = end - 1
    while (now := cron.latest(now)) >= forwards[0]:
        backwards.append(now)
        now -= 0.5
    assert backwards[::-1] == forwards
    assert all(later > earlier for earlier, later in pairwise(forwards))


def test_once_in_each_night_of_a_year():
    cron = Cron("30 2 * * *", BERLIN)
    moment = seconds("2026-01-01_00:00+01:00")
    days = []
    for _ in range(365):
        moment = cron.next(moment)
        days.append(datetime.fromtimestamp(moment, ZoneInfo(BERLIN)).date())
    assert all(later - earlier == timedelta(days=1) for earlier, later in pairwise(days))


WRONG = [
    ("@reboot", "UTC", "@reboot is no time"),
    ("@never", "UTC", "@never is not known; known are @yearly"),
    ("* * * *", "UTC", "has five fields .* not 4"),
    ("0 * * * * *", "UTC", "has five fields .* not 6"),
    ("", "UTC", "has five fields .* not 0"),
    ("61 * * * *", "UTC", "'61 \\* \\* \\* \\*' is no cron expression"),
    ("0 0 30 2 *", "UTC", "is no cron expression"),
    ("0 0 31 4 *", "UTC", "is no cron expression|is never due"),
    ("0 0 * * *", "Europe/Berln", "no time zone 'Europe/Berln' .do you mean Europe/Berlin"),
    ("0 0 * * *", "../../etc/passwd", "no time zone"),
    ("0 0 * * *", "", "no time zone"),
]


@pytest.mark.parametrize(("expression", "timezone", "reason"), WRONG)
def test_a_wrong_expression_is_refused(expression, timezone, reason):
    with pytest.raises(ValueError, match=reason):
        Cron(expression, timezone)


@pytest.mark.parametrize("short", SHORT)
def test_short_forms(short):
    assert Cron(short).next(0.0) == Cron(SHORT[short]).next(0.0)
    assert Cron(short.upper()).next(0.0) == Cron(short).next(0.0)


def test_a_period_is_counted_from_the_epoch():
    """All processes have the same ticks, whenever they were started."""
    ten = Period(600)
    assert ten.next(seconds("2026-11-30_12:03+00:00")) == seconds("2026-11-30_12:10+00:00")
    assert ten.next(seconds("2026-11-30_12:10+00:00")) == seconds("2026-11-30_12:20+00:00")
    assert ten.latest(seconds("2026-11-30_12:10+00:00")) == seconds("2026-11-30_12:10+00:00")
    assert ten.latest(seconds("2026-11-30_12:19+00:00")) == seconds("2026-11-30_12:10+00:00")


@pytest.mark.parametrize("period", [0.1, 0.3, 1.0, 7.0, 1e6 / 3])
def test_a_period_that_floats_cannot_hold(period):
    """The latest tick is never after the time, and the next one always is."""
    timing, now = Period(period), 1_750_000_000.0
    for _ in range(1000):
        following = timing.next(now)
        assert timing.latest(now) <= now < following
        assert timing.latest(following) == following
        now = following


@pytest.mark.parametrize(
    ("period", "words"),
    [
        (1, "Every second"),
        (90, "Every 90 seconds"),
        (600, "Every 10 minutes"),
        (3600, "Every hour"),
        (86400, "Every day"),
        (0.5, "Every 0.5 seconds"),
    ],
)
def test_a_period_in_words(period, words):
    assert Period(period).explain() == words


def test_an_expression_in_words():
    assert Cron("30 2 * * *", BERLIN).explain() == "At 02:30 every day (Europe/Berlin)"
