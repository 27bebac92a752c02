"""Transactions that queue a task, and processes that die while they do."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue import datamanager
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from services import RedisServer
from typing import Any
from ZODB.DB import DB
import pytest
import time
import transaction


#: Whatever a test waits for takes a moment; only a failure takes this long.
PATIENCE = 60.0

#: Seconds until nobody waits for a commit any more.
AGE = indoubt.LONGEST_COMMIT + 1


def make_storage(server: RedisServer, later: float = 0.0) -> RedisStorage:
    settings = QueueSettings(type="redis", unix_socket_path=server.socket)
    return RedisStorage(settings, (lambda: time.time() + later) if later else None)


class Died(Exception):
    """The process would be dead here."""


def die(*args: Any) -> None:
    raise Died


def add(database: DB, queue: TaskQueue, url: str) -> None:
    """Commit a record and queue a task."""
    transaction.begin()
    connection = database.open()
    try:
        connection.root()[url] = 1
        queue.add(url)
        transaction.commit()
    finally:
        transaction.abort()
        connection.close()


def add_and_die(
    database: DB,
    queue: TaskQueue,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    committed: bool,
    point: str = "_Promoter.tpc_vote",
) -> None:
    """The same, but the process dies right after the commit of the database, or at a point before.

    That is right before the last phase of the commit, unless told otherwise.
    """
    with monkeypatch.context() as patch:
        # No afterlife: nothing goes on in the background of a dead process.
        patch.setattr(outbox.Relay, "add", lambda self, job: None)
        patch.setattr(queue.storage, "promote" if committed else "discard", die)
        if committed:
            add(database, queue, url)
        else:
            kind, method = point.split(".")
            patch.setattr(getattr(datamanager, kind), method, die)
            with pytest.raises(Died):
                add(database, queue, url)


def urls(storage: RedisStorage, state: str = "queued") -> list[str]:
    return [status.task.url for status in storage.admin.tasks(state, size=1000)]


def pack(database: DB) -> None:
    # What was committed just now counts as packed only if the clock has moved on.
    database.pack(t=time.time() + 1)
