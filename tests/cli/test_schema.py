"""Tables of SQL queues: no command makes or migrates them by the way."""

from collective.taskqueue.storages.sql.schema import SCHEMA
from pathlib import Path
from sqlalchemy import create_engine
from sqlalchemy import update
import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request):
    return request.param


@pytest.fixture
def url(sections):
    return sections.split()[4]


def set_version(url, version):
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(update(SCHEMA).values(version=version))
    engine.dispose()


def test_no_tables(make_setup, sections, kind, url):
    setup = make_setup(sections)
    for words in (("tasks",), ("add", "/x"), ("retry", "x"), ("pause", "default")):
        done = setup.here(*words)
        assert done.returncode == 3
        assert "no tables yet" in done.stderr
    [item] = setup.json("schema", code=1)["items"]
    assert item["found"] is None
    assert "no tables" in setup.out("check", code=1)
    if kind == "sqlite":
        assert not Path(url.removeprefix("sqlite:///")).exists()
    assert "nothing was changed" in setup.out("migrate", code=1, input="n\n")
    assert setup.json("schema", code=1)["items"] == [item]
    needed = item["needed"]
    text = setup.out("migrate", "--yes")
    assert text == (
        f"queue default: no tables, to become version {needed}\nqueue default: version {needed}\n"
    )
    assert setup.out("migrate") == f"queue default: nothing to do, version {needed}\n"
    assert setup.out("tasks") == "no task matches\n"


def test_older_tables(setup, url):
    [item] = setup.json("schema")["items"]
    needed = item["needed"]
    set_version(url, needed - 1)
    sentence = setup.refused("tasks", code=3)
    assert sentence == (
        f"queue default: its tables are of version {needed - 1}, this package needs {needed}; stop"
        " all older processes, then call taskqueue migrate"
    )
    [item] = setup.json("schema", code=1)["items"]
    assert item["found"] == needed - 1
    setup.out("migrate", input="y\n")
    assert setup.out("tasks") == "no task matches\n"


def test_newer_tables(setup, url):
    set_version(url, 99)
    for words in (("tasks",), ("migrate", "--yes")):
        assert "made by a newer collective.taskqueue" in setup.refused(*words, code=3)


@pytest.mark.parametrize("kind", ["redis-server"])
def test_a_queue_without_tables(setup):
    assert setup.refused("schema", code=3).startswith("there is no queue of type sql")
    words = ("migrate", "--queue", "default")
    assert setup.refused(*words, code=3).startswith("queue default is not of type sql")
