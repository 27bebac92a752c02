"""What must not follow from something that goes wrong on the side, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages.sql import session
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.schema import BATCH
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.session import Conflict
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from sqlalchemy import text
from traceback import format_exception
from typing import Any
import gc
import pytest


@pytest.fixture
def make_storage(url: str) -> Iterator[Callable[..., SqlStorage]]:
    made: list[SqlStorage] = []

    def make(**settings: Any) -> SqlStorage:
        made.append(SqlStorage(QueueSettings(type="sql", url=url, **settings)))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


@pytest.fixture
def storage(make_storage: Callable[..., SqlStorage]) -> SqlStorage:
    return make_storage()


def test_what_cannot_be_forgotten_costs_no_lease(storage, monkeypatch):
    """The completion is stored and the next task handed out; a failed clean-up is no error."""
    add_one(storage)
    second = add_one(storage)

    single = storage._session.single
    maintenance = []

    def fail(work: Any) -> Any:
        if "Retention" not in work.__qualname__:
            return single(work)
        maintenance.append(work)
        raise StorageUnavailable("gone")

    lease = take(storage)
    monkeypatch.setattr(storage._session, "single", fail)
    [state], [following] = storage.complete_and_reserve([(lease, completed(lease))], "consumer")
    assert (state, following.task.id) == (SUCCEEDED, second.id)
    assert storage.complete(following, completed(following)) == SUCCEEDED
    assert maintenance


def test_who_is_replaced_is_asked_anew_after_a_conflict(make_storage, monkeypatch):
    """The newer task of its key was there at the first try, and is cancelled by the second."""
    storage, other = make_storage(), make_storage()
    task = add_one(storage, key="key", on_conflict="replace")
    lease = take(storage)
    newer = add_one(storage, key="key", on_conflict="replace")
    execute = storage._session.execute
    conflicts = [1]

    def conflicting(connection: Any, statement: Any, **values: Any) -> Any:
        result = execute(connection, statement, **values)
        if statement is storage._statements.finish and conflicts:
            conflicts.pop()
            raise Conflict
        return result

    class Clock:
        monotonic = staticmethod(session.time.monotonic)

        @staticmethod
        def sleep(seconds: float) -> None:
            other.admin.cancel(newer.id)

    monkeypatch.setattr(storage._session, "execute", conflicting)
    monkeypatch.setattr(session, "time", Clock)
    assert storage.complete(lease, completed(lease, SCHEDULED, due=2e9)) == SCHEDULED
    assert (storage.admin.get(task.id).state, storage.admin.get(newer.id).state) == (
        SCHEDULED,
        CANCELLED,
    )


def test_a_batch_that_cannot_be_read(storage):
    """It stays in doubt; the others are decided."""
    for batch in ("broken", "sound"):
        storage.stage(batch, [new_task()])
    mine = BATCH.c.id == "broken"
    storage._session.single(
        lambda connection: connection.execute(BATCH.update().where(mine).values(tasks=b"?"))
    )
    assert [len(batch.tasks) for batch in storage.admin.in_doubt()] == [0, 1]
    with pytest.raises(TaskDecodeError, match="no staged batch"):
        storage.promote("broken")
    storage.promote("sound")
    assert [batch.id for batch in storage.admin.in_doubt()] == ["broken"]


def test_a_task_that_cannot_be_read(storage):
    """It has failed, and those that are taken together with it are handed out."""
    tasks = [add_one(storage) for _ in range(3)]
    mine = TASK.c.id == tasks[1].id
    storage._session.single(
        lambda connection: connection.execute(TASK.update().where(mine).values(body=b"?"))
    )
    leases = storage.reserve("consumer", limit=5, timeout=0)
    assert [lease.task.id for lease in leases] == [tasks[0].id, tasks[2].id]
    assert storage.admin.get(tasks[1].id).state == FAILED


@pytest.mark.parametrize(
    ("part", "stored"),
    [
        ("history", '{"number": 1}\n?\n'),
        ("history", '{"number": "1", "consumer": 2, "started": 0, "seconds": 0}\n'),
        ("changes", "running soon;"),
        ("changes", ""),
        ("progress", "?"),
        ("progress", '{"done": "half", "total": 1, "message": "", "time": 0}'),
        ("response", b"?"),
        ("response", b"\x93\x90\xa1?\xc2"),
        ("task", b"?"),
        ("state", "lost"),
    ],
)
def test_a_record_that_is_damaged(storage, part, stored):
    """It is shown with what can be read of it and with that as its reason; others are shown."""
    tasks = [add_one(storage), add_one(storage)]
    lease = take(storage)
    storage.complete(lease, completed(lease, FAILED, reason="status 503"))
    column = {"response": "last", "task": "body"}.get(part, part)
    mine = TASK.c.id == lease.task.id
    storage._session.single(
        lambda connection: connection.execute(TASK.update().where(mine).values({column: stored}))
    )
    found = storage.admin.tasks()
    assert {status.id for status in found} == {task.id for task in tasks}
    [brief] = [status for status in found if status.id == lease.task.id]
    status = storage.admin.get(lease.task.id)
    assert status.reason == f"status 503; its record is damaged, unreadable: {part}"
    # A list reads neither history nor response.
    seen = part not in ("history", "response")
    assert brief.reason == (status.reason if seen else "status 503")
    for shown in (brief, status):
        assert shown.changes[-1][0] == shown.state == FAILED
        assert shown.status == 503


def test_no_task_in_a_traceback(storage):
    """What is logged of an error names neither payloads nor people."""
    storage.admin.check()
    storage._session.single(
        lambda connection: connection.execute(text("DROP TABLE taskqueue_batch"))
    )
    task = new_task(payload=b"confidential")
    with pytest.raises(StorageUnavailable) as found:
        storage.stage("batch", [task])
    told = "".join(format_exception(found.value))
    assert "INSERT INTO taskqueue_batch" in told
    assert task.payload.decode() not in told


def test_what_is_asked_again_and_again_fills_no_memory(storage):
    """Nothing is kept of a statement that is gone, nor taken for what another one needs."""
    add_one(storage)

    def ask() -> None:
        for state in (None, *STATES):
            storage.admin.tasks(state, "jane", start=1, size=7)
        storage.admin.consumers()
        storage.admin.throughput()
        storage.admin.clear()

    def kept() -> int:
        gc.collect()
        return len(storage._session.engine._compiled_cache)

    ask()
    before = kept()
    for _ in range(20):
        ask()
    assert kept() <= before


@pytest.mark.parametrize("action", ACTIONS)
def test_the_answer_to_many_changes_is_lost(storage, monkeypatch, action):
    """They are made once, and those that were made are told; others stay as they are."""
    ended = [add_one(storage) for _ in range(3)]
    for _ in ended:
        lease = take(storage)
        storage.complete(lease, completed(lease, FAILED))
    waiting = [add_one(storage) for _ in range(3)]
    names = [task.id for task in (*ended, *waiting)]
    expected = names[3:] if action == "cancel" else names[:3]
    write = storage._session.write
    others = storage.admin.counts()

    def lossy(work: Any) -> Any:
        if "Changes" not in work.__qualname__:
            return write(work)
        # The first try is committed.
        write(work)
        return write(work)

    monkeypatch.setattr(storage._session, "write", lossy)
    assert list(storage.admin.change(action, names, STATES)) == expected
    counts = storage.admin.counts()
    assert (counts[FAILED], counts[QUEUED], counts[CANCELLED]) == {
        "retry": (0, 6, 0),
        "cancel": (3, 0, 3),
        "remove": (0, 3, 0),
    }[action]
    assert others[FAILED] == others[QUEUED] == 3
    assert storage.admin.change(action, names, STATES) == {}


def test_a_try_that_was_rolled_back_counts_for_nothing(storage, make_storage, monkeypatch):
    """Another process has changed the tasks before the second try."""
    other = make_storage()
    task = add_one(storage)
    lease = take(storage)
    storage.complete(lease, completed(lease, FAILED))
    write = storage._session.write

    def conflicting(work: Any) -> Any:
        if "Changes" not in work.__qualname__:
            return write(work)

        def rolled_back(connection: Any) -> Any:
            work(connection)
            raise UnknownTask("rolled back")

        with pytest.raises(UnknownTask):
            write(rolled_back)
        assert other.admin.change("retry", [task.id], STATES) == {task.id: QUEUED}
        return write(work)

    monkeypatch.setattr(storage._session, "write", conflicting)
    assert storage.admin.change("retry", [task.id], STATES) == {}
    assert storage.admin.counts()[QUEUED] == 1
