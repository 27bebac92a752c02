"""The invariants of a storage: everything it shows is compared with the model."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.testing.contract.base import brief_of
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.model.expected import Entry
from collective.taskqueue.testing.model.expected import ExpectedQueue
from collective.taskqueue.testing.model.expected import near
from dataclasses import replace
from typing import Any
import math


#: Keys that only tasks with `after_running` have.
SERIAL = ("this", "that")

#: Different persons with the same user id.
PERSONS = (
    Identity("/acl_users", "jane"),
    Identity("/Plone/acl_users", "jane"),
    Identity("/Plone/acl_users", "jane", 1),
)

#: How many of the last changes and attempts are compared; a storage may keep only these.
HISTORY = 50

#: A page size larger than any number of tasks in a test.
EVERYTHING = 1_000_000


def check_all(
    storage: Any,
    expected: ExpectedQueue,
    staged: Mapping[str, Sequence[Task]],
    seen: dict[str, TaskStatus],
    now: float,
) -> None:
    """Compare everything that the storage shows with the model; called after each step.

    `seen` has the statuses that lists showed after the previous step; it is updated.
    """
    known = {status.id: status for status in storage.admin.tasks(size=EVERYTHING)}
    # This comes first: the model learns here which records the storage has forgotten.
    expected.notice_forgotten(known, now)
    _check_tasks(known, expected.entries)
    _check_whole(storage, known, seen, expected.entries)
    _check_persons(storage, expected)
    lines = {state: ids(storage.admin.tasks(state, size=EVERYTHING)) for state in STATES}
    _check_lines(storage, expected, lines)
    _check_order(expected, lines)
    _check_serial_tasks(known)
    _check_skipped_tasks(storage, expected)
    assert storage.admin.paused() is expected.paused
    found = {batch.id: batch.tasks for batch in storage.admin.in_doubt()}
    assert found == {batch: tuple(ids(tasks)) for batch, tasks in staged.items()}


def check_search(storage: Any, expected: ExpectedQueue, wanted: TaskFilter, size: int) -> None:
    """Compare what a search finds, page by page, with the model."""
    entries = list(expected.entries.values()) if wanted.user is None else expected.of(wanted.user)
    matching = [
        entry.id
        for entry in entries
        if entry.state in (wanted.states or STATES)
        and (wanted.since or 0.0) <= entry.task.created < (wanted.until or math.inf)
        and entry.task.url[: len(wanted.url or "")] == (wanted.url or "")
    ]
    found: list[str] = []
    cursor, more = None, True
    while more:
        page = storage.admin.search(wanted, cursor, size)
        assert len(page.tasks) <= size
        found += ids(page.tasks)
        cursor, more = page.cursor, page.cursor is not None
    assert found == matching, "a search finds others"


def _check_whole(
    storage: Any,
    known: dict[str, TaskStatus],
    seen: dict[str, TaskStatus],
    expected: Mapping[str, Entry],
) -> None:
    """Compare the fields that lists do not show, for the tasks that have changed."""
    for task_id, status in known.items():
        if status != seen.get(task_id):
            whole = storage.admin.get(task_id)
            assert brief_of(whole) == storage.admin.get(task_id, brief=True) == status
            assert whole.task == expected[task_id].task
            attempts = [(attempt.number, attempt.status) for attempt in whole.attempts]
            assert attempts[-HISTORY:] == expected[task_id].attempts[-HISTORY:]
    seen.clear()
    seen.update(known)


def _check_persons(storage: Any, expected: ExpectedQueue) -> None:
    for user in (*PERSONS, PERSONS[0].id):
        entries = expected.of(user)
        counts = expected.counts(user)
        assert storage.admin.counts(user) == counts
        assert ids(storage.admin.tasks(None, user, 0, EVERYTHING)) == ids(entries)
        for state in STATES:
            # The counts have already shown which lists are empty.
            if counts[state]:
                mine = [entry.id for entry in entries if entry.state == state]
                found = ids(storage.admin.tasks(state, user, 0, EVERYTHING))
                assert sorted(found) == sorted(mine)


def _check_tasks(known: Mapping[str, TaskStatus], expected: Mapping[str, Entry]) -> None:
    assert known.keys() <= expected.keys(), "there are tasks that should not be"
    assert known.keys() >= expected.keys(), "tasks are lost"
    for task_id, entry in expected.items():
        _compare(known[task_id], entry)


def _compare(status: TaskStatus, entry: Entry) -> None:
    assert (status.id, status.state) == (entry.id, entry.state)
    assert status.task == replace(entry.task, payload=b"")
    assert status.consumer == entry.consumer
    assert near(status.due, entry.due)
    assert status.attempts_made == len(entry.attempts)
    pairs = zip(status.changes[-HISTORY:], entry.changes[-HISTORY:], strict=True)
    for (state, when), (expected, expected_when) in pairs:
        assert state == expected, "the history is not what has happened"
        assert near(when, expected_when), "it happened at another time"
    if entry.state == RUNNING:
        assert status.cancel_requested is entry.cancel_requested
        assert status.progress == entry.progress


def _check_lines(storage: Any, expected: ExpectedQueue, lines: Mapping[State, list[str]]) -> None:
    counts = expected.counts()
    assert storage.admin.counts() == counts
    assert storage.admin.counts()["queued"] == counts[QUEUED]
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
            found = storage.admin.get(name).id
        except UnknownTask:
            assert not others <= known, "a skipped task is lost"
        else:
            assert found in others & known
