"""The watch over running tasks: their timeouts, at times that the test chooses."""

from collective.taskqueue.consumer.heartbeat import INTERRUPT_INTERVAL
from collective.taskqueue.consumer.heartbeat import STUCK_INTERVAL
from collective.taskqueue.errors import TaskTimeout
from heartbeats import BOUND
from heartbeats import make_attempt
from heartbeats import Spinning
from itertools import pairwise
from math import ceil
import logging
import time


def interruption(caplog):
    return [message for message in caplog.messages if "over its timeout" in message]


def stuck(caplog):
    return [message for message in caplog.messages if "cannot be interrupted" in message]


def test_a_task_is_interrupted_when_its_time_is_over(heartbeat, storage, caplog):
    """Not before; with one line."""
    task = Spinning(heartbeat, storage, timeout=50.0)
    now = time.monotonic()
    heartbeat.look(now + 49)
    assert interruption(caplog) == []
    look_until_interrupted(heartbeat, now + 50, caplog)
    assert isinstance(task.join(), TaskTimeout)
    assert interruption(caplog) == ["task t: over its timeout of 50 s, interrupted"]
    assert stuck(caplog) == []


def look_until_interrupted(heartbeat, now, caplog):
    """Look as often as it takes: a thread may be where it must not be torn apart."""
    deadline = time.monotonic() + BOUND
    while not interruption(caplog):
        assert time.monotonic() < deadline, "never interrupted"
        heartbeat.look(now)
        now += INTERRUPT_INTERVAL
    return now


def test_a_task_without_a_timeout_is_left_alone(heartbeat, storage, caplog):
    """However long it runs."""
    task = Spinning(heartbeat, storage, timeout=None)
    heartbeat.look(time.monotonic() + 10**6)
    assert task.end() is None
    assert caplog.messages == []


def test_what_cannot_be_interrupted_now_is_tried_again_soon(heartbeat, storage, caplog):
    """It has not begun to run its view, or is in code that must not be torn apart."""
    attempt = make_attempt(storage, timeout=50.0)
    tries = []
    attempt.interrupt = lambda: tries.append(1) and False
    with heartbeat.watch(attempt):
        now = time.monotonic() + 50
        for step in range(1, 11):
            heartbeat.look(now)
            heartbeat.look(now + INTERRUPT_INTERVAL / 2)
            assert len(tries) == step
            now += INTERRUPT_INTERVAL * 1.01
    assert caplog.messages == []


def test_a_stuck_task_is_reported_every_minute(heartbeat, storage, caplog):
    """With its stack, and its lease is renewed all the same: it never runs twice."""
    attempt = make_attempt(storage, timeout=50.0)
    attempt.interrupt = lambda: False
    with heartbeat.watch(attempt):
        # Whole seconds: their differences are exact.
        now = ceil(time.monotonic())
        for second in range(40, 300):
            heartbeat.look(now + second)
    reports = stuck(caplog)
    assert len(reports) == 4
    times = [int(report.split("running for ")[1].split(" s")[0]) for report in reports]
    assert times[0] >= 50 + STUCK_INTERVAL
    assert [later - earlier for earlier, later in pairwise(times)] == [60] * 3
    assert "test_a_stuck_task_is_reported_every_minute" in reports[0]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert len(storage.renewed) == 2


def test_a_task_that_swallows_the_timeout_is_interrupted_again(heartbeat, storage, caplog):
    """After a minute, and said to be stuck."""
    task = Spinning(heartbeat, storage, timeout=50.0, deaf=True)
    now = look_until_interrupted(heartbeat, time.monotonic() + 50, caplog)
    heartbeat.look(now + STUCK_INTERVAL / 2)
    assert (len(interruption(caplog)), len(stuck(caplog))) == (1, 0)
    now += STUCK_INTERVAL + 1
    deadline = time.monotonic() + BOUND
    while len(interruption(caplog)) < 2 and time.monotonic() < deadline:
        heartbeat.look(now)
        now += INTERRUPT_INTERVAL
    assert (len(interruption(caplog)), len(stuck(caplog))) == (2, 1)
    assert "_spin" in stuck(caplog)[0]
    task.end()
