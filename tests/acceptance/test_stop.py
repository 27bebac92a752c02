"""How a process ends: what runs may finish, what waits is not begun, and the log says so."""

from acceptance.instance import SNIPPET
from acceptance.instance import wait_for
from contextlib import closing
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
import pytest
import signal


def stored(instance):
    """What tasks have written to the database, read after the process has ended."""
    storage = FileStorage(str(instance.home / "var" / "Data.fs"), read_only=True)
    with closing(DB(storage)) as database, closing(database.open()) as connection:
        return getattr(connection.root()["Application"], "fixture_value", None)


def with_grace(seconds):
    return SNIPPET.replace(
        "<taskqueue-server />", f"<taskqueue-server>\ngrace {seconds}\n</taskqueue-server>"
    )


def begin(instance):
    """Start a process with one slow task that runs and two that wait; return their ids."""
    instance.start()
    gate = {"url": "/@@fixture-gate?name=slow&value=slow"}
    ids = instance.add(gate, {"url": "/@@fixture-record"}, {"url": "/@@fixture-record"}, path="")
    wait_for(lambda: instance.records(gate="slow"), "the slow task to start")
    return ids["ids"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_task_may_finish(zope, number):
    """C38, C89, H25, O19: it finishes in the grace period and its effect stays; no other begins."""
    instance = zope(SNIPPET)
    slow, *waiting = begin(instance)
    instance.signal(number)
    wait_for(lambda: instance.lines("stopping"), "the consumer to take no more tasks")
    assert instance.process.poll() is None
    instance.open("slow")
    assert instance.wait() == 0
    assert stored(instance) == "slow"
    assert instance.records(gate="slow", event="end")
    assert instance.lines(slow, '"GET /@@fixture-gate', " 200 ")
    for task_id in waiting:
        assert instance.records(id=task_id) == []
        [line] = instance.lines(task_id)
        assert "lost with this process" in line
    assert instance.lines("consumer default of queue default: stopped")
    assert not instance.lines("left unfinished")


def test_a_task_that_takes_too_long(zope):
    """C89: after the grace period it is left unfinished, which is logged; nothing is stored."""
    instance = zope(with_grace(1))
    slow, *waiting = begin(instance)
    instance.signal(signal.SIGTERM)
    assert instance.wait() == 0
    [line] = instance.lines("left unfinished")
    assert slow in line
    assert instance.lines("consumer default of queue default: stopped")
    assert stored(instance) is None
    assert not instance.records(event="end")
    assert not any(instance.records(id=task_id) for task_id in waiting)


def test_a_second_signal_does_not_wait(zope):
    """C89: who asks twice means it, however long the grace period is."""
    instance = zope(with_grace(3600))
    slow, *_ = begin(instance)
    instance.signal(signal.SIGTERM)
    wait_for(lambda: instance.lines("stopping"), "the consumer to take no more tasks")
    instance.signal(signal.SIGTERM)
    assert instance.wait() == 0
    [line] = instance.lines("left unfinished")
    assert slow in line
    assert stored(instance) is None
