"""What is always true of a storage, seen from outside and compared with the model."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.contract.base import ids
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.model.expected import Entry
from collective.taskqueue.model.expected import ExpectedQueue
from collective.taskqueue.model.expected import near
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from typing import Any


#: Keys whose tasks all are `after_running`.
SERIAL = ("this", "that")

#: Changes and attempts that are compared; a storage need not keep more than that.
HISTORY = 50

#: More tasks than there ever are.
EVERYTHING = 1_000_000


def check_all(
    storage: Any, expected: ExpectedQueue, staged: Mapping[str, Sequence[Task]], now: float
) -> None:
    """Compare all that can be seen; called after each step."""
    known = {status.id: status for status in storage.tasks(size=EVERYTHING)}
    # First of all, because the model may only know now what the storage has forgotten.
    expected.notice_forgotten(known, now)
    _check_tasks(known, expected.entries)
    lines = {state: ids(storage.tasks(state, size=EVERYTHING)) for state in STATES}
    _check_lines(storage, expected, lines)
    _check_order(expected, lines)
    _check_serial_tasks(known)
    _check_skipped_tasks(storage, expected)
    assert storage.paused() is expected.paused
    found = {batch.id: batch.tasks for batch in storage.in_doubt()}
    assert found == {batch: tuple(ids(tasks)) for batch, tasks in staged.items()}


def _check_tasks(known: Mapping[str, TaskStatus], expected: Mapping[str, Entry]) -> None:
    assert known.keys() <= expected.keys(), "there are tasks that should not be"
    assert known.keys() >= expected.keys(), "tasks are lost"
    for task_id, entry in expected.items():
        _compare(known[task_id], entry)


def _compare(status: TaskStatus, entry: Entry) -> None:
    assert (status.id, status.state) == (entry.id, entry.state)
    assert status.task == entry.task
    assert status.consumer == entry.consumer
    assert near(status.due, entry.due)
    attempts = [(attempt.number, attempt.status) for attempt in status.attempts]
    assert attempts[-HISTORY:] == entry.attempts[-HISTORY:]
    pairs = zip(status.changes[-HISTORY:], entry.changes[-HISTORY:], strict=True)
    for (state, when), (expected, expected_when) in pairs:
        assert state == expected, "the history is not what has happened"
        assert near(when, expected_when), "it happened at another time"
    if entry.state == RUNNING:
        assert status.cancel_requested is entry.cancel_requested
        assert status.progress == entry.progress


def _check_lines(storage: Any, expected: ExpectedQueue, lines: Mapping[State, list[str]]) -> None:
    counts = expected.counts()
    assert storage.counts() == counts
    assert len(storage) == counts[QUEUED]
    for state, line in lines.items():
        assert sorted(line) == sorted(ids(expected.line(state)))


def _check_order(expected: ExpectedQueue, lines: Mapping[State, list[str]]) -> None:
    assert lines[SCHEDULED] == ids(expected.line(SCHEDULED)), "not in the order of dues"
    queued = [expected.entries[task_id] for task_id in lines[QUEUED]]
    ready = [entry for entry in queued if not expected.blocked(entry)]
    for place, entry in enumerate(ready):
        late = [other.id for other in ready[place:] if other.precedes(entry)]
        assert not late, f"{late} should come before {entry.id}"


def _check_serial_tasks(known: Mapping[str, TaskStatus]) -> None:
    for key in SERIAL:
        found = [status.state for status in known.values() if status.task.key == key]
        assert found.count(RUNNING) <= 1, "two tasks of one key run"
        assert found.count(QUEUED) + found.count(SCHEDULED) <= 1, "two tasks of one key wait"


def _check_skipped_tasks(storage: Any, expected: ExpectedQueue) -> None:
    known = expected.entries.keys()
    for name, others in expected.aliases.items():
        try:
            found = storage.get(name).id
        except UnknownTask:
            assert not others <= known, "a skipped task is lost"
        else:
            assert found in others & known
