"""The status that an event shows: the task as it was at the change."""

from collective.taskqueue.consumer.history import as_of
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
import pytest


def status(*states, attempts=0):
    """A status with these changes, one second apart, and so many attempts."""
    return TaskStatus(
        task=Task(id="1", queue="default", url="/"),
        state=states[-1],
        reason="now",
        changes=tuple((state, float(n)) for n, state in enumerate(states)),
        consumer="now",
        attempts=tuple(
            AttemptRecord(n + 1, f"c{n}", float(n), 0.0, None, reason=f"r{n}")
            for n in range(attempts)
        ),
    )


@pytest.mark.parametrize("first", ["queued", "scheduled"])
def test_an_arrival(first):
    """A task with a delay is scheduled when it is added."""
    found = as_of(status(first, "running", "succeeded", attempts=1), "queued")
    assert (found.state, found.changes) == (first, ((first, 0.0),))
    assert (found.attempts, found.reason, found.consumer) == ((), "", None)


def test_a_second_arrival():
    """The first one after the last change before."""
    was = status("queued", "running", "failed", "queued", "running", "failed", attempts=2)
    found = as_of(was, "queued", ("failed", 2.0))
    assert found.changes == was.changes[:4]
    assert [attempt.number for attempt in found.attempts] == [1]


def test_the_last_change_to_a_state():
    was = status("queued", "running", "scheduled", "running", "failed", attempts=2)
    found = as_of(was, "scheduled")
    assert (found.state, found.reason, found.consumer) == ("scheduled", "r0", "c0")
    assert [attempt.number for attempt in found.attempts] == [1]


@pytest.mark.parametrize("state", ["running", "cancelled"])
def test_the_status_itself(state):
    """If the change is the last one, or is forgotten."""
    was = status("queued", "running", attempts=0)
    assert as_of(was, state) is was
