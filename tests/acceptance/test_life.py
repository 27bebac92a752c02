"""The life of a task: seen and steered over HTTP, in a real process."""

from acceptance.instance import basic
from acceptance.instance import wait_for
import pytest
import time


def test_a_view_that_fails_twice_and_then_succeeds(life):
    """O06: every attempt stands in the history, with its reason and traceback."""
    task_id = life.add("fail?times=2", max_attempts=3, min_backoff=0.05)
    status = life.finished(task_id)
    assert (status["state"], status["status"]) == ("succeeded", 200)
    assert life.ask("result", task_id=task_id)["body"] == "attempt 3 succeeds"
    assert [attempt["number"] for attempt in status["attempts"]] == [1, 2, 3]
    assert [attempt["status"] for attempt in status["attempts"]] == [500, 500, 200]
    assert [attempt["reason"] for attempt in status["attempts"]] == [
        "RuntimeError: attempt 1 is meant to fail",
        "RuntimeError: attempt 2 is meant to fail",
        "",
    ]
    first, _, last = status["attempts"]
    assert first["error"].startswith("Traceback (most recent call last):")
    assert first["error"].rstrip().endswith("RuntimeError: attempt 1 is meant to fail")
    assert last["error"] == ""
    assert [state for state, _ in status["changes"]] == [
        "queued",
        "running",
        "scheduled",
        "queued",
        "running",
        "scheduled",
        "queued",
        "running",
        "succeeded",
    ]
    assert [when for _, when in status["changes"]] == sorted(t for _, t in status["changes"])
    assert life.told(task_id, 7) == [
        "TaskQueued",
        "TaskStarted",
        "TaskRetried",
        "TaskStarted",
        "TaskRetried",
        "TaskStarted",
        "TaskSucceeded",
    ]


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_exactly_max_attempts_dispatches(life, max_attempts):
    """D06, N41, O07: a task that fails is not acknowledged and forgotten, nor tried for ever."""
    task_id = life.add("fail?times=99", max_attempts=max_attempts, min_backoff=0.01)
    status = life.finished(task_id)
    assert status["state"] == "failed"
    assert [start["attempt"] for start in life.starts(task_id)] == list(range(1, max_attempts + 1))
    assert len(status["attempts"]) == max_attempts
    assert f"attempt {max_attempts} is meant to fail" in status["reason"]
    assert life.instance.lines(f"task {task_id}", "failed")


def test_retry_later(life):
    """The view says when, and its attempt counts."""
    task_id = life.add("later?seconds=1.5", max_attempts=2)
    status = life.finished(task_id)
    first, second = status["attempts"]
    assert first["reason"] == "RetryLater: not yet"
    assert second["started"] >= first["started"] + first["seconds"] + 1.5
    assert [state for state, _ in status["changes"]][2:4] == ["scheduled", "queued"]
    assert status["state"] == "succeeded"


def test_retry_later_counts(life):
    task_id = life.add("later?seconds=1", max_attempts=1)
    status = life.finished(task_id)
    assert (status["state"], status["reason"]) == ("failed", "RetryLater: not yet")


def test_discard(life):
    """The view says that another attempt is pointless."""
    task_id = life.add("pointless", max_attempts=5)
    status = life.finished(task_id)
    assert (status["state"], status["reason"]) == ("failed", "Discard: there is nothing to do")
    assert len(life.starts(task_id)) == 1


def test_retry_of_a_failed_task(life):
    """It is queued again with a new budget; the history stays, the numbers go on."""
    task_id = life.add("fail?times=2", max_attempts=2, min_backoff=0.01)
    assert life.finished(task_id)["state"] == "failed"
    life.ask("retry", task_id=task_id)
    status = life.finished(task_id)
    assert status["state"] == "succeeded"
    assert [attempt["number"] for attempt in status["attempts"]] == [1, 2, 3]


def test_retry_of_another_task_is_refused(life):
    task_id = life.add("work")
    life.finished(task_id)
    assert life.refused("retry", task_id=task_id) == "ForbiddenTransition"
    assert life.status(task_id)["state"] == "succeeded"


# delays


@pytest.mark.parametrize("option", ["delay", "countdown", "eta"])
def test_not_before_its_time(life, option):
    """O04."""
    asked = time.time()
    task_id = life.add("work", **{option: 1.5})
    status = life.finished(task_id)
    assert [state for state, _ in status["changes"]] == [
        "scheduled",
        "queued",
        "running",
        "succeeded",
    ]
    [start] = life.starts(task_id)
    assert start["time"] >= asked + 1.5


# cancellation


def test_cancel_while_running_at_a_checkpoint(life):
    """The view learns of it and stops; its work is not committed, its state is cancelled."""
    before = life.value()
    task_id = life.add("checkpoint", max_attempts=3)
    wait_for(lambda: life.starts(task_id), "the task to start")
    assert life.ask("cancel", task_id=task_id) == "running"
    status = life.finished(task_id)
    assert (status["state"], status["reason"]) == ("cancelled", "cancelled while running")
    assert status["cancel_requested"]
    [attempt] = status["attempts"]
    assert attempt["reason"] == "Cancelled: cancelled while running"
    assert life.value() == before
    assert life.told(task_id, 3)[2:] == ["TaskCancelled"]


def test_cancel_while_running_and_the_task_answers(life):
    """What it answers is recorded, what it wrote is committed; it is cancelled all the same."""
    task_id = life.add("polite")
    wait_for(lambda: life.starts(task_id), "the task to start")
    life.ask("cancel", task_id=task_id)
    assert life.finished(task_id)["state"] == "cancelled"
    result = life.ask("result", task_id=task_id)
    assert (result["status"], result["body"]) == (200, "stopped half-way")
    assert result["attempts"] == 1
    assert result["started"] + result["elapsed"] == pytest.approx(result["finished"], abs=5)
    assert life.value() == "polite"


def test_cancel_while_waiting(life, door):
    """It never runs."""
    first = life.add(f"gate?name={door}")
    task_id = life.add("work")
    assert life.ask("cancel", task_id=task_id) == "cancelled"
    life.instance.open(door)
    life.finished(first)
    life.finished(life.add("work"))
    assert not life.starts(task_id)
    assert life.ask("result", task_id=task_id) is None
    assert life.told(task_id, 2) == ["TaskQueued", "TaskCancelled"]
    assert life.refused("cancel", task_id=task_id) == "ForbiddenTransition"


def test_cancel_before_it_is_due(life):
    task_id = life.add("work", delay=3600)
    assert life.ask("cancel", task_id=task_id) == "cancelled"


# progress


def test_progress_while_the_transaction_is_open(life, door):
    """It is seen from outside before anything of the task is committed."""
    task_id = life.add(f"steps?name={door}")

    def progress():
        return life.status(task_id)["progress"]

    seen = wait_for(progress, "the first progress")
    assert (seen["done"], seen["total"], seen["message"]) == (1, 4, "the first of four")
    assert life.status(task_id)["state"] == "running"
    assert life.value() != door
    life.instance.open(door)
    status = life.finished(task_id)
    assert (status["progress"]["done"], status["progress"]["message"]) == (4, "done")
    assert life.value() == door


# timeouts


def test_timeout(life):
    """The loop is interrupted although it catches what it can; each attempt counts, and the
    thread is as good as new."""
    before = life.value()
    task_id = life.add("spin", timeout=0.5, max_attempts=2)
    following = life.add("work")
    status = life.finished(task_id)
    reason = "TaskTimeout: the task took more than 0.5 s"
    assert (status["state"], status["reason"]) == ("failed", f"{reason} (attempt 2 of 2)")
    assert [attempt["reason"] for attempt in status["attempts"]] == [reason] * 2
    assert "in work" in status["attempts"][0]["error"]
    assert life.value() == before
    assert life.finished(following)["state"] == "succeeded"
    threads = {start["thread"] for start in life.starts(task_id) + life.starts(following)}
    assert len(threads) == 1
    steps = life.add("steps?name=after-the-timeout")
    life.instance.open("after-the-timeout")
    assert life.finished(steps)["state"] == "succeeded"
    assert life.value() == "after-the-timeout"


def test_a_lease_is_renewed_while_its_task_runs(life):
    """D46: it takes four leases, beyond its timeout, in C; it runs once all the same."""
    task_id = life.add("sleep?seconds=4", queue="other", timeout=0.5)
    status = life.finished(task_id)
    assert len(life.starts(task_id)) == 1
    assert status["reason"] == "TaskTimeout: the task took more than 0.5 s"
    [attempt] = status["attempts"]
    assert attempt["seconds"] >= 4
    assert life.instance.lines(f"task {task_id}", "over its timeout of 0.5 s, interrupted")
    assert not life.instance.lines(f"task {task_id}", "lease")


# headers


def test_headers_that_only_the_publisher_sets(life):
    """C03, C11: neither the request that queues nor the caller of `add()` can forge them."""
    names = ("Id", "User-Id", "Queue", "Attempt", "Max-Attempts", "Anything")
    forged = {f"X-Task-{name}": "forged" for name in names}
    forged |= {f"x_task_{name.lower().replace('-', '_')}": "forged" for name in names}
    call = {
        "url": "/Plone/@@fixture-record",
        "queue": "life",
        "headers": forged,
        "max_attempts": 7,
    }
    headers = {**basic("jane"), **{f"X-Task-{name}": "forged" for name in names}}
    [seen] = life.instance.run(call, headers=headers)
    found = {k: v for k, v in seen["headers"].items() if k.startswith("HTTP_X_TASK_")}
    assert found == {
        "HTTP_X_TASK_ID": seen["id"],
        "HTTP_X_TASK_USER_ID": "jane",
        "HTTP_X_TASK_QUEUE": "life",
        "HTTP_X_TASK_ATTEMPT": "1",
        "HTTP_X_TASK_MAX_ATTEMPTS": "7",
    }
