"""What a page costs does not depend on what else is in the queue: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.retention import Retention
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from contextlib import nullcontext
from itertools import count
from services import PostgresServer
from sqlalchemy import event
from typing import Any
import json
import psycopg
import pytest
import sqlite3
import time


JANE = Identity("/Plone/acl_users", "jane")
NAMESAKE = Identity("/acl_users", "jane")
OTHER = Identity("/Plone/acl_users", "joe")

#: Tasks of others in each state, and her own in one state; and how many are shown of them.
FEW, MANY, PAGE = 200, 4000, 10

#: The first page of a large queue lies a level or two deeper in an index.
DEEPER = 1.2


def rows(number: int) -> Iterator[dict[str, Any]]:
    """Yield that many tasks of each state, for others and for a namesake; of hers only FAILED."""
    numbers = count(1)
    for user in (JANE, NAMESAKE, OTHER):
        for state in STATES:
            few = state == RUNNING or (user == JANE and state != FAILED)
            for _ in range(PAGE if few else number):
                yield _row(state, user, next(numbers))


def _row(state: State, user: Identity, number: int) -> dict[str, Any]:
    now = time.time()
    task = new_task(user=user)
    return {
        "queue": "default",
        "id": task.id,
        "number": number,
        "state": state,
        "place": number,
        "due": now + 1000 + number if state == SCHEDULED else None,
        "mode": "skip",
        "user": user.id,
        "person": user.person,
        "body": codec.head(task),
        "reason": "",
        "changes": f"{state} {now};",
        "history": "",
        "claim": number if state == RUNNING else None,
        "started": now if state == RUNNING else None,
        "expires": now + 1000 if state == RUNNING else None,
        "attempts": 1,
        "counted": 0,
        "lost": 0,
        "cancel": False,
        "forgotten": False,
        "forget_at": now + 1000 if state in FINISHED else None,
        "ended": now if state in FINISHED else None,
        "size": 1000 if state in FINISHED else None,
    }


class Meter:
    """Counts what the database does for one call: steps of SQLite, buffers of PostgreSQL."""

    def __init__(self, storage: SqlStorage) -> None:
        self.storage = storage
        self.total = 0
        engine = storage._session.engine
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", self._count_steps)
        else:
            event.listen(engine, "before_cursor_execute", self._count_buffers)

    def __call__(self, call: Callable[[], Any]) -> int:
        call()
        before = self.total
        call()
        return self.total - before

    def _count_steps(self, connection: sqlite3.Connection, record: object) -> None:
        connection.set_progress_handler(self._step, 1)

    def _step(self) -> None:
        self.total += 1

    def _count_buffers(
        self, connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any
    ) -> None:
        if "taskqueue_task" in statement and "SELECT" in statement:
            other = connection.connection.cursor()
            other.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
            [[found]] = other.fetchall()
            found = json.loads(found) if isinstance(found, str) else found
            plan = found[0]["Plan"]
            self.total += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "postgresql, analyzed"])
def meters(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
) -> Iterator[tuple[Meter, Meter]]:
    made = []
    for number in (FEW, MANY):
        url = f"sqlite:///{tmp_path_factory.mktemp('costs')}/queue.sqlite"
        if request.param != "sqlite":
            url = postgres_server.new_database()
        storage = SqlStorage(QueueSettings(type="sql", url=url, stage_timeout=60.0))
        meter = Meter(storage)
        storage._session.write(
            lambda connection, n=number: connection.execute(TASK.insert(), list(rows(n)))
        )
        if request.param != "sqlite":
            # As the server does by itself within a minute.
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM taskqueue_count")
        if "analyzed" in request.param:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE taskqueue_task")
        made.append(meter)
    yield made[0], made[1]
    for meter in made:
        meter.storage.close()


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize(
    "user", [None, "jane", JANE, "nobody"], ids=("all", "id", "person", "nobody")
)
@pytest.mark.parametrize("state", [None, *STATES])
def test_a_page_costs_what_it_shows(meters, state, user, start):
    """With twenty times as many tasks of others, and of her own in another state."""
    costs = []
    for meter in meters:
        found = meter.storage.admin.tasks(state, user, start, PAGE)
        all_of_them = user == JANE and state not in (None, FAILED)
        expected = PAGE - start if all_of_them else PAGE
        assert len(found) == (0 if user == "nobody" else expected)
        costs.append(meter(lambda m=meter: m.storage.admin.tasks(state, user, start, PAGE)))
    few, many = costs
    assert 0 < many <= DEEPER * few + 10


@pytest.mark.parametrize("known", [True, False])
def test_a_task_costs_what_it_shows(meters, known):
    """Whether there is one of that id or not."""

    def ask(storage: SqlStorage, task_id: str) -> None:
        with nullcontext() if known else pytest.raises(UnknownTask):
            storage.admin.get(task_id, brief=True)

    costs = []
    for meter in meters:
        task_id = meter.storage.admin.tasks()[0].id if known else "unknown"
        costs.append(meter(lambda m=meter, task_id=task_id: ask(m.storage, task_id)))
    few, many = costs
    assert 0 < many <= DEEPER * few + 10


def test_how_many_there_are_is_told_without_a_look_at_the_tasks(meters):
    """All of the queue."""
    costs = []
    for meter, number in zip(meters, (FEW, MANY), strict=True):
        assert meter.storage.admin.counts()[FAILED] == 3 * number
        costs.append(meter(meter.storage.admin.counts))
    few, many = costs
    assert 0 < many <= DEEPER * few + 10


def test_who_finds_nothing_to_do_looks_at_no_task(meters, monkeypatch):
    """Nor does the look for what is to be forgotten, or damaged, however much waits."""
    monkeypatch.setattr(Retention, "INTERVAL", 0.0)
    costs = []
    for meter in meters:
        meter.storage.admin.pause()
        costs.append(meter(lambda m=meter: m.storage.reserve("consumer", timeout=0)))
        meter.storage.admin.resume()
    few, many = costs
    assert 0 < many <= DEEPER * few + 10


def test_a_page_reads_nothing_that_it_does_not_show(tmp_path):
    """Neither payloads nor responses nor histories: SQLite is asked what a statement reads."""
    storage = SqlStorage(QueueSettings(type="sql", url=f"sqlite:///{tmp_path}/queue.sqlite"))
    read: set[str] = set()

    def authorize(action: int, table: str | None, column: str | None, *rest: Any) -> int:
        if action == sqlite3.SQLITE_READ and table == TASK.name:
            read.add(str(column))
        return sqlite3.SQLITE_OK

    task = add_one(storage, user=JANE, payload=b"x" * 100_000)
    lease = take(storage)
    storage.complete(lease, completed(lease, FAILED, body=b"x" * 60_000))
    storage._session.dialect.let_go()
    event.listen(
        storage._session.engine,
        "connect",
        lambda connection, record: connection.set_authorizer(authorize),
    )
    for state in (None, *STATES):
        for user in (None, "jane", JANE):
            storage.admin.tasks(state, user)
    for user in (None, "jane", JANE):
        storage.admin.counts(user)
    storage.admin.get(task.id, brief=True)
    assert "body" in read
    assert not read & {"payload", "last", "history"}
    assert storage.admin.get(task.id).task.payload == task.payload
    assert {"payload", "last", "history"} <= read
    storage.close()
