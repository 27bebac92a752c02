"""Two processes on one ZEO server: tasks that need what their transaction has just made.

One process makes objects and queues a task for each, the other one runs the tasks, each in
a connection of its own. What the server tells the other one comes late; nothing else is
slowed down. Without the read barrier its tasks start before their objects are there.

    python -m crash.barrier --tasks 1000 --delay 0.02
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import Outcome
from crash.databases import Opener
from crash.databases import zeo
from crash.processes import fork
from crash.processes import in_child
from crash.processes import kill
from functools import partial
from pathlib import Path
from persistent.mapping import PersistentMapping
from services import RedisServer
from tempfile import TemporaryDirectory
from transaction import TransactionManager
from typing import Any
from ZEO.asyncio.client import ClientIO
import argparse
import asyncio
import json
import logging
import sys
import time
import transaction


#: Tasks of one transaction.
PORTION = 10

#: Seconds until all tasks have run; only a failure takes this long.
PATIENCE = 120.0


def hold_back(seconds: float) -> None:
    """Let everything that the server tells this process about others come late, in order."""
    original = ClientIO.invalidateTransaction

    def later(self: Any, tid: bytes, oids: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, original, self, tid, oids)

    ClientIO.invalidateTransaction = later


def add(opener: Opener, settings: QueueSettings, tasks: int) -> int:
    """Make objects and queue a task for each."""
    database = opener()
    queue = TaskQueue(settings, RedisStorage(settings))
    connection = database.open()
    deadline = time.monotonic() + PATIENCE
    while not queue.storage.admin.consumers():
        # Who opens its database after the last commit sees them all.
        if time.monotonic() > deadline:
            raise RuntimeError("there is no consumer")
        time.sleep(0.01)
    for start in range(0, tasks, PORTION):
        transaction.begin()
        for number in range(start, start + PORTION):
            item = connection.root()[f"item-{number}"] = PersistentMapping(number=number)
            connection.add(item)
            # Also something that was there before, and has changed.
            connection.root()["newest"] = number
            queue.add(f"/{item._p_oid.hex()}/{number}")
        transaction.commit()
    return tasks


def run(opener: Opener, settings: QueueSettings, delay: float, barrier: bool) -> None:
    """Consume until killed."""
    if delay:
        hold_back(delay)
    database = opener()

    def perform(attempt: Attempt) -> Outcome:
        _, oid, number = attempt.task.url.split("/")
        connection = database.open(transaction_manager=TransactionManager())
        started = time.time()
        try:
            found = connection.get(bytes.fromhex(oid))["number"]
            same = connection.root()[f"item-{number}"]["number"]
            newest = connection.root()["newest"]
            fine = found == same == int(number) <= newest
            return Outcome(200 if fine else 409, started=started)
        except KeyError as exc:
            return Outcome(404, repr(exc), started=started)
        finally:
            connection.close()

    ready: Callable[[bytes], bool] = partial(indoubt.reached, database)
    if not barrier:
        ready = lambda tid: True  # noqa: E731
    Consumer(RedisStorage(settings), perform, ServerSettings(), ready=ready).run()


def main() -> int:
    """Print the totals as JSON; 1 if a task missed what it needs."""
    parser = argparse.ArgumentParser(prog="crash.barrier", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--without-barrier", action="store_true", help="must fail")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    with TemporaryDirectory() as folder:
        server = RedisServer(Path(folder)).start()
        settings = QueueSettings(type="redis", unix_socket_path=server.socket)
        try:
            with zeo(Path(folder)) as opener:
                barrier = not options.without_barrier
                # Its root exists before there are two.
                in_child(lambda: opener().close())
                consumer = fork(lambda: run(opener, settings, options.delay, barrier))
                try:
                    in_child(lambda: add(opener, settings, options.tasks))
                    totals = _wait(RedisStorage(settings), options.tasks)
                finally:
                    kill(consumer)
        finally:
            server.stop()
    print(json.dumps(totals))
    return 1 if totals["failed"] else 0


def _wait(storage: RedisStorage, tasks: int) -> dict[str, int]:
    deadline = time.monotonic() + PATIENCE
    while True:
        counts = storage.admin.counts()
        if counts["succeeded"] + counts["failed"] == tasks:
            return {**counts}
        if time.monotonic() > deadline:
            raise RuntimeError(f"tasks stay behind: {counts}")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
