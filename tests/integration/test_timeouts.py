"""Tasks that are interrupted, by the hundred: nothing of one is ever felt by another."""

from attempts import taken
from collective.taskqueue import taskqueue
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.publisher.request import publish
from persistent.mapping import PersistentMapping
from random import Random
from statistics import median
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.publisher.interfaces import IEndRequestEvent
import logging
import pytest
import threading
import time
import transaction


#: Seconds after which a test fails; only a failure takes this long.
PATIENCE = 120.0

TASKS = 400
THREADS = 2


@pytest.fixture
def consumer(queue):
    """The consumer of a server, with threads that are used again and again."""
    settings = ServerSettings(name="timeouts", concurrent_limit=THREADS, grace=PATIENCE)
    consumer = Consumer(queue.storage, publish, settings, queue.publish_event)
    consumer.start()
    yield consumer
    consumer.stop()


@pytest.fixture
def shelves(portal):
    """A persistent object for each task, and one that all of them fight for."""
    portal.shelves = PersistentMapping()
    for number in range(TASKS):
        portal.shelves[number] = PersistentMapping()
    portal.shelves["all"] = PersistentMapping()
    transaction.commit()
    return portal.shelves


def finished(queue, ids):
    """Wait until all tasks are finished; return their statuses."""
    deadline = time.monotonic() + PATIENCE
    while sum(queue.counts()[state] for state in ("queued", "scheduled", "running")):
        assert time.monotonic() < deadline, f"not finished: {queue.counts()}"
        time.sleep(0.01)
    return [queue.status(task_id) for task_id in ids]


def seconds_of_a_task(queue, view):
    """Return what one takes that does nothing, on this machine."""
    url = view("nothing", lambda context, request: "done")
    ids = [taskqueue.add(url) for _ in range(20)]
    transaction.commit()
    return median(status.attempts[0].seconds for status in finished(queue, ids))


def test_timeouts_close_to_the_time_tasks_take(
    functional, portal, queue, view, consumer, shelves, caplog
):
    """Each attempt succeeds or times out, is committed or not, and leaves no trace."""
    caplog.set_level(logging.INFO)
    database = portal._p_jar.db()
    opened = [item for item in database.connectionDebugInfo() if item["opened"]]
    log = logging.getLogger("stress")
    dice = Random(20)

    def work(context, request):
        number, shared = int(request.form["number"]), "shared" in request.form
        end = time.perf_counter() + float(request.form["seconds"])
        shelves = context.shelves
        shelves["all" if shared else number][number] = True
        while time.perf_counter() < end:
            log.info("task %d works", number)
            taskqueue.progress(1, 2)
            shelf = shelves[(number + 1) % TASKS]
            shelf._p_deactivate()
            shelf.get(number)
        if "fail" in request.form:
            raise ValueError("the work has failed")
        return "done"

    usual = seconds_of_a_task(queue, view)
    url = view("work", work)
    ids = []
    for number in range(TASKS):
        seconds, timeout = dice.uniform(0, 0.01), usual + dice.uniform(0, 0.01)
        # On any machine some are late for certain, and others for certain not.
        if number % 10 == 3:
            seconds = PATIENCE
        elif number % 10 == 7:
            timeout = PATIENCE
        params = {"number": number, "seconds": seconds}
        params |= {"shared": 1} if number % 8 == 0 else {}
        params |= {"fail": 1} if number % 5 == 0 else {}
        ids.append(taskqueue.add(url, params=params, timeout=timeout))
    transaction.commit()
    statuses = finished(queue, ids)

    expected = "TaskTimeout: the task took more than "
    late = set()
    for number, status in enumerate(statuses):
        (attempt,) = status.attempts
        if attempt.reason.startswith(expected):
            late.add(number)
            assert (status.state, attempt.status) == ("failed", 500)
        elif number % 5 == 0:
            assert attempt.reason == "ValueError: the work has failed", attempt.error
        else:
            assert (status.state, attempt.status, attempt.reason) == ("succeeded", 200, ""), (
                attempt.error
            )
    # Far from all and far from none, or nothing was tried.
    assert TASKS / 10 <= len(late) <= TASKS * 9 / 10

    transaction.begin()
    written = {n for n in range(TASKS) if shelves[n] or n in shelves["all"]}
    assert written == {n for n in range(TASKS) if n % 5} - late

    assert "unexpected error" not in caplog.text
    assert "could not be dispatched" not in caplog.text
    assert "lease lost" not in caplog.text
    assert consumer._heartbeat.running() == []
    assert len([i for i in database.connectionDebugInfo() if i["opened"]]) == len(opened)
    locks = [handler.lock for handler in logging.getLogger().handlers if handler.lock]
    locks += [queue.storage._changed, database._lock, consumer._heartbeat._changed]
    assert not [lock for lock in locks if taken(lock)]

    # The threads are those of the beginning, and as good as new.
    assert [thread.is_alive() for thread in consumer._threads] == [True] * THREADS
    ids = [taskqueue.add(url, params={"number": 1, "seconds": 0}) for _ in range(10)]
    transaction.commit()
    assert {status.state for status in finished(queue, ids)} == {"succeeded"}


@pytest.mark.parametrize("catch", [Exception, BaseException])
def test_a_view_that_catches_everything(queue, view, portal, consumer, catch):
    """It is interrupted all the same, or fails when it returns; nothing is committed."""

    def work(context, request):
        context.half = True
        try:
            while True:
                sum(range(100))
        except catch:
            return "nothing happened"

    ids = [taskqueue.add(view("work", work), timeout=0.05)]
    ids.append(taskqueue.add(view("next", lambda context, request: sum(range(10_000)) and "next")))
    transaction.commit()
    late, following = finished(queue, ids)
    assert (late.state, late.reason) == ("failed", "TaskTimeout: the task took more than 0.05 s")
    assert following.state == "succeeded"
    transaction.begin()
    assert not hasattr(portal, "half")


def test_the_traceback_tells_where_the_time_went(queue, view, consumer):
    def far_too_slow():
        while True:
            pass

    task_id = taskqueue.add(view("work", lambda context, request: far_too_slow()), timeout=1)
    transaction.commit()
    (status,) = finished(queue, [task_id])
    assert "in far_too_slow" in status.attempts[0].error


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_every_attempt_that_times_out_counts(queue, view, consumer, max_attempts):
    def work(context, request):
        while True:
            pass

    task_id = taskqueue.add(
        view("work", work), timeout=0.02, max_attempts=max_attempts, min_backoff=0
    )
    transaction.commit()
    (status,) = finished(queue, [task_id])
    assert [attempt.number for attempt in status.attempts] == list(range(1, max_attempts + 1))
    assert all(attempt.reason.startswith("TaskTimeout") for attempt in status.attempts)


def test_a_timeout_during_the_commit_does_not_undo_it(queue, view, portal, consumer):
    """What the transaction votes for is not interrupted, and has succeeded."""
    beyond = threading.Event()

    def hook():
        # Runs in the commit; longer than the timeout, until the watchdog has looked.
        deadline = time.monotonic() + PATIENCE
        (attempt,) = consumer._heartbeat.running()
        while not attempt._overdue:
            assert time.monotonic() < deadline
        beyond.set()

    def work(context, request):
        context.whole = True
        transaction.get().addBeforeCommitHook(hook)
        return "done"

    task_id = taskqueue.add(view("work", work), timeout=1)
    transaction.commit()
    (status,) = finished(queue, [task_id])
    assert beyond.is_set()
    assert (status.state, status.reason) == ("succeeded", "")
    transaction.begin()
    assert portal.whole


def test_a_timeout_while_a_conflict_is_waited_out(queue, view, consumer):
    """The request is not made again if its time is up."""
    executions = []

    def work(context, request):
        executions.append(1)
        transaction.get().addBeforeCommitHook(hook)
        return "done"

    def hook():
        deadline = time.monotonic() + PATIENCE
        (attempt,) = consumer._heartbeat.running()
        while not attempt._overdue:
            assert time.monotonic() < deadline
        raise ConflictError

    task_id = taskqueue.add(view("work", work), timeout=1)
    transaction.commit()
    (status,) = finished(queue, [task_id])
    assert executions == [1]
    assert status.reason == "TaskTimeout: the task took more than 1 s"


def test_what_fails_at_the_end_of_the_request_does_not_hide_the_timeout(queue, view, consumer):
    """The reason is the first thing that went wrong, not the last."""
    registry = getGlobalSiteManager()

    def stumble(event):
        raise RuntimeError("the request has ended")

    def work(context, request):
        while True:
            pass

    registry.registerHandler(stumble, (IEndRequestEvent,))
    try:
        task_id = taskqueue.add(view("work", work), timeout=0.05)
        transaction.commit()
        (status,) = finished(queue, [task_id])
    finally:
        registry.unregisterHandler(stumble, (IEndRequestEvent,))
    assert status.reason == "TaskTimeout: the task took more than 0.05 s"
