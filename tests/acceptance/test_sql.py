"""A queue in SQLite or PostgreSQL, used by real WSGI processes one after the other."""

from __future__ import annotations

from acceptance.instance import wait_for
from pathlib import Path
from services import PostgresServer
from textwrap import dedent
import os
import psycopg
import pytest
import re
import signal


HOWTO = Path(__file__).parents[2] / "docs" / "how-to" / "sql.rst"


SNIPPET = """\
%import collective.taskqueue
<taskqueue>
  type sql
  url sqlite:///$(FIXTURE_FILE)
</taskqueue>
<taskqueue-server>
  lease 2
</taskqueue-server>
"""


def started(instance, gate):
    return instance.records(event="start", gate=gate)


def test_worker_killed_in_a_task(zope, tmp_path):
    """D05, N63, T13: SIGKILL in the middle of a task; it runs again, all others once, in order."""
    instance = zope(SNIPPET, environ={"FIXTURE_FILE": str(tmp_path / "queue.sqlite")})
    instance.start()
    urls = [f"/@@fixture-gate?name={name}" for name in "abc"]
    ids = instance.add(*({"url": url} for url in urls), path="")["ids"]
    wait_for(lambda: started(instance, "a"), "the first task to start")
    os.kill(instance.process.pid, signal.SIGKILL)
    instance.wait()
    instance.start()
    wait_for(lambda: len(started(instance, "a")) == 2, "the second attempt")
    for name in "abc":
        instance.open(name)
    for task_id in ids:
        assert instance.finished(task_id)["state"] == "succeeded"
    order = [item["gate"] for item in instance.records(event="start") if item.get("gate")]
    assert order == ["a", "a", "b", "c"]
    assert len(instance.lines("WARNING", ids[0], "back to the front")) == 1


@pytest.fixture
def plone_database():
    """A server with what the documentation presupposes; yields the folder of its socket."""
    server = PostgresServer().start()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE plone LOGIN")
        connection.execute("CREATE DATABASE plone OWNER plone")
    yield server.folder
    server.remove()


def test_relstorage_in_the_same_database(zope, plone_database):
    """D05: as documented; the process is killed, and what its task writes then is kept."""
    text = HOWTO.read_text(encoding="utf-8")
    [block] = re.findall(r"(   %import relstorage\n(?:   .*\n)+)", text)
    snippet = dedent(block).replace("/var/run/postgresql", str(plone_database))
    instance = zope(snippet, storage="")
    instance.start()
    [task_id] = instance.add({"url": "/@@fixture-gate?name=a&value=kept"}, path="")["ids"]
    wait_for(lambda: started(instance, "a"), "the task to start")
    os.kill(instance.process.pid, signal.SIGKILL)
    instance.wait()
    instance.start()
    instance.open("a")
    assert instance.finished(task_id)["state"] == "succeeded"
    assert instance.script("print(app.fixture_value)").stdout.strip() == "kept"
