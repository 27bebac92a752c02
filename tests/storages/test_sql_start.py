"""What a SQL queue refuses before the first task, and how its tables come to be."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.storages.sql import migrations
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.dialects import mounts
from collective.taskqueue.storages.sql.schema import ALIAS
from collective.taskqueue.storages.sql.schema import CONSUMER
from collective.taskqueue.storages.sql.schema import ENDED
from collective.taskqueue.storages.sql.schema import METADATA
from collective.taskqueue.storages.sql.schema import PROMOTED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import at_once
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take_all
from contextlib import closing
from pathlib import Path
from services import PostgresServer
from typing import Any
import msgpack
import pytest
import re
import sqlalchemy
import sqlite3
import subprocess
import sys


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, postgres_server: PostgresServer) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite"
    return postgres_server.new_database()


def storage(url: str, **settings: Any) -> SqlStorage:
    return SqlStorage(QueueSettings(type="sql", url=url, place="<taskqueue> (line 2)", **settings))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "type sql needs a url, sqlite:///… or postgresql://…"),
        ("nonsense", "type sql needs a url, sqlite:///… or postgresql://…"),
        ("mysql://localhost/tasks", "type sql needs a url, sqlite:///… or postgresql://…"),
        ("sqlite://", "the url must name a file"),
        ("sqlite:///:memory:", "the url must name a file"),
    ],
)
def test_a_url_that_will_not_do(url, reason):
    """One sentence that begins with the section and its line."""
    with pytest.raises(ConfigurationError, match=re.escape(f"<taskqueue> (line 2): {reason}")):
        storage(url)


def test_a_file_without_a_folder(tmp_path):
    """A typo in a path is found at the start, not by the first commit."""
    with pytest.raises(ConfigurationError, match=f"no folder {tmp_path}/missing"):
        storage(f"sqlite:///{tmp_path}/missing/queue.sqlite").admin.check()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "fuse.glusterfs"])
def test_a_network_file_system(tmp_path, monkeypatch, kind):
    """Refused if it can be told; the mount nearest to the file decides."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"2 1 0:30 / {tmp_path}/far\\040away rw shared:1 - {kind} server:/ rw\n"
        f"3 2 8:2 / {tmp_path}/far\\040away/local rw - xfs /dev/sdb1 rw\n"
    )
    monkeypatch.setattr(mounts, "MOUNTS", table)
    with pytest.raises(ConfigurationError, match=f"network file system .{kind}."):
        storage(f"sqlite:///{tmp_path}/far away/queue.sqlite")
    storage(f"sqlite:///{tmp_path}/far away/local/queue.sqlite")
    storage(f"sqlite:///{tmp_path}/queue.sqlite")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "missing")
    storage(f"sqlite:///{tmp_path}/far away/queue.sqlite")


MISSING = """\
import sys
sys.modules[sys.argv[1]] = None
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.factory import make_storage
settings = QueueSettings(type="sql", url=sys.argv[2], place="<taskqueue>")
try:
    make_storage(settings)
except Exception as exc:
    print(f"{type(exc).__name__}: {exc}")
"""


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (
            "sqlalchemy",
            "type sql needs the extra collective.taskqueue[sql], there is no sqlalchemy",
        ),
        (
            "psycopg",
            (
                "a url of PostgreSQL needs the extra collective.taskqueue[postgresql],"
                " there is no psycopg"
            ),
        ),
    ],
)
def test_a_missing_extra(module, sentence):
    """The sentence says what to install."""
    command = [sys.executable, "-c", MISSING, module, "postgresql://localhost/tasks"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"ConfigurationError: <taskqueue>: {sentence}"


def test_tables_are_made_once(url):
    """Several storages check the tables at the same moment; one of them creates the tables."""
    storages = [storage(url, queue=f"q{number}") for number in range(6)]
    assert at_once([each.admin.check for each in storages]) == [None] * 6
    for each in storages:
        task = add_one(each)
        assert take_all(each) == [task.id]
        each.close()


def test_tables_of_an_older_version_are_migrated(url, monkeypatch):
    """Step by step, each once, with the tasks that are in them."""
    first = storage(url)
    task = add_one(first)
    first.close()
    made = []

    def step(name: str) -> Any:
        def add_column(connection: sqlalchemy.Connection) -> None:
            made.append(name)
            connection.execute(
                sqlalchemy.text(f"ALTER TABLE taskqueue_task ADD COLUMN {name} INTEGER")
            )

        return add_column

    monkeypatch.setattr(migrations, "STEPS", [*migrations.STEPS, step("second"), step("third")])
    storages = [storage(url, queue=f"q{number}") for number in range(4)] + [storage(url)]
    assert at_once([each.admin.check for each in storages]) == [None] * 5
    assert made == ["second", "third"]
    assert ids(storages[-1].admin.tasks()) == [task.id]
    for each in storages:
        each.close()


def test_tables_of_a_newer_version_are_refused(url, monkeypatch):
    """Nothing is written to what this version does not know."""
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "STEPS", [*migrations.STEPS, lambda connection: None])
        first = storage(url)
        add_one(first)
        first.close()
    second = storage(url)
    with pytest.raises(ConfigurationError, match="of version 7, made by a newer"):
        second.admin.check()
    with pytest.raises(ConfigurationError, match="of version 7, made by a newer"):
        add_one(second)
    second.close()


def test_a_migration_that_fails_changes_nothing(url, monkeypatch):
    """All steps or none: the next start begins where this one began."""
    first = storage(url)
    task = add_one(first)
    first.close()

    def fail(connection: sqlalchemy.Connection) -> None:
        connection.execute(sqlalchemy.text("ALTER TABLE taskqueue_task ADD COLUMN x INTEGER"))
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(migrations, "STEPS", [*migrations.STEPS, fail])
        second = storage(url)
        with pytest.raises(ZeroDivisionError):
            second.admin.check()
        second.close()
    third = storage(url)
    assert take_all(third) == [task.id]
    third.close()


#: The table of tasks of the first version, and its indexes; {blob} and {double} are types.
FIRST = """
CREATE TABLE taskqueue_schema (version INTEGER NOT NULL);
INSERT INTO taskqueue_schema VALUES (1);
CREATE TABLE taskqueue_queue (
  name TEXT PRIMARY KEY, paused BOOLEAN NOT NULL, number BIGINT NOT NULL);
INSERT INTO taskqueue_queue VALUES ('default', {false}, 100);
CREATE TABLE taskqueue_task (
  queue TEXT NOT NULL, id TEXT NOT NULL, number BIGINT NOT NULL, state TEXT NOT NULL,
  place BIGINT NOT NULL, due {double}, "key" TEXT, mode TEXT NOT NULL, "user" TEXT, keep {double},
  tid {blob}, body {blob} NOT NULL, reason TEXT NOT NULL, changes TEXT NOT NULL,
  history TEXT NOT NULL, token TEXT, done TEXT, consumer TEXT, process TEXT, claim BIGINT,
  started {double}, expires {double}, attempts INTEGER NOT NULL, counted INTEGER NOT NULL,
  lost INTEGER NOT NULL, cancel BOOLEAN NOT NULL, progress TEXT, last {blob},
  forgotten BOOLEAN NOT NULL, forget_at {double}, PRIMARY KEY (queue, id));
CREATE INDEX taskqueue_waiting ON taskqueue_task (queue, place) WHERE state = 'queued';
CREATE INDEX taskqueue_scheduled ON taskqueue_task (queue, due, place)
  WHERE state = 'scheduled';
CREATE INDEX taskqueue_finished ON taskqueue_task (queue, state, place)
  WHERE state IN ('succeeded', 'failed', 'cancelled');
CREATE INDEX taskqueue_expiry ON taskqueue_task (queue, forget_at) WHERE forget_at IS NOT NULL;
CREATE INDEX taskqueue_user ON taskqueue_task (queue, "user", number) WHERE "user" IS NOT NULL;
CREATE TABLE taskqueue_batch (
  queue TEXT NOT NULL, id TEXT NOT NULL, staged {double} NOT NULL, number BIGINT NOT NULL,
  witness TEXT, tasks {blob} NOT NULL, PRIMARY KEY (queue, id));
"""

#: What every row of it has.
ROW: dict[str, Any] = {
    "queue": "default",
    "mode": "skip",
    "user": "jane",
    "reason": "",
    "history": "",
    "attempts": 1,
    "counted": 1,
    "lost": 0,
    "cancel": False,
    "forgotten": False,
}


def packed(task: Task) -> bytes:
    """The form that a task had: with its payload."""
    return msgpack.packb(task.encode())


@pytest.fixture
def tables_of_the_first_version(url: str) -> list[Task]:
    """A task that waits, one that has failed, one that is unreadable, and a batch of nine."""
    jane = Identity("/Plone/acl_users", "jane")
    tasks = [new_task(user=jane, payload=b"once", description="\N{SNOWMAN}") for _ in range(12)]
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    types = {"double": "DOUBLE PRECISION", "blob": "BYTEA", "false": "false"}
    if url.startswith("sqlite"):
        types |= {"blob": "BLOB", "false": "0"}
    batch = [
        value for task in tasks[3:] for value in (task.id, packed(task), "", "", "skip", "jane", "")
    ]
    rows = [
        {"state": "queued", "changes": "queued 1000.0;", "body": packed(tasks[0])},
        {
            "state": "failed",
            "changes": "queued 1000.0;failed 2000.0;",
            "forget_at": 9e9,
            "last": msgpack.packb([503, [["A", "b"]], b"body", False]),
            "body": packed(tasks[1]),
        },
        {"state": "failed", "changes": "failed 2000.0;", "forget_at": 9e9, "body": b"?"},
    ]
    with engine.begin() as connection:
        for statement in FIRST.format(**types).split(";\n")[:-1]:
            connection.execute(sqlalchemy.text(statement))
        if not url.startswith("sqlite"):
            connection.execute(sqlalchemy.text("CREATE SEQUENCE taskqueue_number START 101"))
        for number, row in enumerate(rows):
            values = ROW | row | {"id": tasks[number].id, "number": number, "place": number}
            names = ", ".join(f'"{name}"' for name in values)
            marks = ", ".join(f":{name}" for name in values)
            insert = f"INSERT INTO taskqueue_task ({names}) VALUES ({marks})"
            connection.execute(sqlalchemy.text(insert), values)
        insert = "INSERT INTO taskqueue_batch VALUES ('default', 'b', 1, 99, 'w', :tasks)"
        connection.execute(sqlalchemy.text(insert), {"tasks": msgpack.packb(batch)})
        # The others have not changed since.
        METADATA.create_all(connection, [ALIAS, PROMOTED, CONSUMER, ENDED])
    engine.dispose()
    return tasks


def test_tables_of_the_first_version_are_migrated(url, tables_of_the_first_version):
    """Payloads and responses stand apart from then on, and tasks have a person."""
    waiting, failed, damaged, *staged = tables_of_the_first_version
    queue = storage(url)
    assert queue.admin.get(waiting.id).task == waiting
    status = queue.admin.get(failed.id)
    assert (status.task, status.status, status.body) == (failed, 503, b"body")
    assert "damaged" in queue.admin.get(damaged.id).reason
    assert ids(queue.admin.tasks(user=waiting.user)) == ids(queue.admin.tasks(user="jane"))
    assert ids(queue.admin.tasks(user="jane")) == [waiting.id, failed.id]
    assert queue.admin.counts() == {**dict.fromkeys(STATES, 0), QUEUED: 1, FAILED: 2}
    assert {one.task.payload for one in queue.admin.tasks()} == {b""}
    [batch] = queue.admin.in_doubt()
    assert list(batch.tasks) == ids(staged)
    queue.promote("b")
    [first, *leases] = queue.reserve("consumer", limit=20, timeout=0)
    assert [first.task, *(lease.task for lease in leases)] == [waiting, *staged]
    assert queue.complete(first, completed(first)) == SUCCEEDED
    assert queue.admin.counts(waiting.user)[FAILED] == 1
    queue.close()


def test_tables_without_the_indexes_of_searches_are_migrated(url):
    """Those of version 4: its index of finished tasks is replaced, and the others are added."""

    def indexes(engine: sqlalchemy.Engine) -> dict[Any, Any]:
        found = sqlalchemy.inspect(engine).get_indexes("taskqueue_task")
        return {index["name"]: index["column_names"] for index in found}

    first = storage(url)
    task = add_one(first)
    engine = first._session.engine
    new = indexes(engine)
    statements = [f"DROP INDEX taskqueue_{name}" for name in ("moved", "person_rare", "rare")]
    where = "WHERE state IN ('succeeded', 'failed', 'cancelled') AND place != -9000000000000000000"
    statements += [
        "DROP INDEX taskqueue_finished",
        f"CREATE INDEX taskqueue_finished ON taskqueue_task (queue, state, place, size) {where}",
        "UPDATE taskqueue_schema SET version = 4",
    ]
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    assert len(indexes(engine)) == len(new) - 3
    first.close()
    second = storage(url)
    assert ids(second.admin.search(TaskFilter((QUEUED,))).tasks) == [task.id]
    assert indexes(second._session.engine) == new
    second.close()


@pytest.mark.parametrize("version", ["NULL", "-1", "'x'", "none"])
def test_a_version_that_cannot_be_read(tmp_path, version):
    """The tables tell by themselves what is missing in them."""
    url = f"sqlite:///{tmp_path}/queue.sqlite"
    first = storage(url)
    task = add_one(first)
    first.close()
    with closing(sqlite3.connect(tmp_path / "queue.sqlite", isolation_level=None)) as connection:
        connection.execute("DROP TABLE taskqueue_schema")
        connection.execute("CREATE TABLE taskqueue_schema (version INTEGER)")
        if version != "none":
            connection.execute(f"INSERT INTO taskqueue_schema VALUES ({version})")
    second = storage(url)
    assert take_all(second) == [task.id]
    second.close()
