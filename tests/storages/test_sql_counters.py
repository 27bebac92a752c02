"""How many tasks are in each state: told without reading the tasks, after any change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.counters import SHARE
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from services import PostgresServer
from sqlalchemy import text
from typing import Any
import psycopg
import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, postgres_server: PostgresServer) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite"
    return postgres_server.new_database()


@pytest.fixture
def make_storage(url: str) -> Iterator[Callable[..., SqlStorage]]:
    made: list[SqlStorage] = []

    def make(**settings: Any) -> SqlStorage:
        made.append(SqlStorage(QueueSettings(type="sql", url=url, **settings)))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


def execute(storage: SqlStorage, statement: str) -> None:
    """Execute a statement as an administrator would."""
    storage._session.write(lambda connection: connection.execute(text(statement)))


def rows(storage: SqlStorage) -> list[Any]:
    return storage._session.read(
        lambda connection: connection.execute(
            text("SELECT queue, state, number FROM taskqueue_count")
        ).all()
    )


def assert_counted(storage: SqlStorage) -> None:
    listed = Counter(status.state for status in storage.admin.tasks(size=1000))
    assert storage.admin.counts() == {state: listed[state] for state in STATES}
    assert storage.admin.counts()["queued"] == listed[QUEUED]


def test_each_change_of_state(make_storage):
    """With another queue in the same tables."""
    storage, other = make_storage(), make_storage(queue="other")
    for each in (storage, other):
        assert each.admin.counts() == dict.fromkeys(STATES, 0)
    add_one(other)
    add(storage, *(new_task() for _ in range(10)))
    assert_counted(storage)
    leases = storage.reserve("consumer", limit=6, timeout=0)
    assert_counted(storage)
    storage.release(leases[:1])
    storage.complete_and_reserve(
        [(lease, completed(lease)) for lease in leases[1:4]], "consumer", 1
    )
    storage.complete(leases[4], completed(leases[4], FAILED))
    assert_counted(storage)
    assert storage.admin.counts() == {
        **dict.fromkeys(STATES, 0),
        QUEUED: 4,
        RUNNING: 2,
        SUCCEEDED: 3,
        FAILED: 1,
    }
    storage.admin.retry(leases[4].task.id)
    storage.admin.cancel(storage.admin.tasks(QUEUED)[0].id)
    assert_counted(storage)
    for state in FINISHED:
        storage.admin.purge(state)
    storage.admin.clear()
    assert_counted(storage)
    assert storage.admin.counts() == {**dict.fromkeys(STATES, 0), RUNNING: 2}
    assert other.admin.counts()[QUEUED] == 1


def test_what_an_administrator_changes(make_storage):
    """The tables are open to those who have the database."""
    storage = make_storage()
    add(storage, *(new_task() for _ in range(5)))
    assert storage.admin.counts()[QUEUED] == 5
    storage.admin.cancel(storage.admin.tasks()[0].id)
    execute(storage, "DELETE FROM taskqueue_task WHERE state = 'cancelled'")
    assert_counted(storage)
    execute(storage, "UPDATE taskqueue_task SET queue = 'other'")
    assert_counted(storage)
    assert make_storage(queue="other").admin.counts()[QUEUED] == 4
    execute(storage, "DELETE FROM taskqueue_task")
    assert make_storage(queue="other").admin.counts()[QUEUED] == 0


DAMAGE = [
    "DELETE FROM taskqueue_count",
    "UPDATE taskqueue_count SET number = -1000",
    "UPDATE taskqueue_count SET state = 'strange' WHERE state = 'running'",
    "UPDATE taskqueue_count SET queue = 'other'",
]

#: SQLite stores anything in any column.
STRANGE = [
    *(f"UPDATE taskqueue_count SET number = {number}" for number in ("'many'", "x'ff'", "1e999")),
    "UPDATE taskqueue_count SET state = x'ff' WHERE state = 'queued'",
    "DELETE FROM taskqueue_count WHERE state = 'queued'",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_counter_that_is_damaged(make_storage, damage):
    """The tasks of its queue are counted anew when it is read."""
    storage = make_storage()
    add(storage, *(new_task() for _ in range(5)))
    storage.admin.counts()
    execute(storage, damage)
    add_one(storage)
    assert_counted(storage)
    add_one(storage)
    assert_counted(storage)
    assert storage.admin.counts()[QUEUED] == 7


@pytest.mark.parametrize("damage", STRANGE)
def test_a_counter_of_sqlite_that_is_damaged(tmp_path, damage):
    storage = SqlStorage(QueueSettings(type="sql", url=f"sqlite:///{tmp_path}/queue.sqlite"))
    add_one(storage)
    storage.admin.counts()
    execute(storage, damage)
    assert_counted(storage)
    add_one(storage)
    assert_counted(storage)
    storage.close()


def test_processes_that_find_the_same_damage(make_storage):
    """One of them corrects it."""
    storages = [make_storage() for _ in range(4)]
    add(storages[0], *(new_task() for _ in range(20)))
    with ThreadPoolExecutor(len(storages)) as pool:
        for _ in range(10):
            execute(storages[0], "UPDATE taskqueue_count SET number = -1")
            found = list(pool.map(lambda one: one.admin.counts(), storages))
            assert [counts[QUEUED] for counts in found] == [20] * len(storages)
    assert_counted(storages[0])


@pytest.fixture
def server_storage(postgres_server: PostgresServer) -> Iterator[SqlStorage]:
    url = postgres_server.new_database()
    storage = SqlStorage(QueueSettings(type="sql", url=url, stage_timeout=60.0))
    yield storage
    storage.close()


def test_rows_are_merged(server_storage):
    """However many transactions there were, there are few rows to read."""
    assert server_storage.admin.counts()[QUEUED] == 0
    most, added = 0, 0
    while len(rows(server_storage)) >= most and added < 100 / SHARE:
        most = len(rows(server_storage))
        add_one(server_storage)
        added += 1
    assert len(rows(server_storage)) < most
    assert server_storage.admin.counts()[QUEUED] == added


def test_no_transaction_waits_for_the_counter_of_another(server_storage):
    """Each one changes a task of its own, and none has been committed."""
    add(server_storage, *(new_task() for _ in range(100)))
    ids = [status.id for status in server_storage.admin.tasks(size=1000)]
    url = server_storage._session.engine.url.set(drivername="postgresql")
    connections = [psycopg.connect(url.render_as_string(False)) for _ in range(8)]
    for number, task_id in enumerate(ids):
        connection = connections[number % len(connections)]
        connection.execute("SET lock_timeout = '10s'")
        connection.execute("UPDATE taskqueue_task SET state = 'failed' WHERE id = %s", [task_id])
        if number % 3 == 2:
            connection.commit()
        elif number % 7 == 6:
            connection.rollback()
    for connection in connections:
        connection.commit()
        connection.close()
    assert_counted(server_storage)


def test_a_table_that_is_truncated(server_storage):
    add_one(server_storage)
    assert server_storage.admin.counts()["queued"] == 1
    execute(server_storage, "TRUNCATE taskqueue_task CASCADE")
    assert_counted(server_storage)
    assert server_storage.admin.counts()["queued"] == 0


def connect(url: str) -> psycopg.Connection[Any]:
    """A session of an administrator."""
    return psycopg.connect(url, autocommit=True)


def test_a_publication_of_all_tables(server_storage, postgres_server):
    """Logical replication asks each table for a key, of which there is none here."""
    add_one(server_storage)
    url = server_storage._session.engine.url.set(drivername="postgresql")
    with connect(url.render_as_string(False)) as connection:
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        connection.execute("UPDATE taskqueue_count SET number = number")
        connection.execute("DELETE FROM taskqueue_count")
    assert_counted(server_storage)


def test_an_administrator_with_another_search_path(postgres_server):
    """What happens to a task is counted where its table is."""
    url = postgres_server.new_database()
    with connect(url) as connection:
        connection.execute('CREATE SCHEMA "of Plone"')
        mine = f"{url}&options=-csearch_path%3D%22of%5C%20Plone%22"
        storage = SqlStorage(QueueSettings(type="sql", url=mine))
        add(storage, *(new_task() for _ in range(3)))
        assert storage.admin.counts()["queued"] == 3
        connection.execute(
            """DELETE FROM "of Plone".taskqueue_task WHERE id IN
            (SELECT id FROM "of Plone".taskqueue_task LIMIT 1)"""
        )
        assert_counted(storage)
        connection.execute("SET search_path = ''")
        connection.execute('DELETE FROM "of Plone".taskqueue_task')
    assert_counted(storage)
    assert storage.admin.counts()["queued"] == 0
    storage.close()


def test_the_migration_waits_for_no_reader(postgres_server):
    """Nor does any task that is added meanwhile."""
    url = f"{postgres_server.new_database()}&options=-clock_timeout%3D5s"
    storage = SqlStorage(QueueSettings(type="sql", url=url))
    add_one(storage)
    with connect(url) as connection, psycopg.connect(url) as reader:
        for event in ("insert", "delete", "update", "truncate"):
            connection.execute(f"DROP TRIGGER taskqueue_count_{event} ON taskqueue_task")
        connection.execute("DROP TABLE taskqueue_count")
        connection.execute("UPDATE taskqueue_schema SET version = 2")
        reader.execute("SELECT * FROM taskqueue_task")
        newer = SqlStorage(QueueSettings(type="sql", url=url))
        newer.admin.check()
        add_one(storage)
        assert_counted(newer)
        newer.close()
    storage.close()
