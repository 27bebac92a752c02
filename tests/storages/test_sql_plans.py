"""With half a million finished tasks, what a working queue asks is answered by an index."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import LONG
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from services import PostgresServer
from sqlalchemy import Connection
from sqlalchemy import event
from sqlalchemy import text
from typing import Any
import pytest
import re
import sqlite3
import time


JANE = Identity("/Plone/acl_users", "jane")

WAITING, DONE = 50_000, 500_000

#: Of the table of tasks, beside that of its key.
INDEXES = 14

FILL = """\
INSERT INTO taskqueue_task
  (queue, id, number, state, place, mode, "user", person, body, reason, changes, history, attempts,
   counted, lost, cancel, forgotten, forget_at, ended, size)
SELECT 'default', 'task-' || n, n, CASE WHEN n > {done} THEN 'queued' WHEN n % 10 = 0
       THEN 'failed' ELSE 'succeeded' END, n, 'skip', 'user' || (n % 1000), 'p' || (n % 2000),
       {body}, '', 'queued 1.0;', '', 0, 0, 0, {false}, {false},
       CASE WHEN n > {done} THEN NULL ELSE {later} + n END, {later} - 2000, 1000
FROM numbers
"""

NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers"
    " WHERE n < {all})",
    "postgresql": "WITH numbers AS (SELECT generate_series(1, {all}) AS n)",
}


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def full(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
) -> Iterator[SqlStorage]:
    kind = request.param
    folder = tmp_path_factory.mktemp("plans")
    url = f"sqlite:///{folder}/queue.sqlite"
    if kind == "postgresql":
        url = postgres_server.new_database()
    storage = SqlStorage(
        QueueSettings(type="sql", url=url, stage_timeout=600.0, max_finished=1_000_000)
    )
    storage.admin.check()
    fill(storage, kind, DONE, WAITING)
    # As autovacuum does before long.
    single = storage._session.single
    if kind == "postgresql":
        single(lambda connection: connection.execute(text("VACUUM ANALYZE taskqueue_task")))
    yield storage
    storage.close()


def fill(storage: SqlStorage, kind: str, done: int, waiting: int) -> None:
    """Put so many tasks into the table; the first that wait can be run."""
    body = codec.head(new_task()).hex()
    values = {
        "done": done,
        "all": done + waiting,
        "later": time.time() + 1000,
        "body": f"x'{body}'" if kind == "sqlite" else f"decode('{body}', 'hex')",
        "false": "0" if kind == "sqlite" else "false",
    }
    statement = f"{NUMBERS[kind]} {FILL}".format(**values)

    def work(connection: Connection) -> None:
        connection.execute(text(statement))
        connection.execute(text(f"UPDATE taskqueue_queue SET number = {done + waiting}"))
        if kind == "postgresql":
            connection.execute(text(f"SELECT setval('taskqueue_number', {done + waiting})"))
        for number in range(done + 1, done + min(waiting, 9) + 1):
            task = new_task(id=f"task-{number}")
            mine = TASK.c.id == task.id
            connection.execute(TASK.update().where(mine).values(body=codec.head(task)))

    storage._session.write(work)


class Plans:
    """The plans of all statements that are executed from now on."""

    def __init__(self, storage: SqlStorage) -> None:
        self.storage = storage
        self.plans: dict[str, str] = {}
        self._word = "EXPLAIN"
        if storage._session.engine.dialect.name == "sqlite":
            self._word = "EXPLAIN QUERY PLAN"
        self._engine = storage._session.engine
        event.listen(self._engine, "before_cursor_execute", self._note)

    def stop(self) -> None:
        event.remove(self._engine, "before_cursor_execute", self._note)

    def _note(
        self, connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any
    ) -> None:
        if "taskqueue_task" not in statement or rest[-1]:
            return
        other = connection.connection.cursor()
        other.execute(f"{self._word} {statement}", parameters)
        self.plans[statement] = "\n".join(str(row[-1]) for row in other.fetchall())

    def slow(self) -> list[str]:
        """The statements that read a whole table, or sort what an index has in order."""
        whole = re.compile(
            r"Seq Scan on taskqueue_task"
            r"|^SCAN (?!chosen|given|persons|first_|counted|over|few|source_)\w+$",
            re.MULTILINE,
        )
        # The indexes that have all tasks of a queue in them.
        every = re.compile(
            r"INDEX (taskqueue_number_of_task|sqlite_autoindex_taskqueue_task_1) \(queue=\?\)"
            r"|(using|Bitmap Index Scan on) (taskqueue_number_of_task|taskqueue_task_pkey) .*\s+"
            r"Index Cond: \(queue = '\w+'::text\)$",
            re.MULTILINE,
        )
        page = re.compile(r"ORDER BY taskqueue_task.number\s+LIMIT")
        sort = re.compile(r"Sort Key|TEMP B-TREE FOR ORDER BY")
        # Those that run, have a key or are asked for by their ids are few, those that take too much
        # room are a portion, and where PostgreSQL says so. A search sorts a limited number.
        few = re.compile(r"taskqueue_(running|key)|Sort .*rows=1 |id = ANY|COALESCE\(\(\(ended")
        return [
            f"{asked}\n{plan}"
            for asked, plan in self.plans.items()
            if whole.search(plan)
            or (every.search(plan) and not page.search(asked))
            or (
                sort.search(plan)
                and not few.search(plan)
                and "state = 'running'" not in asked
                and "AS few" not in asked
            )
        ]


def ask_everything(storage: SqlStorage) -> None:
    """Claims, ends, counts, pages of every kind, keys, and what is forgotten."""
    for state in (SUCCEEDED, FAILED):
        lease = take(storage)
        assert storage.renew(lease) is True
        storage.report(lease)
        storage.complete(lease, completed(lease, state))
    for key in ("skip", "replace", "after_running"):
        for _ in range(2):
            add_one(storage, key=key, on_conflict=key)
    storage.admin.retry(lease.task.id)
    storage.admin.cancel(lease.task.id)
    storage.admin.remove(lease.task.id)
    storage.admin.recover()
    for number, statement in enumerate(("claim_keyed", "claim_others")):
        claim = getattr(storage._statements, statement)
        storage._claims._claim(claim, f"{number}", 1, LONG, (), True)
    ends = [(lease, completed(lease)) for lease in storage.reserve("consumer", limit=3, timeout=0)]
    _, leases = storage.complete_and_reserve(ends, "consumer", limit=2)
    storage.release(leases)
    storage.admin.consumers()
    storage.admin.counts()
    storage.admin.counts()["queued"]
    storage.admin.counts("user7")
    storage.admin.counts(JANE)
    for state in (None, *STATES):
        storage.admin.tasks(state)
        storage.admin.tasks(state, "user7")
        storage.admin.tasks(state, JANE)
    for states in ((), *((state,) for state in STATES), STATES):
        for user in (None, "user7", JANE):
            page = storage.admin.search(TaskFilter(states, user=user), None, 5)
            storage.admin.search(TaskFilter(states, user=user), page.cursor)
    names = [status.id for status in storage.admin.tasks(FAILED, size=3)]
    for action in ("retry", "cancel", "remove"):
        storage.admin.change(action, names, STATES)
    retention = storage._aftermath.retention
    for state in FINISHED:
        retention._forget(retention._surplus[state], most=10_000)
    retention._looked = float("-inf")
    retention.look(time.time())
    retention._shrink(time.time())
    retention._repair()


def test_every_question_has_its_index(full):
    """With many tasks of every kind, as the statistics of the database tell of them."""
    # The first to ask counts them.
    full.admin.counts()
    plans = Plans(full)
    try:
        ask_everything(full)
        assert sum(full.admin.counts().values()) > DONE
        assert full.admin.counts()[QUEUED] > WAITING - 10
    finally:
        plans.stop()
    assert len(plans.plans) > 30
    assert not plans.slow(), "\n".join(plans.slow())


def sources(storage: SqlStorage, state: State, user: Identity | None) -> set[str]:
    """The indexes from which a search reads which tasks are in a state."""
    plans = Plans(storage)
    try:
        storage.admin.search(TaskFilter((state,), user=user))
    finally:
        plans.stop()
    [plan] = [plan for asked, plan in plans.plans.items() if "source_0" in asked]
    return set(re.findall(r"taskqueue_(?!task)(\w+)", plan))


def check_sources(full: SqlStorage) -> None:
    for state in (SCHEDULED, FAILED, CANCELLED):
        assert sources(full, state, None) == {"rare"}
        assert sources(full, state, JANE) == {"person_rare"}
    assert sources(full, QUEUED, None) == {"waiting", "moved"}
    assert sources(full, QUEUED, JANE) == {"person_state"}
    assert sources(full, RUNNING, None) == {"running"}
    assert sources(full, RUNNING, JANE) <= {"running", "person_state"}
    assert sources(full, SUCCEEDED, None) == {"finished"}
    assert sources(full, SUCCEEDED, JANE) == {"person_state"}


def test_a_search_by_state_reads_an_index_in_order(full):
    """Never all tasks by number, however many are in the state; PostgreSQL has the statistics."""
    check_sources(full)


@pytest.mark.parametrize("first", range(INDEXES))
def test_whichever_index_was_made_first(tmp_path, first):
    """SQLite, without statistics, takes the newest index of those that it thinks are as good."""
    path = tmp_path / "queue.sqlite"
    storage = SqlStorage(QueueSettings(type="sql", url=f"sqlite:///{path}"))
    storage.admin.check()
    storage.close()
    connection = sqlite3.connect(path)
    query = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '% taskqueue_task %'"
    )
    indexes = sorted(connection.execute(query).fetchall())
    assert len(indexes) == INDEXES
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    for _, statement in indexes[first:] + indexes[:first]:
        connection.execute(statement)
    connection.close()
    for _ in range(5):
        add_one(storage)
    # The first to ask counts them.
    storage.admin.counts()
    plans = Plans(storage)
    ask_everything(storage)
    plans.stop()
    check_sources(storage)
    storage.close()
    assert not plans.slow(), "\n".join(plans.slow())


@pytest.mark.parametrize("done", [500, 5000])
def test_completions_find_their_tasks_with_any_statistics(postgres_server, done):
    """A server that has no statistics yet would rather read all tasks of the queue."""
    url = postgres_server.new_database()
    settings = QueueSettings(type="sql", url=url, max_finished=10_000, stage_timeout=20.0)
    storage = SqlStorage(settings)
    storage.admin.check()
    fill(storage, "postgresql", done, 0)
    for _ in range(99):
        add_one(storage)
    leases = storage.reserve("consumer", limit=64, timeout=0)
    plans = Plans(storage)
    states, more = storage.complete_and_reserve(
        [(lease, completed(lease)) for lease in leases], "consumer", 20
    )
    plans.stop()
    storage.close()
    assert (states, len(more)) == ([SUCCEEDED] * 64, 20)
    plans.plans = {a: plan for a, plan in plans.plans.items() if "json_to_recordset" in a}
    [plan] = plans.plans.values()
    assert "taskqueue_running on taskqueue_task" in plan
    assert not plans.slow(), "\n".join(plans.slow())
