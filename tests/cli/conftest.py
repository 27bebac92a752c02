"""The command line as a person uses it: a process of its own, beside a consumer of its queue."""

from __future__ import annotations

from cli.setup import Setup
from collections.abc import Iterator
from pathlib import Path
from services import PostgresServer
from services import RedisServer
import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer().start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def make_setup(tmp_path: Path) -> Iterator[Setup]:
    """Make a folder with a zope.conf that has these sections."""
    made = []

    def make(sections: str) -> Setup:
        made.append(Setup(tmp_path / f"setup-{len(made)}", sections))
        return made[-1]

    yield make
    for setup in made:
        setup.close()


@pytest.fixture(params=["redis-server", "sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sections(kind, tmp_path, redis_server, postgres_server) -> str:
    """The sections of a queue of each kind, empty."""
    if kind == "redis-server":
        redis_server.execute("FLUSHALL")
        return f"<taskqueue>\n  type redis\n  unix_socket_path {redis_server.socket}\n</taskqueue>"
    url = f"sqlite:///{tmp_path}/queue.sqlite"
    if kind == "postgresql":
        url = postgres_server.new_database()
    return f"<taskqueue>\n  type sql\n  url {url}\n</taskqueue>"


@pytest.fixture
def setup(make_setup, sections) -> Setup:
    """A queue of each kind, whose storage this process has opened once."""
    made = make_setup(sections)
    made.storage.admin.check()
    return made
