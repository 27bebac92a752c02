"""A row that somebody else has written, or that is gone, stops nobody.

Each column of each table is broken in each way that its database allows, in tasks of every state.
"""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.retention import Retention
from collective.taskqueue.storages.sql.schema import METADATA
from collective.taskqueue.storages.sql.schema import QUEUE
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Progress
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import new_task
from contextlib import closing
from contextlib import suppress
from services import PostgresServer
from sqlalchemy import BigInteger
from sqlalchemy import Boolean
from sqlalchemy import Column
from sqlalchemy import Double
from sqlalchemy import event
from sqlalchemy import Integer
from sqlalchemy import LargeBinary
from sqlalchemy import Table
from sqlalchemy import Text
from typing import Any
import json
import logging
import math
import psycopg
import pytest
import sqlite3
import time


#: How often tasks are asked for: more often than there are tasks.
ROUNDS = 12

#: Seconds until a task is due, which is over when its queue is looked at.
DELAY = 50.0

JANE, JOE = Identity("/Plone/acl_users", "jane"), Identity("/Plone/acl_users", "joe")

#: How SQLite spells a value that a column is broken with: it takes any in any column.
ON_SQLITE = {
    "text": "'garbage'",
    "bytes": "x'ff00fe'",
    "not UTF-8": "CAST(x'ff666f6f' AS TEXT)",
    "long": "printf('%.*c', 100000, 'x')",
    "largest": "9223372036854775807",
    "smallest": "-9223372036854775808",
    "negative": "-5",
    "fraction": "5.5",
    "infinite": "9e999",
    "negative infinite": "-9e999",
    "NULL": "NULL",
}

#: What PostgreSQL takes in columns of each type.
ON_POSTGRESQL = {
    Text: ["'garbage'", "''", "'12 apples'"],
    Double: ["'NaN'", "'Infinity'", "'-Infinity'", "1e308", "-1e308", "-5", "NULL"],
    BigInteger: ["9223372036854775807", "-9223372036854775808", "-5", "NULL"],
    Integer: ["2147483647", "-2147483648", "-5", "NULL"],
    LargeBinary: ["'\\xff00fe'", "''", "NULL"],
    Boolean: ["true"],
}

TABLES = [table.name for table in METADATA.sorted_tables]
COLUMNS = [column for table in METADATA.sorted_tables for column in table.columns]


#: Of what is packed there may be only a part.
TRUNCATED = 'substr("{}", 1, 10)'


def _cases() -> Iterator[tuple[str, Column[Any], str]]:
    for column in COLUMNS:
        kind = next(kind for kind in type(column.type).__mro__ if kind in ON_POSTGRESQL)
        values = {"sqlite": list(ON_SQLITE.values()), "postgresql": ON_POSTGRESQL[kind]}
        for database, ways in values.items():
            truncated = [TRUNCATED.format(column.name)] if kind is LargeBinary else []
            for value in ways + truncated:
                # A queue that is paused is no damage.
                paused = column is QUEUE.c.paused and database == "postgresql"
                if not paused and (value != "NULL" or column.nullable):
                    yield database, column, value


CASES = list(_cases())


class Filled:
    """A queue with two tasks of every kind: of one of them the row is going to be broken."""

    placeholder = "?"

    def __init__(self, storage: SqlStorage) -> None:
        self.storage = storage
        self._rows: dict[str, list[Any]] = {}
        self.victims: list[Task] = []
        self.others: list[Task] = []
        now = time.time()
        both = (self.victims, JANE), (self.others, JOE)
        for tasks, user in both:
            tasks += [self._ended(state, user) for state in (SUCCEEDED, FAILED, CANCELLED)]
        for tasks, user in both:
            tasks += add(storage, new_task(user=user), new_task(user=user, key=f"lost {user.id}"))
        leases = storage.reserve("lost", limit=4, timeout=0, lease=0.001)
        assert len(leases) == 4
        storage.report(leases[0], Progress(1.0, 2.0, "half", now))
        for tasks, user in both:
            serial = {"user": user, "key": f"serial {user.id}", "on_conflict": "after_running"}
            tasks += add(
                storage,
                new_task(user=user, payload=b"payload", max_attempts=3),
                new_task(user=user, key=f"skip {user.id}"),
                new_task(**serial),
                new_task(user=user, due=now + DELAY),
                new_task(user=user, due=now + LONG),
            )
            # It has a second name.
            add_one(storage, key=f"skip {user.id}")
            storage.stage(f"batch of {user.id}", [new_task()], f"main:{user.id}:")
        due = TASK.update().where(TASK.c.due < now + 2 * DELAY).values(due=now)
        storage._session.write(lambda connection: connection.execute(due))

    def _ended(self, state: Any, user: Identity) -> Task:
        task = add_one(self.storage, user=user, payload=b"payload")
        if state == CANCELLED:
            self.storage.admin.cancel(task.id)
            return task
        [lease] = self.storage.reserve(f"of {user.id}", timeout=0)
        ends = [(lease, completed(lease, state, body=b"body"))]
        assert self.storage.complete_and_reserve(ends, "consumer", 0) == ([state], [])
        return task

    def restore(self, connection: Any) -> None:
        """Let all tables be as they were at first."""
        if not self._rows:
            self._rows = {
                table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES
            }
        for table in reversed(TABLES):
            connection.execute(f"DELETE FROM {table}")
        for table in TABLES:
            for row in self._rows[table]:
                values = ", ".join([self.placeholder] * len(row))
                connection.execute(f"INSERT INTO {table} VALUES ({values})", row)


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Filled, Any]]:
    """A queue in a file, and another connection to it."""
    path = tmp_path_factory.mktemp("damage") / "queue.sqlite"
    filled = Filled(open_queue(f"sqlite:///{path}"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        yield filled, connection
    filled.storage.close()


@pytest.fixture(scope="module")
def on_postgresql(postgres_server: PostgresServer) -> Iterator[tuple[Filled, Any]]:
    """A queue on a server, and another connection to it."""
    url = postgres_server.new_database()
    filled = Filled(open_queue(url))
    filled.placeholder = "%s"
    with psycopg.connect(url, autocommit=True) as connection:
        yield filled, connection
    filled.storage.close()


def open_queue(url: str) -> SqlStorage:
    storage = SqlStorage(QueueSettings(type="sql", url=url, stage_timeout=20.0, max_deliveries=9))

    def stop_waiting(connection: Any, record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    if url.startswith("sqlite"):
        event.listen(storage._session.engine, "connect", stop_waiting)
    return storage


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks for tasks looks for damage, too, however often."""
    monkeypatch.setattr(Retention, "INTERVAL", 0.0)


@pytest.fixture
def filled(kind: str, request: pytest.FixtureRequest) -> tuple[Filled, Any]:
    """One of the two, as it was at first."""
    found, connection = request.getfixturevalue(f"on_{kind}")
    connection.execute("BEGIN")
    found.restore(connection)
    connection.execute("COMMIT")
    return found, connection


@pytest.mark.parametrize(
    ("kind", "column", "value"), CASES, ids=[f"{k}-{c}-{v[:20]}" for k, c, v in CASES]
)
def test_a_broken_column(filled, column, value, caplog):
    """All other tasks run, lists answer, and what is wrong is not said again and again."""
    break_each(*filled, f'UPDATE {column.table.name} SET "{column.name}" = {value}', column.table)
    check(filled[0], caplog)


@pytest.mark.parametrize("table", METADATA.sorted_tables, ids=str)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_missing_row(filled, table, caplog):
    """As above."""
    break_each(*filled, f"DELETE FROM {table.name}", table)
    check(filled[0], caplog)


def break_each(filled: Filled, connection: Any, change: str, table: Table) -> None:
    """Carry out a statement for each victim."""
    if table is TASK:
        rows = [f"id = '{task.id}'" for task in filled.victims]
    else:
        # One of two rows, or the only one.
        key = "version" if len(table.columns) == 1 else table.columns.keys()[table is not QUEUE]
        rows = [f"{key} = (SELECT min({key}) FROM {table.name})"]
    for row in rows:
        # Not if there were two rows of one key, or another row refers to this one.
        with suppress(sqlite3.IntegrityError, psycopg.errors.IntegrityError):
            connection.execute(f"{change} WHERE {row}")


def check(filled: Filled, caplog: pytest.LogCaptureFixture) -> None:
    storage = filled.storage
    others = {task.id for task in filled.others}
    look(storage, others)
    ran: set[str] = set()
    for number in range(ROUNDS):
        leases = storage.reserve("consumer", limit=3, timeout=0)
        ran |= {lease.task.id for lease in leases}
        if number == 0:
            look(storage, others)
            storage.renew(leases[0])
            storage.report(leases[0], Progress(1.0, 2.0, "half", 0.0))
            storage.release(leases[1:])
            del leases[1:]
        ends = [(lease, completed(lease, SCHEDULED, due=time.time())) for lease in leases]
        if number > 1:
            ends = [(lease, completed(lease)) for lease in leases]
        _, leases = storage.complete_and_reserve(ends, "consumer", 3)
        ran |= {lease.task.id for lease in leases}
        for lease in leases:
            storage.complete(lease, completed(lease))
    expected = {task.id for task in filled.others[3:-1]}
    assert expected <= ran, [
        status for status in storage.admin.tasks() if status.id in expected - ran
    ]
    look(storage, others)
    task = add_one(storage, user=JOE, key="a new one")
    [lease] = storage.reserve("consumer", timeout=0)
    assert lease.task == task
    assert storage.complete(lease, completed(lease)) == SUCCEEDED
    assert storage.admin.retry(filled.others[1].id) is None
    assert storage.admin.cancel(filled.others[1].id) == CANCELLED
    assert storage.admin.cancel(filled.others[-1].id, "not wanted") == CANCELLED
    caplog.clear()
    for _ in range(3):
        assert storage.reserve("consumer", timeout=0) == []
        storage.admin.recover()
    loud = [record for record in caplog.records if record.levelno > logging.INFO]
    assert loud == []
    storage.admin.clear()
    for state in FINISHED:
        storage.admin.purge(state)
        assert storage.admin.tasks(state) == []


def look(storage: SqlStorage, others: set[str]) -> None:
    """Ask everything that can be asked; the answers make sense."""
    found = storage.admin.tasks(size=1000)
    found += [status for state in STATES for status in storage.admin.tasks(state, size=1000)]
    for user in (JANE, "jane", "nobody"):
        found += storage.admin.tasks(user=user)
        found += [status for state in STATES for status in storage.admin.tasks(state, user)]
        assert set(storage.admin.counts(user)) == set(STATES)
    assert others <= {status.id for status in found}
    for task_id in {status.id for status in found}:
        try:
            found += [storage.admin.get(task_id), storage.admin.get(task_id, brief=True)]
        except UnknownTask:
            assert task_id not in others
    for status in found:
        assert_sound(status)
    for user in (None, JOE, "joe"):
        hers = [storage.admin.tasks(state, user, size=1000) for state in STATES]
        assert all(others & {i.id for i in each} for each in hers if each) or user is None
    counts = storage.admin.counts()
    assert set(counts) == set(STATES)
    assert all(number >= 0 for number in counts.values())
    assert storage.admin.counts()["queued"] == counts["queued"]
    for consumer in storage.admin.consumers():
        json.dumps([consumer.name, consumer.host, consumer.pid, consumer.running])
        assert 0 <= consumer.age < 1e6
    assert set(storage.admin.throughput()) == set(FINISHED)
    batches = storage.admin.in_doubt()
    assert all(math.isfinite(batch.age) and batch.age >= 0 for batch in batches)
    assert "main:joe:" in [batch.witness for batch in batches]
    assert storage.admin.paused() in (True, False)


def assert_sound(status: TaskStatus) -> None:
    numbers = [status.due, *(when for _, when in status.changes)]
    assert all(number is None or math.isfinite(number) for number in numbers)
    assert status.changes[-1][0] == status.state
    texts = [status.id, status.reason, status.consumer or "", status.task.url]
    assert json.loads(json.dumps(texts, allow_nan=False)) == texts
    assert status.attempts_made >= 0
