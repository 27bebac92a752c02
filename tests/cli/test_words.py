"""Times and durations as people read and write them."""

from click import BadParameter
from collective.taskqueue.cli import words
from collective.taskqueue.cli.parameters import Duration
from collective.taskqueue.cli.parameters import Moment
import pytest
import time


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0 ms"),
        (0.34, "340 ms"),
        (1, "1 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (7199, "1 h"),
        (86400, "1 day"),
        (1e6, "11 days"),
        (-5, "0 ms"),
    ],
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


def test_moment_has_its_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert words.moment(1_800_000_000) == "2027-01-15 09:00:00 CET"
        assert Moment().convert("2027-01-15 09:00", None, None) == 1_800_000_000
    finally:
        monkeypatch.undo()
        time.tzset()
    assert words.moment(1e20) == "?"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5 h", 5400), ("3D", 259200)]
)
def test_durations_with_units(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "10x", "-1", "1h30m", "nan"])
def test_no_duration(text):
    with pytest.raises(BadParameter, match="is no duration"):
        Duration().convert(text, None, None)


def test_moments():
    now = time.time()
    assert now - 7201 < Moment().convert("2h", None, None) <= time.time() - 7200
    assert Moment().convert("2027-01-15T08:00+00:00", None, None) == 1_800_000_000
    for text in ("yesterday", "2027-13-01", "90"):
        with pytest.raises(BadParameter, match="is no moment"):
            Moment().convert(text, None, None)


def test_a_text_of_others_cannot_steer_the_terminal():
    assert words.line("a\x1b[2Jb\n\x9bc") == "a\ufffd[2Jb \ufffdc"
