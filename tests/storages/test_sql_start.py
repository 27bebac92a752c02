"""What a SQL queue refuses before the first task, and how its tables come to be."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.contract.base import add_one
from collective.taskqueue.contract.base import at_once
from collective.taskqueue.contract.base import ids
from collective.taskqueue.contract.base import take_all
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.storages import _mounts
from collective.taskqueue.storages import _steps
from collective.taskqueue.storages.sql import SqlStorage
from pathlib import Path
from services import PostgresServer
from typing import Any
import pytest
import re
import sqlalchemy
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
        storage(f"sqlite:///{tmp_path}/missing/queue.sqlite").check()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "fuse.glusterfs"])
def test_a_network_file_system(tmp_path, monkeypatch, kind):
    """Refused if it can be told; the mount nearest to the file decides."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"2 1 0:30 / {tmp_path}/far\\040away rw shared:1 - {kind} server:/ rw\n"
        f"3 2 8:2 / {tmp_path}/far\\040away/local rw - xfs /dev/sdb1 rw\n"
    )
    monkeypatch.setattr(_mounts, "MOUNTS", mounts)
    with pytest.raises(ConfigurationError, match=f"network file system .{kind}."):
        storage(f"sqlite:///{tmp_path}/far away/queue.sqlite")
    storage(f"sqlite:///{tmp_path}/far away/local/queue.sqlite")
    storage(f"sqlite:///{tmp_path}/queue.sqlite")
    monkeypatch.setattr(_mounts, "MOUNTS", tmp_path / "missing")
    storage(f"sqlite:///{tmp_path}/far away/queue.sqlite")


MISSING = """\
import sys
sys.modules[sys.argv[1]] = None
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.startup import _storage
settings = QueueSettings(type="sql", url=sys.argv[2], place="<taskqueue>")
try:
    _storage(settings)
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
    """By whoever comes first, however many come at the same moment."""
    storages = [storage(url, queue=f"q{number}") for number in range(6)]
    assert at_once([each.check for each in storages]) == [None] * 6
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

    monkeypatch.setattr(_steps, "STEPS", [*_steps.STEPS, step("second"), step("third")])
    storages = [storage(url, queue=f"q{number}") for number in range(4)] + [storage(url)]
    assert at_once([each.check for each in storages]) == [None] * 5
    assert made == ["second", "third"]
    assert ids(storages[-1].tasks()) == [task.id]
    for each in storages:
        each.close()


def test_tables_of_a_newer_version_are_refused(url, monkeypatch):
    """Nothing is written to what this version does not know."""
    with monkeypatch.context() as newer:
        newer.setattr(_steps, "STEPS", [*_steps.STEPS, lambda connection: None])
        first = storage(url)
        add_one(first)
        first.close()
    second = storage(url)
    with pytest.raises(ConfigurationError, match="of version 3, made by a newer"):
        second.check()
    with pytest.raises(ConfigurationError, match="of version 3, made by a newer"):
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
        broken.setattr(_steps, "STEPS", [*_steps.STEPS, fail])
        second = storage(url)
        with pytest.raises(ZeroDivisionError):
            second.check()
        second.close()
    third = storage(url)
    assert take_all(third) == [task.id]
    third.close()
