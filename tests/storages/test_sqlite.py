"""What only SQLite can suffer: a full disk, a file that cannot be written, a lost log."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.dialects import sqlite
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from pathlib import Path
from sqlalchemy import event
from typing import Any
import os
import pytest
import sqlite3
import time


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def make_storage(path: Path) -> Iterator[Callable[..., SqlStorage]]:
    made: list[SqlStorage] = []

    def make(url: str = f"sqlite:///{path}", **settings: Any) -> SqlStorage:
        made.append(SqlStorage(QueueSettings(type="sql", url=url, **settings)))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


def pragma(storage: SqlStorage, name: str) -> Any:
    return storage._session.read(
        lambda connection: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
    )


def is_sound(path: Path) -> bool:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def test_every_commit_reaches_the_disk(make_storage):
    """N30: a power cut takes nothing that was promoted."""
    storage = make_storage()
    add_one(storage)
    assert pragma(storage, "journal_mode") == "wal"
    assert pragma(storage, "synchronous") == 2
    assert pragma(storage, "busy_timeout") == 3000


def test_a_full_disk(make_storage, path):
    """The commit is refused with that as its reason; what was queued before still runs."""
    storage = make_storage()
    tasks = [add_one(storage) for _ in range(3)]
    pages = pragma(storage, "page_count")

    def limit(number: int) -> None:
        storage._session.dialect.let_go()
        limits.append(number)

    limits = [2**30]
    event.listen(
        storage._session.engine,
        "connect",
        lambda connection, record: connection.execute(f"PRAGMA max_page_count={limits[-1]}"),
    )
    limit(pages)
    with pytest.raises(StorageUnavailable, match="full"):
        storage.stage("batch", [new_task(payload=b"x" * 100_000)])
    assert is_sound(path)
    limit(2**30)
    storage.promote("batch")
    tasks.append(add_one(storage))
    assert take_all(storage) == ids(tasks)


def test_a_file_that_cannot_be_written(make_storage, path):
    """It can be looked at, and every change is refused with a sentence."""
    storage = make_storage()
    task = add_one(storage)
    reader = make_storage(f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(StorageUnavailable, match="readonly"):
        reader.stage("batch", [new_task()])
    assert take_all(storage) == [task.id]
    assert is_sound(path)


def test_a_writer_that_does_not_let_go(make_storage, path):
    """The commit waits no longer than `stage_timeout`."""
    storage = make_storage(stage_timeout=0.2)
    add_one(storage)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        refused = aside(lambda: storage.stage("batch", [new_task()]))
        assert "locked" in str(refused.exception(BOUND))
    finally:
        other.close()
    add_one(storage)
    assert storage.admin.counts()["queued"] == 2


def test_two_that_make_the_file_at_the_same_moment(make_storage, path):
    """One has the file and is not done yet: the other one waits, though SQLite does not."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    storage = make_storage(stage_timeout=BOUND)
    waiting = aside(storage.admin.check)
    with pytest.raises(TimeoutError):
        waiting.result(0.2)
    other.execute("COMMIT")
    other.close()
    assert waiting.result(BOUND) is None
    add_one(storage)


def test_who_waits_for_threads_waits_less_for_processes(make_storage, monkeypatch):
    """All waits of a commit together are no longer than `stage_timeout`."""
    storage = make_storage(stage_timeout=2.0)
    add_one(storage)
    now = [time.monotonic()]

    class Gate:
        def acquire(self, timeout: float) -> bool:
            now[0] += 1.5
            return True

        def release(self) -> None:
            """No other thread waits for the gate."""

    monkeypatch.setattr(sqlite.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(storage._session.dialect, "_gate", Gate())
    rest = storage._session.single(
        lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
    )
    assert rest == 500


def test_the_log_is_moved_away_while_it_is_used(make_storage, path):
    """Refused until all processes are started anew; nothing is lost by then."""
    storage = make_storage()
    tasks = [add_one(storage) for _ in range(3)]
    log = path.with_name(f"{path.name}-wal")
    log.rename(path.with_name("elsewhere"))
    with pytest.raises(StorageUnavailable, match=r"sqlite-wal was moved away"):
        storage.stage("batch", [new_task()])
    storage.close()
    assert is_sound(path)
    assert take_all(make_storage()) == ids(tasks)


@pytest.mark.parametrize("replaced", [True, False])
def test_the_file_is_moved_away_while_it_is_used(make_storage, path, replaced):
    """Calls are refused, not written to a file that was moved; put back, it has everything."""
    storage = make_storage()
    tasks = [add_one(storage) for _ in range(3)]
    aside = path.with_name("elsewhere")
    path.rename(aside)
    if replaced:
        path.write_bytes(b"")
    with pytest.raises(StorageUnavailable, match=r"queue\.sqlite was moved away or replaced"):
        storage.stage("batch", [new_task()])
    with pytest.raises(StorageUnavailable, match=r"queue\.sqlite was moved away or replaced"):
        storage.admin.counts()["queued"]
    storage.close()
    aside.rename(path)
    assert is_sound(path)
    assert take_all(make_storage()) == ids(tasks)


def test_a_log_that_is_copied_away(make_storage, path):
    """A copy of the two files in use, made while no process writes, is a whole queue."""
    storage = make_storage()
    tasks = [add_one(storage) for _ in range(3)]
    for item in (path, path.with_name(f"{path.name}-wal")):
        item.with_name(item.name.replace("queue", "copy")).write_bytes(item.read_bytes())
    tasks.append(add_one(storage))
    assert take_all(make_storage(f"sqlite:///{path.with_name('copy.sqlite')}")) == ids(tasks[:3])
    assert take_all(storage) == ids(tasks)


def test_after_an_orderly_end_the_file_is_all_there_is(make_storage, path):
    """A copy of it alone, made between two starts, has every task."""
    storage = make_storage()
    task = add_one(storage)
    storage.close()
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    assert take_all(make_storage(f"sqlite:///{copy}")) == [task.id]


def test_a_change_by_another_process_wakes(make_storage):
    """Without a word between the two: the file tells."""
    consumer, producer = make_storage(), make_storage()
    blocked = aside(lambda: consumer.reserve("consumer", timeout=BOUND))
    with pytest.raises(TimeoutError):
        blocked.result(0.2)
    task = add_one(producer)
    [lease] = blocked.result(BOUND)
    assert lease.task.id == task.id


def test_an_idle_consumer_writes_nothing(make_storage, path):
    """Else each one that looks would wake all the others, without an end."""
    consumer, other = make_storage(), make_storage()
    assert consumer.reserve("consumer", timeout=0) == []
    before = pragma(other, "data_version")
    for _ in range(5):
        assert consumer.reserve("consumer", timeout=0) == []
    assert pragma(other, "data_version") == before


def test_a_long_history_is_shortened(make_storage):
    """Attempts and changes are kept up to a hundred."""
    storage = make_storage()
    task = add_one(storage)
    for _ in range(400):
        lease = take(storage)
        storage.complete(lease, completed(lease, "scheduled", due=1.0))
    status = storage.admin.get(task.id)
    assert 100 <= len(status.attempts) <= 400
    assert 100 <= len(status.changes) <= 250
    assert status.attempts[-1].number == 400


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_new_file_is_private(make_storage, path, umask):
    """With its log and its index: there are payloads in it, and the names of people."""
    before = os.umask(umask)
    try:
        storage = make_storage()
        add_one(storage)
        modes = {item.name: item.stat().st_mode & 0o777 for item in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys((path.name, f"{path.name}-wal", f"{path.name}-shm"), 0o600)


def test_a_new_file_behind_a_link_is_private(make_storage, path):
    """The file is where the link leads."""
    there = path.with_name("there.sqlite")
    path.symlink_to(there)
    add_one(make_storage())
    assert there.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_stays_as_open_as_it_is(make_storage, path):
    """An administrator may have given it to a group."""
    path.touch()
    path.chmod(0o660)
    add_one(make_storage())
    assert {item.stat().st_mode & 0o777 for item in path.parent.iterdir()} == {0o660}


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_a_file_that_must_be_there_is_not_made(make_storage, path, mode):
    """The url says that the file exists, so the storage must not create an empty queue."""
    with pytest.raises(StorageUnavailable, match="unable to open"):
        make_storage(f"sqlite:///file:{path}?mode={mode}&uri=true").stage("batch", [new_task()])
    assert not path.exists()


def test_damaged_keys_keep_no_task_from_being_retried(make_storage, path):
    """They are bytes, beside a sound one: SQLite stores anything in any column."""
    storage = make_storage()
    tasks = [add_one(storage, key=f"key {n}", on_conflict="replace") for n in range(10)]
    for _ in tasks:
        lease = take(storage)
        storage.complete(lease, completed(lease, "failed"))
    with sqlite3.connect(path) as connection:
        for number, task in enumerate(tasks[1:]):
            key = b"\xff%d" % number
            connection.execute("UPDATE taskqueue_task SET key = ? WHERE id = ?", (key, task.id))
    connection.close()
    assert list(storage.admin.change("retry", ids(tasks), ("failed",))) == ids(tasks)
    assert sorted(take_all(storage)) == sorted(ids(tasks))
