"""What follows from an outcome, as vectors: no clock, no storage, no chance."""

from collective.taskqueue.config import TRANSIENT_STATUSES
from collective.taskqueue.consumer.policy import backoff
from collective.taskqueue.consumer.policy import classify
from collective.taskqueue.consumer.policy import LONGEST_PAUSE
from collective.taskqueue.consumer.policy import next_transition
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from dataclasses import replace
import math
import pytest
import random


NOW = 1_000_000.0


class Middle(random.Random):
    """Chance without chance: always the middle."""

    def uniform(self, a, b):
        return (a + b) / 2


def make_lease(counted=0, **fields):
    fields = {"created": NOW, "max_attempts": 5, **fields}
    task = Task(id="t", queue="default", url="/view", **fields)
    return Lease(task, "token", "worker1", counted + 1, counted, NOW + 30)


def pauses(count, **fields):
    """The pauses in seconds after each of `count` attempts that failed."""
    found = []
    for counted in range(count):
        lease = make_lease(counted, max_attempts=count + 1, **fields)
        found.append(next_transition(lease, Outcome(503), NOW, Middle()).due - NOW)
    return found


def follow(status, **fields):
    """What follows from the first attempt if it ended with the status."""
    return next_transition(make_lease(), Outcome(status, **fields), NOW, Middle())


# schedules


def test_the_exponential_schedule():
    """N39, O07, U34: it doubles, from `min_backoff` up to `max_backoff`."""
    expected = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 7200, 7200, 7200]
    assert pauses(15) == pytest.approx(expected)


def test_the_linear_schedule():
    """N39: it grows by `min_backoff`."""
    assert pauses(4, backoff="linear") == pytest.approx([2, 4, 6, 8])
    fields = {"backoff": "linear", "min_backoff": 3.0, "max_backoff": 7.0}
    assert pauses(4, **fields) == pytest.approx([3, 6, 7, 7])


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("outcome", [Outcome(None, "refused"), Outcome(500), Outcome(429)])
def test_one_schedule_for_all(kind, outcome):
    """T07: whether it was the network or the other side, the queue says how pauses grow."""
    found = [
        next_transition(
            make_lease(counted, max_attempts=9, backoff=kind), outcome, NOW, Middle()
        ).due
        - NOW
        for counted in range(4)
    ]
    assert found == pytest.approx(pauses(4, backoff=kind))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_the_limits_of_a_task_are_its_own(kind):
    """Limits may be zero, a fraction, or both the same."""
    assert pauses(3, backoff=kind, min_backoff=0.0) == pytest.approx([0, 0, 0])
    assert pauses(2, backoff=kind, min_backoff=0.5) == pytest.approx([0.5, 1.0])
    fields = {"min_backoff": 10.0, "max_backoff": 10.0}
    assert pauses(3, backoff=kind, **fields) == pytest.approx([10, 10, 10])


def test_the_schedule_has_no_end():
    """After a thousand attempts the pause is still a number."""
    task = make_lease().task
    assert backoff(task, 1000) == 7200
    assert backoff(replace(task, min_backoff=0.0), 1000) == 0


def test_every_pause_is_spread_by_ten_percent():
    """In both directions, so that a herd does not march in step."""
    rng = random.Random(7)
    found = [next_transition(make_lease(2), Outcome(503), NOW, rng).due - NOW for _ in range(1000)]
    assert 7.2 <= min(found) < 7.21
    assert 8.79 < max(found) <= 8.8
    assert sum(found) / len(found) == pytest.approx(8, abs=0.05)


def test_chance_needs_no_seed():
    """Called by the consumer without a generator."""
    due = {next_transition(make_lease(2), Outcome(503), NOW).due - NOW for _ in range(50)}
    assert len(due) > 1
    assert all(7.2 <= pause <= 8.8 for pause in due)


@pytest.mark.parametrize(
    ("asked", "pause"),
    [(0.0, 0), (7.25, 7.25), (90_000.0, 90_000), (-5.0, 0), (math.inf, LONGEST_PAUSE)],
)
def test_retry_after_is_honoured(asked, pause):
    """As it is, without a spread and beyond `max_backoff`, but not for eternity."""
    transition = next_transition(
        make_lease(), Outcome(503, retry_after=asked), NOW, random.Random(1)
    )
    assert transition.state == SCHEDULED
    assert transition.due == NOW + pause


# success, retry, failure


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_any_2xx_is_a_success(status):
    """N35, N36, O08."""
    transition = follow(status)
    assert (transition.state, transition.reason, transition.due) == (SUCCEEDED, "", None)
    assert transition.attempt.reason == ""


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_success(status):
    """C87: forms end so."""
    transition = follow(status)
    assert (transition.state, transition.reason, transition.due) == (SUCCEEDED, "", None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_with_a_reason_fails_at_once(status):
    """C87: it leads to a login page, or no further."""
    outcome = Outcome(status, reason="redirected to /login")
    transition = next_transition(make_lease(max_attempts=3), outcome, NOW)
    assert (transition.state, transition.reason) == (FAILED, "redirected to /login")


@pytest.mark.parametrize("status", range(400, 500))
def test_client_errors_fail_at_once_unless_time_may_heal_them(status):
    """N36, N38: 408, 423, 425, 429 and 449 are retried."""
    expected = SCHEDULED if status in (408, 423, 425, 429, 449) else FAILED
    assert follow(status).state == expected


def test_the_statuses_that_time_may_heal():
    """N38: these and no others."""
    assert set(TRANSIENT_STATUSES) == {408, 423, 425, 429, 449}


@pytest.mark.parametrize("status", range(400, 500))
def test_a_queue_has_statuses_of_its_own(status):
    """N38, U31: 400 is tried again if it says so, and 429 fails if it does not."""
    outcome = classify(Outcome(status), {400, 404})
    expected = SCHEDULED if status in (400, 404) else FAILED
    transition = next_transition(make_lease(), outcome, NOW, Middle())
    assert (transition.state, transition.reason) == (expected, f"status {status}")
    default = next_transition(
        make_lease(), classify(Outcome(status), TRANSIENT_STATUSES), NOW, Middle()
    )
    assert default == follow(status)


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(200),
        Outcome(302),
        Outcome(500),
        Outcome(None, "timeout"),
        Outcome(404, verdict="retry"),
        Outcome(429, verdict="discard"),
    ],
)
def test_a_queue_has_no_say_in_anything_else(outcome):
    """Neither in what is no client error, nor in what the task itself has decided."""
    assert classify(outcome, {200, 302, 404, 429, 500}) is outcome


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 599, None, 100, 600])
def test_all_else_is_retried(status):
    """N37: server errors, and no answer at all."""
    transition = follow(status)
    assert transition.state == SCHEDULED
    assert transition.due == pytest.approx(NOW + 2)


def test_an_exception_makes_no_success_of_a_2xx():
    """C87: the status was written before the view failed."""
    transition = follow(200, reason="ValueError: no")
    assert (transition.state, transition.reason) == (SCHEDULED, "ValueError: no")


@pytest.mark.parametrize("status", [None, 200, 302, 400, 404, 503])
def test_a_task_may_ask_to_be_retried(status):
    """`RetryLater`, with any status."""
    transition = follow(status, reason="RetryLater", verdict="retry", retry_after=60.0)
    assert (transition.state, transition.due) == (SCHEDULED, NOW + 60)


def test_without_seconds_its_own_backoff_decides():
    """`RetryLater()`."""
    assert follow(500, reason="RetryLater", verdict="retry").due == pytest.approx(NOW + 2)


@pytest.mark.parametrize("status", [None, 200, 429, 503])
def test_a_task_may_ask_not_to_be_retried(status):
    """`Discard`, with any status."""
    transition = follow(status, reason="Discard: gone", verdict="discard", retry_after=1.0)
    assert (transition.state, transition.reason) == (FAILED, "Discard: gone")


def test_a_task_that_could_not_start_is_postponed():
    """At no cost: the attempt does not count, not even the last one."""
    lease = make_lease(4, max_attempts=5)
    transition = next_transition(lease, Outcome(None, "not yet", verdict="postpone"), NOW, Middle())
    assert (transition.state, transition.reason) == (SCHEDULED, "not yet")
    assert transition.due > NOW
    assert transition.counts is False
    assert follow(503).counts is True


# the end


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 36])
@pytest.mark.parametrize("outcome", [Outcome(503), Outcome(None, "x", verdict="retry")])
def test_a_task_is_dispatched_exactly_as_often_as_it_may_be(max_attempts, outcome):
    """N41: N is N, not N + 1."""
    states = []
    while FAILED not in states:
        lease = make_lease(len(states), max_attempts=max_attempts)
        transition = next_transition(lease, outcome, NOW)
        states.append(transition.state)
    assert states == [SCHEDULED] * (max_attempts - 1) + [FAILED]
    assert transition.due is None


def test_lost_attempts_are_not_counted():
    """The lease tells what counts; the number of the attempt does not."""
    lease = replace(make_lease(0, max_attempts=2), attempt=7)
    assert next_transition(lease, Outcome(503), NOW).state == SCHEDULED


def test_the_reason_tells_that_it_was_the_last_attempt():
    """Of several; a task that is only tried once did not give up."""
    assert next_transition(make_lease(4), Outcome(503), NOW).reason == "status 503 (attempt 5 of 5)"
    assert next_transition(make_lease(0, max_attempts=1), Outcome(503), NOW).reason == "status 503"


def test_no_pause_is_longer_than_max_backoff():
    """Spread or not."""

    class Highest(random.Random):
        def uniform(self, a, b):
            return b

    lease = make_lease(4, max_backoff=60.0, min_backoff=60.0)
    assert next_transition(lease, Outcome(503), NOW, Highest()).due is None
    lease = make_lease(0, max_backoff=60.0, min_backoff=60.0)
    assert next_transition(lease, Outcome(503), NOW, Highest()).due == NOW + 60


def test_a_task_that_would_be_too_old_is_given_up():
    """`max_age` is counted from when it was added to when it would run again."""
    fields = {"max_age": 100.0, "min_backoff": 10.0}
    for age, state in ((0, SCHEDULED), (90, SCHEDULED), (90.1, FAILED), (200, FAILED)):
        transition = next_transition(make_lease(**fields), Outcome(503), NOW + age, Middle())
        assert transition.state == state
    assert transition.reason == "status 503 (given up after 100 s)"
    assert transition.due is None


def test_the_age_of_a_task_that_was_queued_again():
    """It counts from then."""
    lease = make_lease(max_age=100.0, min_backoff=10.0)
    for since, state in ((NOW + 1000, SCHEDULED), (NOW + 910, SCHEDULED), (NOW + 909, FAILED)):
        transition = next_transition(lease, Outcome(503), NOW + 1000, Middle(), since)
        assert transition.state == state


def test_a_task_that_is_too_old_may_still_succeed():
    """It has been done; that is what counts."""
    assert next_transition(make_lease(max_age=1.0), Outcome(200), NOW + 100).state == SUCCEEDED


# what is kept


@pytest.mark.parametrize("status", [200, 404, 503])
def test_the_transition_carries_the_whole_outcome(status):
    """Status, response, times and error of the attempt."""
    outcome = Outcome(
        status,
        reason="",
        headers=(("X", "y"),),
        body=b"body",
        truncated=True,
        error="Traceback …",
        started=NOW - 3,
        seconds=2.5,
    )
    transition = next_transition(make_lease(1), outcome, NOW)
    assert (transition.headers, transition.body) == (outcome.headers, b"body")
    assert transition.truncated is True
    attempt = transition.attempt
    assert (attempt.number, attempt.consumer, attempt.status) == (2, "worker1", status)
    assert (attempt.started, attempt.seconds) == (NOW - 3, 2.5)
    assert attempt.error == "Traceback …"
    assert attempt.reason == ("" if status == 200 else f"status {status}")
