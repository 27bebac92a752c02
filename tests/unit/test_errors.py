"""The errors that a view raises to steer its task."""

from collective.taskqueue import errors
from collective.taskqueue.errors import RetryLater
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.errors import TaskTimeout
import math
import pytest


def test_all_but_the_timeout_are_of_one_family():
    """A caller can tell them from everything else; the timeout must not be caught with them."""
    found = {value for value in vars(errors).values() if isinstance(value, type)}
    assert {kind for kind in found if not issubclass(kind, TaskQueueError)} == {TaskTimeout}
    assert not issubclass(TaskTimeout, Exception)
    assert all(kind.__doc__ for kind in found)


@pytest.mark.parametrize("seconds", [None, 0, 2, 2.5])
def test_retry_later_carries_the_seconds(seconds):
    """None lets the back-off of the task decide."""
    error = RetryLater(seconds)
    assert error.seconds == seconds
    assert str(error) == "the task asked to be retried later"
    assert str(RetryLater(1, "the index is locked")) == "the index is locked"


@pytest.mark.parametrize("seconds", ["5", -1, math.nan, [1]])
def test_retry_later_refuses_nonsense(seconds):
    """In the view, where its author sees the error; the consumer could only drop the outcome."""
    with pytest.raises((TypeError, ValueError)):
        RetryLater(seconds)
