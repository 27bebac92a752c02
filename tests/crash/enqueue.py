"""Crash injection on the way in: is a task queued if, and only if, its transaction committed?

One interpreter forks a writer for each injection. The writer commits transactions that
leave a record in the database and queue tasks, and dies: at a chosen step of the protocol,
or killed from outside at a random moment. The server of the database, if there is one, is
restarted now and then. Then a verdict_of, a process of its own, too, opens the same database,
commits objects of its own, resolves what is in doubt, and compares the records with the queue.

    python -m crash.enqueue --database zeo --injections 500
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.queue import TaskQueue
from crash import databases
from crash.backends import backend
from crash.backends import settle
from crash.backends import storage_class
from crash.databases import Opener
from crash.processes import fork
from crash.processes import in_child
from crash.processes import kill
from crash.processes import wait
from pathlib import Path
from persistent.mapping import PersistentMapping
from tempfile import TemporaryDirectory
from typing import Any
import argparse
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import transaction


#: The verdict_of looks from so many seconds later: every batch is older than any commit can be.
LATER = 2 * indoubt.LONGEST_COMMIT

#: Sort keys: before us, between us and the database, and the same on the way back.
FIRST, BEFORE, AFTER, LAST = "\0\0", "!", "~", "~~~"
PHASES = ("tpc_begin", "commit", "tpc_vote", "tpc_finish")

POINTS = [
    *(f"{phase} {key!r}" for phase in PHASES for key in (FIRST, BEFORE, AFTER, LAST)),
    *(f"{when} {call}" for call in ("stage", "promote") for when in ("before", "after")),
    *(f"{when} discard" for when in ("before", "after")),
]

#: How often the server of the database is restarted before the verdict_of looks.
RESTARTS = 0.25

#: Longest time in seconds that a writer lives if it is killed at a random moment. One of so many
#: is killed from its beginning on, the others after their first transaction.
LIFETIME, EARLY = 0.15, 8

#: Seconds that a first transaction takes at most, on a slow machine.
PATIENCE = 30.0


class Veto(Exception):
    """A transaction is refused by somebody else, in the vote."""


class Death:
    """Where the process ends, once it is armed, and how."""

    def __init__(self, point: str, by_signal: bool) -> None:
        self.armed = False
        self._point = point
        self._by_signal = by_signal

    def at(self, point: str) -> None:
        """End the process if this is the point."""
        if not self.armed or point != self._point:
            return
        if self._by_signal:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(77)


class Bomb:
    """A data manager at one place of the line; it reports each phase to `Death`."""

    transaction_manager = transaction.manager

    def __init__(self, key: str, death: Death, veto: bool = False) -> None:
        self._key = key
        self._death = death
        self._veto = veto

    def sortKey(self) -> str:
        """See `IDataManager`."""
        return self._key

    def tpc_begin(self, current: Any) -> None:
        """See `IDataManager`."""
        self._death.at(f"tpc_begin {self._key!r}")

    def commit(self, current: Any) -> None:
        """See `IDataManager`."""
        self._death.at(f"commit {self._key!r}")

    def tpc_vote(self, current: Any) -> None:
        """See `IDataManager`."""
        self._death.at(f"tpc_vote {self._key!r}")
        if self._veto:
            raise Veto

    def tpc_finish(self, current: Any) -> None:
        """See `IDataManager`."""
        self._death.at(f"tpc_finish {self._key!r}")

    def abort(self, current: Any) -> None:
        """See `IDataManager`."""

    def tpc_abort(self, current: Any) -> None:
        """See `IDataManager`."""


class Mortal:
    """A storage that reports what it is about to do, and what it has done."""

    _death: Death

    def stage(self, *args: Any) -> None:
        """See `ITaskStorage`."""
        self._death.at("before stage")
        super().stage(*args)
        self._death.at("after stage")

    def promote(self, *args: Any) -> None:
        """See `ITaskStorage`."""
        self._death.at("before promote")
        super().promote(*args)
        self._death.at("after promote")

    def discard(self, batch_id: str) -> None:
        """See `ITaskStorage`."""
        self._death.at("before discard")
        super().discard(batch_id)
        self._death.at("after discard")


def mortal_storage(settings: QueueSettings, death: Death) -> Any:
    """Return a storage of the settings' type that reports to `death`."""
    storage = type("MortalStorage", (Mortal, storage_class(settings)), {})(settings)
    storage._death = death
    return storage


class NaiveQueue(TaskQueue):
    """What the harness must catch: tasks are pushed in `tpc_finish`, after the database."""

    def add(self, url: str, **options: Any) -> str:
        """Queue a task the way the predecessors did."""
        transaction.get().join(_Push(self, url))
        return url


class _Push(Bomb):
    def __init__(self, queue: NaiveQueue, url: str) -> None:
        self._queue = queue
        self._url = url

    def sortKey(self) -> str:
        return "~~collective.taskqueue"

    def tpc_begin(self, current: Any) -> None:
        pass

    commit = tpc_vote = tpc_begin

    def tpc_finish(self, current: Any) -> None:
        from collective.taskqueue.enqueue.capture import make_task

        self._queue.put(make_task(self._queue.settings, self._url))


class Harness:
    """One database, one queue, and as many injections as wanted."""

    def __init__(
        self, opener: Opener, fields: dict[str, Any], naive: bool = False, seed: int = 0
    ) -> None:
        self.totals: Counter[str] = Counter()
        self._open = opener
        self._settings = QueueSettings(**fields)
        # Imported here, once, and not by each child.
        storage_class(self._settings)
        self._naive = naive
        self._random = random.Random(seed)
        in_child(self._create)

    def run(self, injections: int) -> Counter[str]:
        """Inject so many crashes, every other one at a random moment; return the totals."""
        for number in range(injections):
            point = POINTS[number // 2 % len(POINTS)] if number % 2 else ""
            self._inject(number, point)
        return self.totals

    def _inject(self, number: int, point: str) -> None:
        rng = random.Random(self._random.random())
        ready, tell = os.pipe()
        writer = fork(lambda: self._write(number, point, rng, tell))
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        if not point:
            time.sleep(rng.uniform(0, LIFETIME))
        ended = wait(writer) if point else kill(writer)
        if ended not in (-signal.SIGKILL, 77):
            raise RuntimeError(f"injection {number} at {point!r}: the writer ended with {ended}")
        if rng.random() < RESTARTS:
            self._open.restart()
        found = in_child(self._judge)
        for lost in found.pop("wrong"):
            print(f"injection {number} at {point or 'a random moment'}: {lost}", file=sys.stderr)
        self.totals.update(found)
        self.totals["injections"] += 1

    # the writer

    def _create(self) -> None:
        database = self._open()
        with database.transaction() as connection:
            for name in "ab":
                connection.root()[name] = PersistentMapping()
        database.close()

    def _write(self, number: int, point: str, rng: random.Random, tell: int) -> None:
        death = Death(point, rng.random() < 0.5)
        storage = mortal_storage(self._settings, death)
        queue = (NaiveQueue if self._naive else TaskQueue)(self._settings, storage)
        database = self._open()
        begun = threading.Event()
        threads = [
            threading.Thread(
                target=self._transactions,
                args=(database, queue, name, number, death, random.Random(rng.random()), begun),
            )
            # Two at a time only if nobody counts their steps.
            for name in ("a" if point else "ab")
        ]
        # A slow machine would kill most of them before they have written anything.
        if point or number % EARLY == 0:
            begun.set()
        for thread in threads:
            thread.start()
        begun.wait(PATIENCE)
        os.write(tell, b".")
        for thread in threads:
            thread.join()

    def _transactions(
        self,
        database: Any,
        queue: TaskQueue,
        name: str,
        number: int,
        death: Death,
        rng: random.Random,
        begun: threading.Event,
    ) -> None:
        connection = database.open()
        fatal = rng.randrange(4)
        for position in range(10_000):
            transaction.begin()
            size = rng.randint(1, 20)
            key = f"{number:06d}-{name}-{position:06d}"
            connection.root()[name][key] = size
            for task in range(size):
                queue.add(f"/{key}/{task}")
            death.armed = position >= fatal
            refused = death.armed and rng.random() < 0.3
            for place in (FIRST, BEFORE, AFTER, LAST):
                transaction.get().join(Bomb(place, death, veto=refused and place == AFTER))
            try:
                transaction.commit()
            except Veto:
                transaction.abort()
            begun.set()

    # the verdict_of

    def _judge(self) -> dict[str, Any]:
        database = self._open()
        # A server may still be at what the writer sent last; it does one commit at a time.
        with database.transaction() as connection:
            connection.root()["classify"] = time.time()
        # The ids of the objects that the writer did not commit go to these.
        databases.commit_objects(database)
        settle(self._settings)
        storage = storage_class(self._settings)(self._settings, clock=lambda: time.time() + LATER)
        doubtful = storage.admin.in_doubt()
        indoubt.resolve(storage, database.databases)
        with database.transaction() as connection:
            root = connection.root()
            records = {key: size for name in "ab" for key, size in root[name].items()}
            for name in "ab":
                root[name].clear()
        database.close()
        queued = [status.task.url for status in storage.admin.tasks("queued", size=1_000_000)]
        failed = storage.admin.counts()["failed"]
        wrong = [*_compare(records, queued)]
        if storage.admin.in_doubt():
            wrong.append("a batch is still in doubt")
        storage.admin.clear()
        storage.admin.purge("failed")
        storage.close()
        return {
            "committed": len(records),
            "tasks": len(queued),
            "in doubt": len(doubtful),
            "nobody knows": failed,
            "violations": len(wrong),
            "wrong": wrong,
        }


def _compare(records: dict[str, int], queued: list[str]) -> Iterator[str]:
    """Yield what is not as it should be: lost, doubled, uncommitted, out of order."""
    found: dict[str, list[int]] = {}
    for url in queued:
        _, key, task = url.split("/")
        found.setdefault(key, []).append(int(task))
    for key, size in records.items():
        tasks = found.pop(key, [])
        if tasks != list(range(size)):
            yield f"{key}: committed with {size} tasks, queued are {tasks}"
    for key, tasks in found.items():
        yield f"{key}: not committed, queued are {tasks}"
    for name in "ab":
        order = [
            key for key in dict.fromkeys(u.split("/")[1] for u in queued) if f"-{name}-" in key
        ]
        if order != sorted(order):
            yield f"thread {name}: commit order is lost: {order}"


def main() -> int:
    """Print the totals as JSON; 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="crash.enqueue", description=__doc__)
    parser.add_argument("--database", choices=("file_storage", "zeo"), default="file_storage")
    parser.add_argument("--storage", choices=("redis", "sqlite", "postgresql"), default="redis")
    parser.add_argument("--injections", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--naive", action="store_true", help="push in tpc_finish: must fail")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("collective.taskqueue").setLevel(logging.CRITICAL)
    with (
        TemporaryDirectory() as folder,
        backend(options.storage, Path(folder)) as fields,
        getattr(databases, options.database)(Path(folder)) as opener,
    ):
        harness = Harness(opener, fields, options.naive, options.seed)
        totals = harness.run(options.injections)
    print(json.dumps(totals))
    return 1 if totals["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
