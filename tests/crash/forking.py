"""One storage, used before and after a fork by the parent and by four children at a time."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from crash.processes import fork
from crash.processes import wait
from crash.worker import new_task
from pathlib import Path
from services import RedisServer
from tempfile import TemporaryDirectory
from uuid import uuid4
import json
import os
import sys
import threading


#: Tasks of each process.
TASKS = 50

CHILDREN = 4

#: Seconds that a task may take to come; it takes a moment.
PATIENCE = 30.0


def use(storage: RedisStorage, name: str) -> None:
    """Queue tasks and run what comes; an error if somebody else's reply arrives."""
    for number in range(TASKS):
        task = new_task(f"/{name}/{number}")
        promote(storage, task)
        if storage.admin.get(task.id).id != task.id:
            raise AssertionError("somebody else's reply")
        finish_one(storage)


def promote(storage: RedisStorage, task: Task) -> None:
    """Queue a task."""
    batch = str(uuid4())
    storage.stage(batch, [task])
    storage.promote(batch)


def finish_one(storage: RedisStorage) -> None:
    """Run the task that comes next."""
    for lease in storage.reserve("same", timeout=PATIENCE):
        attempt = AttemptRecord(lease.attempt, "same", 0.0, 0.0, 200)
        if storage.complete(lease, Transition(SUCCEEDED, attempt)) != SUCCEEDED:
            raise AssertionError("somebody else's task")
        return
    raise AssertionError("no task")


def main() -> int:
    """Print the totals as JSON."""
    with TemporaryDirectory() as folder:
        server = RedisServer(Path(folder)).start()
        try:
            storage = RedisStorage(QueueSettings(type="redis", unix_socket_path=server.socket))
            storage.admin.counts()["queued"]
            # A consumer of the parent is blocked while it forks.
            blocked = threading.Thread(target=lambda: finish_one(storage))
            blocked.start()
            os.register_at_fork(after_in_child=storage.after_fork)
            children = [fork(lambda: use(storage, str(os.getpid()))) for _ in range(CHILDREN)]
            # One more than the parent takes here, for its thread.
            promote(storage, new_task("/parent/thread"))
            use(storage, "parent")
            wrong = sum(wait(child) != 0 for child in children)
            blocked.join()
            counts = storage.admin.counts()
        finally:
            server.stop()
    print(json.dumps({**counts, "wrong": wrong}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
