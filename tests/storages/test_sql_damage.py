"""A row that another program has written or deleted stops no other task.

Each column of each table is broken in each way that its database allows, in tasks of every state.
Several rows are broken at once, where one cannot hide another: of a task's column that holds no
number each way in other tasks, and of each other table one row.
"""

from __future__ import annotations

from collections.abc import Callable
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
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import new_task
from contextlib import closing
from contextlib import ExitStack
from contextlib import suppress
from functools import cache
from itertools import zip_longest
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


#: How often tasks are asked for, for each group of tasks: more often than there are tasks.
ROUNDS = 6

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

#: Of what is packed there may be only a part.
TRUNCATED = 'substr("{}", 1, 10)'


def _ways(database: str, column: Column[Any]) -> list[str]:
    """Return the values that a column can be broken with."""
    kind = next(kind for kind in type(column.type).__mro__ if kind in ON_POSTGRESQL)
    values = list(ON_SQLITE.values()) if database == "sqlite" else ON_POSTGRESQL[kind]
    # A queue that is paused is no damage.
    if column is QUEUE.c.paused and database == "postgresql":
        return []
    truncated = [TRUNCATED.format(column.name)] if kind is LargeBinary else []
    return [value for value in values + truncated if value != "NULL" or column.nullable]


DATABASES = ["sqlite", "postgresql"]


def _of_tasks() -> Iterator[Any]:
    """Yield a database, a column of a task, and the ways to break it at once.

    The storage looks at the smallest of some numbers: of these each is alone.
    """
    for database in DATABASES:
        for column in TASK.columns:
            ways = _ways(database, column)
            alone = isinstance(column.type, (Double, Integer))
            for values in [[value] for value in ways] if alone else [ways]:
                name = values[0][:20] if alone else "all"
                yield pytest.param(database, column, values, id=f"{database}-{column}-{name}")


OF_TASKS = list(_of_tasks())

#: As many groups of tasks as there are ways at once.
GROUPS = max(len(case.values[2]) for case in OF_TASKS)


def _elsewhere() -> Iterator[Any]:
    """Yield a database, and one way to break each table that is not the tasks'."""
    tables = [table for table in METADATA.sorted_tables if table is not TASK]
    for database in DATABASES:
        ways = [
            [(column, value) for column in table.columns for value in _ways(database, column)]
            for table in tables
        ]
        for number, found in enumerate(zip_longest(*ways)):
            yield pytest.param(database, list(filter(None, found)), id=f"{database}-{number}")


class Filled:
    """A queue with a group of tasks that stay whole, and groups whose rows are going to be broken.

    In each group are two tasks of every kind.
    """

    placeholder = "?"

    def __init__(self, storage: SqlStorage, groups: int) -> None:
        self.storage = storage
        self._rows: dict[str, list[Any]] = {}
        self.victims: list[list[Task]] = [[] for _ in range(groups)]
        self.others: list[Task] = []
        now = time.time()
        all_groups = [
            *((f"jane {number}", tasks, JANE) for number, tasks in enumerate(self.victims)),
            ("joe", self.others, JOE),
        ]
        for _, tasks, user in all_groups:
            tasks += [self._ended(state, user) for state in (SUCCEEDED, FAILED, CANCELLED)]
        for name, tasks, user in all_groups:
            tasks += add(storage, new_task(user=user), new_task(user=user, key=f"lost {name}"))
        lost = 2 * len(all_groups)
        leases = storage.reserve("lost", limit=lost, timeout=0, lease=0.001)
        assert len(leases) == lost
        storage.report(leases[0], Progress(1.0, 2.0, "half", now))
        for name, tasks, user in all_groups:
            serial = {"user": user, "key": f"serial {name}", "on_conflict": "after_running"}
            tasks += add(
                storage,
                new_task(user=user, payload=b"payload", max_attempts=3),
                new_task(user=user, key=f"skip {name}"),
                new_task(**serial),
                new_task(user=user, due=now + DELAY),
                new_task(user=user, due=now + LONG),
            )
            # It has a second name.
            add_one(storage, key=f"skip {name}")
        for user in (JANE, JOE):
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
def queues(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Callable[[str, int], tuple[Filled, Any]]]:
    """Return a queue with so many groups of victims, and another connection to its database."""
    with ExitStack() as stack:

        @cache
        def make(kind: str, groups: int) -> tuple[Filled, Any]:
            if kind == "postgresql":
                url = postgres_server.new_database()
                connection = stack.enter_context(psycopg.connect(url, autocommit=True))
            else:
                path = tmp_path_factory.mktemp("damage") / "queue.sqlite"
                url = f"sqlite:///{path}"
                connection = sqlite3.connect(path, isolation_level=None)
                stack.enter_context(closing(connection))
                connection.execute("PRAGMA synchronous=OFF")
            filled = Filled(open_queue(url), groups)
            stack.callback(filled.storage.close)
            if kind == "postgresql":
                filled.placeholder = "%s"
            return filled, connection

        yield make


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
def filled(
    kind: str, queues: Callable[[str, int], tuple[Filled, Any]], request: pytest.FixtureRequest
) -> tuple[Filled, Any]:
    """A queue as it was at first, with many groups of victims for many values."""
    many = "values" in request.fixturenames and len(request.getfixturevalue("values")) > 1
    found, connection = queues(kind, GROUPS if many else 1)
    connection.execute("BEGIN")
    found.restore(connection)
    connection.execute("COMMIT")
    return found, connection


@pytest.mark.parametrize(("kind", "column", "values"), OF_TASKS)
def test_a_broken_column_of_tasks(filled, column, values, caplog):
    """All other tasks run, lists answer, and what is wrong is not said again and again."""
    queue, connection = filled
    for value, victims in zip(values, queue.victims, strict=False):
        for task in victims:
            break_row(connection, f'UPDATE {TASK} SET "{column.name}" = {value}', task_row(task))
    check(queue, caplog)


@pytest.mark.parametrize(("kind", "changes"), list(_elsewhere()))
def test_a_broken_row_of_each_other_table(filled, changes, caplog):
    """As above."""
    queue, connection = filled
    for column, value in changes:
        table = column.table
        change = f'UPDATE {table} SET "{column.name}" = {value}'
        break_row(connection, change, first_row(table))
    check(queue, caplog)


@pytest.mark.parametrize("table", METADATA.sorted_tables, ids=str)
@pytest.mark.parametrize("kind", DATABASES)
def test_a_missing_row(filled, table, caplog):
    """As above."""
    queue, connection = filled
    rows = [first_row(table)]
    if table is TASK:
        rows = [task_row(task) for task in queue.victims[0]]
    for row in rows:
        break_row(connection, f"DELETE FROM {table}", row)
    check(queue, caplog)


def task_row(task: Task) -> str:
    return f"id = '{task.id}'"


def first_row(table: Table) -> str:
    """Return the condition for one of two rows, or for the only one."""
    key = "version" if len(table.columns) == 1 else table.columns.keys()[table is not QUEUE]
    return f"{key} = (SELECT min({key}) FROM {table})"


def break_row(connection: Any, change: str, row: str) -> None:
    # Not if there were two rows of one key, or another row refers to this one.
    with suppress(sqlite3.IntegrityError, psycopg.errors.IntegrityError):
        connection.execute(f"{change} WHERE {row}")


def check(filled: Filled, caplog: pytest.LogCaptureFixture) -> None:
    storage = filled.storage
    others = {task.id for task in filled.others}
    look(storage, others)
    ran: set[str] = set()
    used = False
    for number in range(ROUNDS * (1 + len(filled.victims))):
        leases = storage.reserve("consumer", limit=3, timeout=0)
        ran |= {lease.task.id for lease in leases}
        # All that it would have returned at first may be broken.
        if leases and not used:
            used = True
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
    assert used
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
    change_all(storage, filled.others[1].id)
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


def change_all(storage: SqlStorage, sound: str) -> None:
    """Change all tasks at once; a sound one beside the broken ones is changed each time."""
    names = [status.id for status in storage.admin.tasks(size=100)]
    for action in ("retry", "cancel"):
        assert sound in storage.admin.change(action, names, STATES)


def look(storage: SqlStorage, others: set[str]) -> None:
    """Ask everything that can be asked; the answers make sense."""
    found = storage.admin.tasks(size=1000)
    found += [status for state in STATES for status in storage.admin.tasks(state, size=1000)]
    for user in (JANE, "jane", "nobody"):
        found += storage.admin.tasks(user=user)
        found += [status for state in STATES for status in storage.admin.tasks(state, user)]
        assert set(storage.admin.counts(user)) == set(STATES)
    assert others <= {status.id for status in found}
    # A task whose number is damaged has no place in a search.
    for conditions in (TaskFilter(), TaskFilter(STATES, user="joe"), TaskFilter(url="/", since=0)):
        found += storage.admin.search(conditions, None, 1000).tasks
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
