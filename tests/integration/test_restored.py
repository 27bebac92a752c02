"""A ZODB that was restored from a backup that is older than its queue."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.enqueue import datamanager
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from pathlib import Path
from services import PostgresServer
from uuid import uuid4
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
import pytest
import shutil
import time
import transaction


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[TaskQueue]:
    settings = QueueSettings(type="sql", url=f"sqlite:///{tmp_path}/queue.sqlite")
    queue = TaskQueue(settings, SqlStorage(settings))
    yield queue
    queue.storage.close()


def open_database(path: Path) -> DB:
    return DB(FileStorage(str(path)), database_name="main")


def commit(database: DB, queue: TaskQueue, **values: int) -> str:
    """Write into the database and queue a task, in one transaction."""
    connection = database.open()
    transaction.begin()
    connection.root().update(values)
    task = Task(id=str(uuid4()), queue=queue.name, url="/view")
    datamanager.join(queue, task)
    transaction.commit()
    connection.close()
    return task.id


def consume(database: DB, queue: TaskQueue, restored: indoubt.Restored) -> None:
    """Run what waits, as a process does that opened the database a while ago."""

    def ready(tid: bytes) -> bool:
        restored.check(tid)
        return indoubt.reached(database, tid)

    consumer = Consumer(queue.storage, lambda attempt: Outcome(200), ServerSettings(), ready=ready)
    while consumer.step():
        pass
    consumer.stop()


def test_tasks_of_lost_transactions_are_held(queue, tmp_path, monkeypatch):
    """Failed with that as the reason, also when newer transactions have come; others run."""
    # Clocks that agree, so that a minute need not go by.
    monkeypatch.setattr(indoubt, "SKEW", 0.0)
    path, backup = tmp_path / "Data.fs", tmp_path / "backup.fs"
    database = open_database(path)
    kept = commit(database, queue, one=1)
    shutil.copy(path, backup)
    lost = commit(database, queue, two=2)
    database.close()
    shutil.copy(backup, path)
    for name in ("Data.fs.index", "Data.fs.lock", "Data.fs.tmp"):
        (tmp_path / name).unlink(missing_ok=True)
    database = open_database(path)
    restored = indoubt.Restored(database, time.time())
    new = commit(database, queue, three=3)
    consume(database, queue, restored)
    database.close()
    assert queue.status(kept).state == queue.status(new).state == "succeeded"
    status = queue.status(lost)
    assert status.state == "failed"
    assert "restored from an older backup" in status.reason
    assert status.attempts[-1].status is None
    queue.retry(lost)
    assert queue.status(lost).state == "queued"


def test_what_is_on_its_way_is_waited_for(queue, tmp_path):
    """A transaction of another process, committed just now, is not lost."""
    database = open_database(tmp_path / "Data.fs")
    commit(database, queue, one=1)
    restored = indoubt.Restored(database, time.time())
    commit(database, queue, two=2)
    restored.check(database.lastTransaction())
    consume(database, queue, restored)
    assert queue.counts()["succeeded"] == 2
    database.close()


@pytest.fixture
def relstorage_url() -> Iterator[str]:
    server = PostgresServer().start()
    yield server.new_database()
    server.remove()


def test_with_relstorage_in_the_same_database(relstorage_url):
    """Both keep to their own tables; a task starts when its transaction can be seen."""
    from relstorage.adapters.postgresql import PostgreSQLAdapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage

    dsn = relstorage_url.replace("postgresql://postgres@/", "dbname=").replace("?host=", " host=")
    options = Options(driver="psycopg2")

    def open_relstorage() -> DB:
        adapter = PostgreSQLAdapter(dsn=f"{dsn} user=postgres", options=options)
        return DB(RelStorage(adapter, options=options), database_name="main")

    settings = QueueSettings(type="sql", url=relstorage_url)
    queue = TaskQueue(settings, SqlStorage(settings))
    writer, reader = open_relstorage(), open_relstorage()
    restored = indoubt.Restored(reader, time.time())
    ids = [commit(writer, queue, number=number) for number in range(5)]
    lease = queue.storage.reserve("consumer", timeout=0)[0]
    assert indoubt.reached(reader, lease.tid)
    consume(reader, queue, restored)
    states = [queue.status(task_id).state for task_id in ids[1:]]
    assert states == ["succeeded"] * 4
    writer.close()
    reader.close()
    queue.storage.close()
