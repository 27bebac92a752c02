"""The options of `add()`: good, out of range, of the wrong type, unknown, conflicting."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue.fields import LONGEST
from collective.taskqueue.enqueue.options import check_options
from collective.taskqueue.enqueue.options import OPTIONS
from collective.taskqueue.task import Task
from dataclasses import fields
from datetime import date
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from datetime import UTC
import math
import pytest


NOW = 1_750_000_000.0

#: What is no number of seconds, for any option.
NO_SECONDS = ["5", b"5", True, False, [5], math.nan, math.inf, -math.inf, -0.1, 1j, 10**400]
NO_TEXT = [5, b"text", True, ["text"]]

GOOD = {
    "delay": [0, 0.5, 60, LONGEST],
    "countdown": [0, 0.5, 60, LONGEST],
    "eta": [datetime.fromtimestamp(NOW + 60, UTC)],
    "timeout": [0.1, 60, LONGEST],
    "max_attempts": [1, 36, 1000],
    "backoff": ["exponential", "linear"],
    "min_backoff": [0, 0.5, 7200],
    "max_backoff": [2, 2.5, LONGEST],
    "max_age": [0.5, 60, LONGEST],
    "once": [True, False],
    "key": ["k", "reindex /Plone/ä", "x" * 255],
    "on_conflict": ["skip", "replace", "after_running"],
    "description": ["", "Täglicher Bericht", "x" * 255],
    "keep": [0, 60, LONGEST],
}


class Nowhere(tzinfo):
    """A time zone that does not know its offset."""

    def utcoffset(self, moment):
        return None


BAD = {
    "delay": [*NO_SECONDS, LONGEST + 1, datetime.fromtimestamp(NOW, UTC)],
    "countdown": [*NO_SECONDS, LONGEST + 1],
    "eta": [
        NOW + 60,
        "2030-01-01T00:00:00Z",
        date(2030, 1, 1),
        datetime(2030, 1, 1),
        datetime(2030, 1, 1, tzinfo=Nowhere()),
        datetime(9999, 12, 31, tzinfo=UTC),
        True,
    ],
    "timeout": [*NO_SECONDS, 0, LONGEST + 1],
    "max_attempts": [0, -1, 1001, 1.0, "1", True, math.inf, [1]],
    "backoff": ["", "Exponential", "none", 2, ["linear"], True],
    "min_backoff": [*NO_SECONDS, LONGEST + 1],
    "max_backoff": [*NO_SECONDS, LONGEST + 1],
    "max_age": [*NO_SECONDS, 0, LONGEST + 1],
    "once": [1, 0, "true", "", [True]],
    "key": [*NO_TEXT, "", "x" * 1001],
    "on_conflict": ["", "SKIP", "newest", 1, True, ["skip"]],
    "description": NO_TEXT,
    "keep": [*NO_SECONDS, LONGEST + 1],
}


def each(table):
    return [(name, value) for name, values in table.items() for value in values]


def short(value):
    return repr(value)[:40]


def check(settings=None, **options):
    return check_options(options, settings or QueueSettings(), NOW)


def test_every_option_is_tested_here():
    """A new one must not be forgotten."""
    assert set(GOOD) == set(BAD) == set(OPTIONS)


@pytest.mark.parametrize(("name", "value"), each(GOOD), ids=short)
def test_a_good_value_becomes_a_field(name, value):
    """Of the task, in seconds, or as the moment it is due."""
    options = {"key": "k"} if name == "on_conflict" else {}
    if name == "min_backoff":
        options["max_backoff"] = LONGEST
    if name == "max_backoff":
        options["min_backoff"] = 0
    values = check(**{name: value}, **options)
    if name in ("delay", "countdown"):
        assert values["due"] == NOW + value
    elif name == "eta":
        assert values["due"] == NOW + 60
    else:
        assert values[name] == value
    assert values.keys() <= {field.name for field in fields(Task)}
    assert Task(id="1", queue="q", url="/", **values)


@pytest.mark.parametrize(("name", "value"), each(BAD), ids=short)
def test_a_bad_value_is_refused(name, value):
    """N06, D51: by a `ValueError` that names the option, for a value of any kind."""
    options = {"key": "k"} if name == "on_conflict" else {}
    with pytest.raises(ValueError, match=name):
        check(**{name: value}, **options)


ODD = ["x" * 256, "x" * 1000, "a\nb", "a\x00", "\udc80", " \t", "👩\u200d👧", "ä" * 999 + "\0"]


@pytest.mark.parametrize("key", ODD, ids=short)
def test_any_text_may_be_a_key(key):
    """It is the same for the same text and for no other, and fit for every storage."""
    stored = check(key=key)["key"]
    assert stored == check(key="".join(key))["key"]
    assert len(stored) <= 255
    assert stored.isprintable() or "\u200d" in stored
    assert stored.encode("utf-8")
    others = [f"{key[:-1]}y", f"y{key[1:]}", key.strip(), key.replace("\0", "\ufffd")]
    assert stored not in {check(key=other)["key"] for other in others if other not in ("", key)}


def test_a_key_that_is_not_stored_as_it_is_can_be_recognized():
    assert check(key="reindex\n/Plone/news" + "x" * 900)["key"].startswith("reindex /Plone/newsx")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10\N{NO-BREAK SPACE}000 news\nof today", "10 000 news of today"),
        ("👩\u200d👧 نمی\u200cشود", "👩\u200d👧 نمی\u200cشود"),
        ("a\0\udc80b", "a\ufffd\ufffdb"),
        ("\n", ""),
        ("x" * 1000, "x" * 255),
        ("x" * 254 + "👩\u200d👧", "x" * 254),
    ],
)
def test_any_title_may_be_a_description(given, expected):
    """It becomes one line."""
    assert check(description=given)["description"] == expected


class Text(str):
    """As i18n messages are: no storage needs to know of them."""

    __slots__ = ()


@pytest.mark.parametrize("name", ["key", "description"])
def test_a_text_is_stored_as_a_plain_one(name):
    assert type(check(**{name: Text("text")})[name]) is str


@pytest.mark.parametrize("name", OPTIONS)
def test_none_is_the_same_as_not_giving_it(name):
    """So that a caller can pass on what it was given."""
    assert check(**{name: None}) == check()


@pytest.mark.parametrize("name", ["priority", "Delay", "max_retries", "queue", "id", "created"])
def test_an_unknown_option_is_refused(name):
    """The known ones are listed; no field of a task can be set by the back door."""
    with pytest.raises(ValueError, match=f"unknown option '{name}' .known: delay, countdown,"):
        check(**{name: 1, "timeout": 5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 1, "countdown": 1}, "delay and countdown"),
        ({"delay": 1, "eta": datetime.fromtimestamp(NOW, UTC)}, "delay and eta"),
        ({"countdown": 0, "eta": datetime.fromtimestamp(NOW, UTC)}, "countdown and eta"),
        ({"min_backoff": 3, "max_backoff": 2}, "min_backoff is greater"),
        ({"min_backoff": 7201}, "min_backoff is greater"),
        ({"max_backoff": 1.5}, "min_backoff is greater"),
        ({"on_conflict": "replace"}, "there is no key"),
        ({"on_conflict": "replace", "key": None}, "there is no key"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    """In one sentence; those that agree are not."""
    with pytest.raises(ValueError, match=message):
        check(**options)


def test_what_the_queue_says_counts_too():
    """A limit of the task must fit to the other one, wherever that comes from."""
    settings = QueueSettings(min_backoff=100.0, max_backoff=200.0)
    assert check(settings, min_backoff=150)["max_backoff"] == 200
    for options in ({"min_backoff": 201}, {"max_backoff": 99}):
        with pytest.raises(ValueError, match="min_backoff is greater"):
            check(settings, **options)


def test_once_is_not_for_web_hooks():
    """The queue's own is for the other tasks."""
    with pytest.raises(ValueError, match="once is not for a web hook"):
        check_options({"once": True}, QueueSettings(), NOW, is_hook=True)
    for options in ({}, {"once": False}):
        found = check_options(options, QueueSettings(once=True), NOW, is_hook=True)
        assert found["once"] is False


def test_defaults_are_the_tasks_then_the_queues_then_built_in():
    """Each on its own."""
    names = ["timeout", "max_attempts", "backoff", "min_backoff", "max_backoff", "once"]
    built_in = {field.name: field.default for field in fields(Task)}
    assert check() == {"due": None, **{name: built_in[name] for name in names}}
    queues = {
        "timeout": 50.0,
        "max_attempts": 7,
        "backoff": "linear",
        "min_backoff": 3.0,
        "max_backoff": 30.0,
        "once": True,
    }
    settings = QueueSettings(**queues)
    assert check(settings) == {"due": None, **queues}
    own = {
        "timeout": 5.0,
        "max_attempts": 2,
        "backoff": "exponential",
        "min_backoff": 4.0,
        "max_backoff": 40.0,
        "once": False,
    }
    assert check(settings, **own) == {"due": None, **own}
    for name, value in own.items():
        assert check(settings, **{name: value}) == {"due": None, **queues, name: value}


@pytest.mark.parametrize(
    "moment",
    [
        datetime.fromtimestamp(NOW, UTC) + timedelta(hours=1),
        datetime.fromtimestamp(NOW, timezone(timedelta(hours=5.5))) + timedelta(hours=1),
    ],
)
def test_a_moment_is_the_same_in_every_time_zone(moment):
    """UTC everywhere."""
    assert check(eta=moment)["due"] == NOW + 3600


def test_a_moment_in_the_past_is_due_at_once():
    """Not an error: the caller may have taken its time."""
    moment = datetime.fromtimestamp(NOW - 3600, UTC)
    assert check(eta=moment)["due"] == NOW - 3600


def test_the_options_are_left_as_they_were():
    """D40: the caller's mapping is the caller's."""
    options = {"delay": 5, "key": None}
    check_options(options, QueueSettings(), NOW)
    assert options == {"delay": 5, "key": None}
