"""Every kind of database that Plone is run on, and a queue beside it."""

from __future__ import annotations

from collections.abc import Iterator
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from contextlib import contextmanager
from crash.databases import file_storage
from crash.databases import Opener
from crash.databases import rel_storage
from crash.databases import zeo
from crash.dying import AGE
from crash.dying import make_storage
from functools import partial
from pathlib import Path
from services import RedisServer
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
import pytest
import transaction


@contextmanager
def demo_storage(folder: Path) -> Iterator[Opener]:
    database = DB(DemoStorage(), database_name="main")
    yield Opener(lambda: database)


DATABASES = {
    "FileStorage": file_storage,
    "ZEO": zeo,
    "RelStorage": partial(rel_storage, keep_history=True),
    "RelStorage, history-free": partial(rel_storage, keep_history=False),
    "DemoStorage": demo_storage,
}


@pytest.fixture(params=DATABASES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    with DATABASES[request.param](tmp_path) as opener:
        yield opener


@pytest.fixture
def database(opener: Opener) -> Iterator[DB]:
    database = opener()
    yield database
    transaction.abort()
    database.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture
def no_older_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just started."""
    monkeypatch.setattr(indoubt, "_last_seen", {})


@pytest.fixture
def later(server: RedisServer) -> RedisStorage:
    """The storage, so much later that nobody waits for a commit any more."""
    return make_storage(server, AGE)


@pytest.fixture
def queue(server: RedisServer) -> TaskQueue:
    storage = make_storage(server)
    return TaskQueue(storage.settings, storage)
