"""The watch over running tasks: their leases, at times that the test chooses."""

from collective.taskqueue.errors import StorageUnavailable
from heartbeats import LEASE
from heartbeats import make_attempt
import pytest
import time


def test_a_lease_is_renewed_when_a_third_of_it_has_passed(heartbeat, storage):
    """Once for each third, to its full length, as long as the task runs; D46."""
    with heartbeat.watch(make_attempt(storage)):
        now = time.monotonic()
        for seconds, expected in ((99, 0), (101, 1), (101, 1), (200, 1), (202, 2), (303, 3)):
            heartbeat.look(now + seconds)
            assert storage.renewed == [("t", LEASE)] * expected
    heartbeat.look(now + 1000)
    assert len(storage.renewed) == 3


def test_every_running_task_is_renewed(heartbeat, storage):
    """Each at its own time."""
    with heartbeat.watch(make_attempt(storage, "a")):
        now = time.monotonic()
        heartbeat.look(now + 101)
        with heartbeat.watch(make_attempt(storage, "b")):
            assert [attempt.task.id for attempt in heartbeat.running()] == ["a", "b"]
            heartbeat.look(now + 150)
            heartbeat.look(now + 210)
        assert [attempt.task.id for attempt in heartbeat.running()] == ["a"]
    assert heartbeat.running() == []
    assert [name for name, _ in storage.renewed] == ["a", "b", "a"]


@pytest.mark.parametrize("failure", [StorageUnavailable("gone"), OSError("broken")])
def test_an_outage_is_told_and_tried_again(heartbeat, storage, caplog, failure):
    """And the other tasks do not suffer from it."""
    storage.answers = [failure]
    with heartbeat.watch(make_attempt(storage, "a")), heartbeat.watch(make_attempt(storage, "b")):
        now = time.monotonic()
        heartbeat.look(now + 101)
        heartbeat.look(now + 202)
    assert [name for name, _ in storage.renewed] == ["a", "b", "a", "b"]
    assert [line for line in caplog.messages if line.startswith("task ")] == [
        f"task a: lease not renewed ({failure}), another consumer may run it"
    ]


def test_an_outage_is_told_of_a_task_once(heartbeat, storage, caplog):
    """And once more if there is another."""
    gone = StorageUnavailable("gone")
    storage.answers = [gone, gone, gone, True, gone]
    with heartbeat.watch(make_attempt(storage, "a")):
        for seconds in range(101, 1200, 101):
            heartbeat.look(time.monotonic() + seconds)
    lines = [line for line in caplog.messages if line.startswith("task ")]
    assert lines == ["task a: lease not renewed (gone), another consumer may run it"] * 2


def test_a_lost_lease_is_told(heartbeat, storage, caplog):
    """The task goes on, but its result will be dropped."""
    storage.answers = [False]
    with heartbeat.watch(make_attempt(storage)):
        heartbeat.look(time.monotonic() + 101)
    assert caplog.messages == ["task t: lease lost while running, its result will be dropped"]


def test_a_lost_lease_is_told_once_and_not_renewed_again(heartbeat, storage, caplog):
    storage.answers = [False, True, True]
    now = time.monotonic()
    with heartbeat.watch(make_attempt(storage)):
        for seconds in (101, 202, 303):
            heartbeat.look(now + seconds)
    assert len(caplog.messages) == 1
    assert len(storage.renewed) == 1


def test_a_lease_that_could_not_be_renewed_is_tried_again_soon(heartbeat, storage):
    """Long before it expires: an outage of a second must not cost it."""
    storage.answers = [ConnectionError("away"), True]
    now = time.monotonic()
    with heartbeat.watch(make_attempt(storage)):
        heartbeat.look(now + 101)
        heartbeat.look(now + 101 + LEASE / 10)
        assert len(storage.renewed) == 2
        heartbeat.look(now + 101 + LEASE / 5)
        assert len(storage.renewed) == 2


def test_a_task_that_has_ended_may_have_no_lease(heartbeat, storage, caplog):
    """Its outcome is being stored, and the lease ends with that."""
    storage.answers = [False]
    attempt = make_attempt(storage, timeout=1.0)
    with heartbeat.watch(attempt):
        with attempt:
            pass
        heartbeat.look(time.monotonic() + 101)
        heartbeat.look(time.monotonic() + 1000)
    assert caplog.messages == []


def test_only_the_timeout_waits_for_the_task_to_begin(heartbeat, storage, caplog):
    """The lease has begun."""
    with heartbeat.watch(make_attempt(storage, timeout=1.0), timed=False):
        heartbeat.look(time.monotonic() + 101)
    assert len(storage.renewed) == 1
    assert caplog.messages == []
