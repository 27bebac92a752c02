"""A filter refuses what cannot be meant; a cursor refuses what no page has returned."""

from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.storages.search import cursor_at
from collective.taskqueue.storages.search import FIRST
from collective.taskqueue.storages.search import number_at
from collective.taskqueue.task import Identity
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st
import math
import pytest


JANE = Identity("/Plone/acl_users", "jane")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("states", ("done",), "there is no state 'done' (known: queued, scheduled, running,"),
        ("states", (None,), "there is no state None"),
        ("states", "failed", "states is a tuple of states, not 'failed'"),
        ("states", ["failed"], "states is a tuple of states, not ['failed']"),
        ("url", "", "url is a text that is not empty, not ''"),
        ("url", b"/Plone", "url is a text that is not empty, not b'/Plone'"),
        ("user", "", "user is a text that is not empty, not ''"),
        ("user", 7, "user is a text that is not empty, not 7"),
        ("reason", "", "reason is a text that is not empty, not ''"),
        ("since", math.nan, "since is a number of seconds since the epoch, not nan"),
        ("since", math.inf, "since is a number of seconds since the epoch, not inf"),
        ("until", True, "until is a number of seconds since the epoch, not True"),
        ("until", "1", "until is a number of seconds since the epoch, not '1'"),
    ],
)
def test_what_cannot_be_meant_is_refused(field, value, sentence):
    """The error names the field, and it is a ValueError."""
    with pytest.raises(InvalidTask) as caught:
        TaskFilter(**{field: value})
    assert str(caught.value).startswith(sentence)
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)


def test_a_time_before_its_beginning_is_refused():
    """No task could ever match."""
    for until in (5.0, 4.0):
        with pytest.raises(InvalidTask, match="until is a later moment than since"):
            TaskFilter(since=5.0, until=until)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, True),
        ({"states": STATES}, True),
        ({"states": ("queued",)}, False),
        ({"url": "/Plone/a"}, True),
        ({"url": "/plone"}, False),
        ({"user": "jane"}, True),
        ({"user": JANE}, True),
        ({"user": Identity("/acl_users", "jane")}, False),
        ({"user": Identity("/Plone/acl_users", "jane", 1)}, False),
        ({"user": "jan"}, False),
        ({"since": 100}, True),
        ({"since": 100.1}, False),
        ({"until": 100.1}, True),
        ({"until": 100}, False),
        ({"reason": "value"}, True),
        ({"reason": "ÄH"}, False),
        ({"reason": "ähHH"}, True),
        ({"reason": "\ud800"}, False),
    ],
)
def test_each_condition(conditions, expected):
    """Whether a task matches; as the contract of storages tests it for each of them."""
    task = Task(id="a", queue="default", url="/Plone/a?b=c", user=JANE, created=100.0)
    assert TaskFilter(**conditions).matches(task, "failed", "ValueError: ähhh") is expected


def test_a_task_of_nobody_has_no_user():
    """A filter for a user does not find it."""
    task = Task(id="a", queue="default", url="/")
    assert not TaskFilter(user="jane").matches(task, "queued", "")


@given(st.integers(-(2**62), 2**62))
def test_a_cursor_leads_back(number):
    """To its number, for the same place and filter."""
    found = cursor_at(number, "default", TaskFilter(user=JANE))
    assert number_at(found, "default", TaskFilter(user=JANE)) == number
    assert found.isascii()
    for place, other in (("other", TaskFilter(user=JANE)), ("default", TaskFilter())):
        with pytest.raises(InvalidTask):
            number_at(found, place, other)


@given(st.text() | st.binary() | st.integers())
@example("=" * 24)
@example("A" * 24 + "=")
def test_other_texts_are_no_cursors(text):
    """No text is taken for the cursor of a page, and nothing else is raised."""
    with pytest.raises(InvalidTask, match="leave it out to begin with the oldest task"):
        number_at(text, "default", TaskFilter())


def test_without_a_cursor():
    """The oldest task comes first."""
    assert number_at(None, "default", TaskFilter()) == FIRST
