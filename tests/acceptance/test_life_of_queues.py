"""Queues, keys and subscribers: steered over HTTP, in a real process."""

from acceptance.instance import wait_for
import pytest


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
    task_id = life.add("pointless", description="raise notifier")
    assert life.finished(task_id)["reason"] == "Discard: there is nothing to do"
    wait_for(
        lambda: life.instance.lines(f"task {task_id}: a subscriber of TaskFailed failed"),
        "the line about the subscriber",
    )
    assert life.instance.lines("RuntimeError: notifier")
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
