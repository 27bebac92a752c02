"""The public functions for a queue: what they answer, and how they refuse."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing import run_tasks
from integration.api.conftest import add
from integration.api.conftest import finished
from plone.app.testing import logout
from plone.app.testing import TEST_USER_ID
import pytest
import transaction


def test_counts(url, bad, queue):
    """O14."""
    assert taskqueue.counts() == dict.fromkeys(STATES, 0)
    finished(url)
    finished(bad)
    add(url, delay=60)
    taskqueue.cancel(add(url))
    add(url)
    assert taskqueue.counts() == {
        QUEUED: 1,
        SCHEDULED: 1,
        RUNNING: 0,
        SUCCEEDED: 1,
        FAILED: 1,
        CANCELLED: 1,
    }
    assert len(queue) == 1


def test_tasks(url, bad, other):
    failed = finished(bad)
    ids = [add(url) for _ in range(3)]
    logout()
    anonymous = add(url)
    elsewhere = add(url, queue="other")
    assert [status.id for status in taskqueue.tasks()] == [failed, *ids, anonymous]
    assert [status.id for status in taskqueue.tasks(state=FAILED)] == [failed]
    assert [status.id for status in taskqueue.tasks(user=TEST_USER_ID)] == [failed, *ids]
    assert [s.id for s in taskqueue.tasks(user=TEST_USER_ID, state=QUEUED)] == ids
    assert [s.id for s in taskqueue.tasks(state=QUEUED, start=1, size=2)] == ids[1:]
    assert [status.id for status in taskqueue.tasks(queue="other")] == [elsewhere]
    assert taskqueue.tasks(start=99) == []


def test_pause_and_resume(url, other):
    task_id, elsewhere = add(url), add(url, queue="other")
    taskqueue.pause()
    assert [run.task.id for run in run_tasks()] == [elsewhere]
    assert taskqueue.counts()[QUEUED] == 1
    taskqueue.resume()
    assert [run.task.id for run in run_tasks()] == [task_id]


def test_purge(url, bad):
    """One final state, by default succeeded; others are no state to purge."""
    waiting = add(url, delay=60)
    failed = finished(bad)
    for _ in range(2):
        finished(url)
    assert taskqueue.purge() == 2
    assert taskqueue.purge() == 0
    assert {status.id for status in taskqueue.tasks()} == {waiting, failed}
    assert taskqueue.purge(state=FAILED) == 1
    for state in (QUEUED, SCHEDULED, RUNNING, "unheard-of"):
        with pytest.raises(ForbiddenTransition):
            taskqueue.purge(state=state)
    assert [status.id for status in taskqueue.tasks()] == [waiting]


def test_reset(url, other):
    """D25: what waits in that queue is gone at once, and nothing else."""
    done = finished(url)
    for options in ({}, {"delay": 60}, {"queue": "other"}):
        add(url, **options)
    uncommitted = taskqueue.add(url)
    assert taskqueue.reset() == 2
    transaction.commit()
    assert [status.id for status in taskqueue.tasks()] == [done, uncommitted]
    assert taskqueue.counts("other")[QUEUED] == 1
    assert taskqueue.reset("other") == 1


@pytest.mark.parametrize("name", ["tasks", "counts", "pause", "resume", "purge", "reset"])
def test_unknown_queue(name, url, queue):
    """C22: the known ones are listed; nothing is changed."""
    task_id = add(url)
    with pytest.raises(UnknownQueue, match=r"'missing' \(known: default\)"):
        getattr(taskqueue, name)(queue="missing")
    assert [run.task.id for run in run_tasks()] == [task_id]
