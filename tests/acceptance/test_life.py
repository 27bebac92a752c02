"""The life of a task: seen and steered over HTTP, in a real process."""

from acceptance.instance import basic
from acceptance.instance import wait_for
from functools import partial
import json
import pytest
import time


#: `life` has one thread, so that what its thread did before can be told. In `other` there
#: is always a thread that could run a task a second time. Leases are short in both.
QUEUES = """\
%import collective.taskqueue
<taskqueue>
  queue life
  min_backoff 0.1
</taskqueue>
<taskqueue-server>
  queue life
  lease 1
</taskqueue-server>
<taskqueue>
  queue other
</taskqueue>
<taskqueue-server>
  queue other
  concurrent_limit 3
  lease 1
</taskqueue-server>
"""


class Life:
    """The public API of the process, over HTTP."""

    def __init__(self, instance):
        self.instance = instance

    def call(self, function, **arguments):
        """Return the JSON that a function of the API answers, or its error."""
        query = self.instance.query(
            {"function": function, "arguments": json.dumps(arguments)},
        )
        return json.loads(self.instance.get(f"/@@life-api?{query}"))

    def ask(self, function, **arguments):
        """Return what a function of the API answers; it must not refuse."""
        found = self.call(function, **arguments)
        assert "error" not in found, found
        return found["answer"]

    def refused(self, function, **arguments):
        """Return the name of the error with which a function of the API refuses."""
        return self.call(function, **arguments)["error"]

    def status(self, task_id):
        return self.ask("status", task_id=task_id)

    def add(self, view, queue="life", **options):
        """Let a transaction add a task; return its id."""
        return self.ask("add", url=f"/@@life-{view}", queue=queue, **options)

    def finished(self, task_id):
        """Wait until a task is finished; return its status."""

        def status():
            found = self.status(task_id)
            return found if found["state"] in ("succeeded", "failed", "cancelled") else None

        return wait_for(status, f"task {task_id} to finish")

    def in_state(self, task_id, state):
        """Wait until a task is in a state; return its status."""

        def status():
            found = self.status(task_id)
            return found if found["state"] == state else None

        return wait_for(status, f"task {task_id} to be {state}")

    def starts(self, task_id):
        """What is recorded of each start of a task."""
        return self.instance.records(task=task_id, event="start")

    def told(self, task_id, count):
        """Wait until subscribers were told so many events; return their names, in order."""
        find = partial(self.instance.records, task=task_id)

        def names():
            found = [item["told"] for item in find() if "told" in item]
            return found if len(found) >= count else None

        return wait_for(names, f"{count} events of task {task_id}")

    def value(self):
        """What the last task that committed has written."""
        return self.instance.get("/@@life-value").decode()


@pytest.fixture(scope="module")
def life(template, tmp_path_factory):
    instance = template.copy(tmp_path_factory.mktemp("life"), QUEUES)
    try:
        yield Life(instance.start())
    finally:
        instance.kill()


@pytest.fixture
def door(life, request):
    """A name for a gate; whatever waits at it goes on when the test ends."""
    yield request.node.name
    life.instance.open(request.node.name)


# retries


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


# queues


def test_pause_and_resume(life):
    """Nothing is taken from a paused queue, and all of it afterwards, in order."""
    life.ask("pause", queue="life")
    try:
        ids = [life.add("work") for _ in range(3)]
        life.finished(life.add("work", queue="other"))
        assert life.ask("counts", queue="life")["queued"] == 3
        assert not any(life.starts(task_id) for task_id in ids)
    finally:
        life.ask("resume", queue="life")
    for task_id in ids:
        life.finished(task_id)
    starts = [start["time"] for task_id in ids for start in life.starts(task_id)]
    assert len(starts) == 3
    assert starts == sorted(starts)


def test_reset_of_one_queue_leaves_the_other_alone(life):
    """D25."""
    life.ask("pause", queue="life")
    life.ask("pause", queue="other")
    try:
        lost = [life.add("work"), life.add("work", delay=3600)]
        kept = life.add("work", queue="other")
        assert life.ask("reset", queue="life") == 2
        for task_id in lost:
            assert life.refused("status", task_id=task_id) == "UnknownTask"
        assert (
            life.ask("counts", queue="life")["queued"]
            == life.ask("counts", queue="life")["scheduled"]
            == 0
        )
        assert life.status(kept)["state"] == "queued"
    finally:
        life.ask("resume", queue="life")
        life.ask("resume", queue="other")
    assert life.finished(kept)["state"] == "succeeded"


def test_remove(life, door):
    """A finished record is forgotten; a running task is not."""
    task_id = life.add("work")
    life.finished(task_id)
    life.ask("remove", task_id=task_id)
    assert life.refused("status", task_id=task_id) == "UnknownTask"
    running = life.add(f"gate?name={door}")
    life.in_state(running, "running")
    assert life.refused("remove", task_id=running) == "ForbiddenTransition"


def test_tasks_and_purge(life):
    """One page of one state; then that state is forgotten, and no other."""
    failed = life.add("pointless")
    life.finished(failed)
    ids = [life.add("work") for _ in range(3)]
    for task_id in ids:
        life.finished(task_id)
    number = life.ask("counts", queue="life")["succeeded"]
    page = life.ask("tasks", queue="life", state="succeeded", start=number - 2, size=5)
    assert [status["id"] for status in page] == ids[1:]
    assert life.ask("purge", queue="life", state="succeeded") == number
    assert life.ask("counts", queue="life")["succeeded"] == 0
    assert life.status(failed)["state"] == "failed"


# keys


@pytest.fixture
def paused(life):
    life.ask("pause", queue="other")
    yield
    life.ask("resume", queue="other")


def add_with_key(life, key, **options):
    return life.add("work", queue="other", key=key, **options)


def test_key_skips(life, paused, request):
    """The id of a skipped task is a name of the one that waits; that runs once."""
    key = request.node.name
    first, second = add_with_key(life, key), add_with_key(life, key)
    other = add_with_key(life, f"{key}-other")
    assert first != second
    assert life.status(second)["id"] == first
    assert life.status(other)["id"] == other
    life.ask("resume", queue="other")
    assert life.finished(second)["state"] == "succeeded"
    assert len(life.starts(first)) == 1
    assert not life.starts(second)
    assert life.told(first, 3) == ["TaskQueued", "TaskStarted", "TaskSucceeded"]
    assert not life.instance.records(task=second)
    third = add_with_key(life, key)
    assert life.finished(third)["id"] == third


def test_key_replaces(life, paused, request):
    """The earlier one that waits is cancelled."""
    key = request.node.name
    first = add_with_key(life, key)
    second = add_with_key(life, key, on_conflict="replace")
    status = life.status(first)
    assert (status["state"], status["reason"]) == ("cancelled", f"replaced by {second}")
    life.ask("resume", queue="other")
    assert life.finished(second)["state"] == "succeeded"
    assert not life.starts(first)
    assert life.told(first, 2) == ["TaskQueued", "TaskCancelled"]


@pytest.mark.parametrize("then", ["abort", "doom"])
def test_a_transaction_that_is_aborted_does_not_count(life, paused, request, then):
    """It neither takes the key nor replaces who has it."""
    key = f"key-{then}"
    call = {"url": "/@@life-work", "queue": "other", "key": key}
    [lost] = life.instance.add(call, path="", then=then)["ids"]
    first = add_with_key(life, key)
    assert life.status(first)["id"] == first
    call["on_conflict"] = "replace"
    [second_lost] = life.instance.add(call, path="", then=then)["ids"]
    assert life.status(first)["state"] == "queued"
    for task_id in (lost, second_lost):
        assert life.refused("status", task_id=task_id) == "UnknownTask"


def test_key_after_running(life, request, door):
    """At most one runs and one waits, the newest; other threads have nothing to do."""
    options = {"queue": "other", "key": request.node.name, "on_conflict": "after_running"}
    first = life.add(f"gate?name={door}", **options)
    wait_for(lambda: life.starts(first), "the first one to start")
    second = life.add("work", **options)
    third = life.add("work", **options)
    life.finished(life.add("work", queue="other"))
    assert life.status(second)["state"] == "cancelled"
    assert life.status(third)["state"] == "queued"
    life.instance.open(door)
    life.finished(third)
    [end] = life.instance.records(task=first, event="end")
    [start] = life.starts(third)
    assert start["time"] >= end["time"]
    assert not life.starts(second)


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


# subscribers


def test_a_subscriber_that_adds_a_task(life):
    """The transaction of the subscriber is committed, and the task runs."""
    task_id = life.add("pointless", description="add")
    life.finished(task_id)

    def following():
        page = life.ask("tasks", queue="other", size=10_000)
        found = [item for item in page if item["task"]["description"] == f"after {task_id}"]
        return [item for item in found if item["state"] == "succeeded"]

    [status] = wait_for(following, "the task of the subscriber")
    assert len(life.starts(status["id"])) == 1


def test_a_subscriber_that_raises(life):
    """It is logged, and harms nothing."""
    task_id = life.add("pointless", description="raise alarm")
    assert life.finished(task_id)["reason"] == "Discard: there is nothing to do"
    wait_for(
        lambda: life.instance.lines(f"task {task_id}: a subscriber of TaskFailed failed"),
        "the line about the subscriber",
    )
    assert life.instance.lines("RuntimeError: alarm")
    following = life.add("work")
    assert life.finished(following)["state"] == "succeeded"
    assert life.told(following, 3)[-1] == "TaskSucceeded"


def test_a_slow_subscriber_does_not_delay_the_consumer(life, door):
    """Tasks go on; events wait their turn and are told in order."""
    task_id = life.add("pointless", description=f"wait {door}")
    wait_for(lambda: life.instance.records(waits=task_id), "the subscriber to be slow")
    following = life.add("work")
    assert life.finished(following)["state"] == "succeeded"
    assert not [item for item in life.instance.records(task=following) if "told" in item]
    life.instance.open(door)
    assert life.told(following, 3) == ["TaskQueued", "TaskStarted", "TaskSucceeded"]
