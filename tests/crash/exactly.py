"""Crash injection around the commit of a task: what it writes into the ZODB is written once.

Each execution of a task adds one entry to the database. Some tasks kill the worker that runs them,
or freeze it, when they first get to a step: before the commit, after the vote, after the commit,
before and after the report to the queue. A frozen worker goes on when its lease has expired
and another worker has had the time to run the task. Others are killed at random. In the end each
task has one entry. Without slots some have two.

    python -m crash.exactly --database zeo --storage redis --injections 100
"""

from __future__ import annotations

from BTrees.OOBTree import OOBTree
from collections import Counter
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.consumer.redelivery import COMMITTED
from collective.taskqueue.publisher.slot import Slots
from collective.taskqueue.publisher.slot import SlotWriter
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from crash import databases
from crash.backends import backend
from crash.backends import storage_class
from crash.databases import Opener
from crash.processes import fork
from crash.processes import in_child
from crash.processes import kill
from crash.worker import new_task
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from transaction import TransactionManager
from transaction.interfaces import TransientError
from typing import Any
from uuid import uuid4
from ZODB.DB import DB
import argparse
import json
import logging
import os
import random
import signal
import sys
import time


#: Seconds of a lease, and of a freeze: long enough for another worker.
LEASE = 1.0
FREEZE = 3 * LEASE

#: Seconds that anything may take which should take moments.
PATIENCE = 120.0

#: Where a worker is killed or frozen, in the order in which a task gets there.
STEPS = ("begun", "written", "voted", "committed", "reporting", "reported")

DATABASES = {
    "file_storage": databases.file_storage,
    "zeo": databases.zeo,
    "rel_storage": partial(databases.rel_storage, keep_history=False),
}


class Worker:
    """A consumer with a database; the url of a task says at which step it ends the worker."""

    def __init__(self, settings: QueueSettings, opener: Opener, with_slots: bool) -> None:
        self._database = opener()
        storage = storage_class(settings)(settings)
        for name in ("complete", "complete_and_reserve"):
            setattr(storage, name, partial(self._report, getattr(storage, name)))
        server = ServerSettings(name=f"worker-{os.getpid()}", lease=LEASE)
        self._consumer = Consumer(storage, self._perform, server)
        if with_slots:
            self._consumer.use_slots(Slots(self._database), settings.max_deliveries)

    def run(self) -> None:
        """Consume until killed."""
        self._consumer.run()

    def _perform(self, attempt: Attempt) -> Outcome:
        reach("begun", attempt.lease)
        while True:
            writer = attempt.slot and SlotWriter(attempt.slot, attempt.task, attempt.number)
            try:
                return self._execute(attempt, writer or None)
            except TransientError:
                if writer and not writer.may_be_retried():
                    return writer.result(Outcome(500))

    def _execute(self, attempt: Attempt, writer: SlotWriter | None) -> Outcome:
        manager = TransactionManager()
        if writer is not None:
            manager.registerSynch(writer)
        connection = self._database.open(transaction_manager=manager)
        outcome = Outcome(200, body=b"done", started=time.time())
        try:
            manager.begin()
            connection.root()["runs"][f"{attempt.task.url} {uuid4().hex}"] = True
            reach("written", attempt.lease)
            manager.get().join(Last(attempt.lease))
            if writer is not None:
                writer.answer = lambda: (200, (), b"done", False, (), outcome.started, 0.0)
            manager.commit()
            return outcome if writer is None else writer.result(outcome)
        finally:
            manager.abort()
            connection.close()

    def _report(self, call: Any, *args: Any) -> Any:
        leases = [args[0]] if isinstance(args[0], Lease) else [lease for lease, _ in args[0]]
        for lease in leases:
            reach("reporting", lease)
        found = call(*args)
        for lease in leases:
            reach("reported", lease)
        return found


class Last:
    """A data manager that votes and finishes after the database."""

    transaction_manager = None

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def sortKey(self) -> str:
        return "~~~"

    def tpc_vote(self, current: object) -> None:
        reach("voted", self._lease)

    def tpc_finish(self, current: object) -> None:
        reach("committed", self._lease)

    def abort(self, current: object) -> None:
        """Do nothing."""

    commit = tpc_begin = tpc_abort = abort


#: The folder with an empty file for each task that has ended a worker.
MARKS = "CRASH_MARKS"


def reach(step: str, lease: Lease) -> None:
    """End this process, or freeze it, if the task wants that at this step: once for each task."""
    _, number, wanted, name = lease.task.url.split("/")
    mark = Path(os.environ[MARKS]) / number
    if wanted == step and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.Signals[name])


class Harness:
    """The workers, and what becomes of their tasks."""

    def __init__(
        self,
        settings: QueueSettings,
        opener: Opener,
        workers: int,
        with_slots: bool = True,
        seed: int = 0,
    ) -> None:
        self._settings = settings
        self._opener = opener
        self._number = workers
        self._with_slots = with_slots
        self._random = random.Random(seed)
        self._storage = storage_class(settings)(settings)
        #: Workers by process id, and the time at which a frozen one goes on.
        self._workers: dict[int, float | None] = {}
        self._kills = self._freezes = 0

    def run(self, injections: int, signals: tuple[str, ...]) -> dict[str, Any]:
        """Add tasks, half of which end their worker, and wait for all; return the totals."""
        in_child(self._prepare)
        kinds = [(step, name) for step in STEPS for name in signals]
        urls = [f"/{n}/{'/'.join(kinds[n % len(kinds)])}" for n in range(injections)]
        urls += [f"/{n}/none/SIGKILL" for n in range(injections, 2 * injections)]
        self._random.shuffle(urls)
        tasks = [new_task(url) for url in urls]
        batch = str(uuid4())
        self._storage.stage(batch, tasks)
        self._storage.promote(batch)
        deadline = time.monotonic() + PATIENCE + 2 * FREEZE * injections
        try:
            while self._left():
                if time.monotonic() > deadline:
                    break
                self._tend()
                time.sleep(0.005)
        finally:
            for pid in list(self._workers):
                kill(pid)
        return self._totals(urls, in_child(self._runs))

    def _prepare(self) -> None:
        database = self._opener()
        with database.transaction() as connection:
            connection.root()["runs"] = OOBTree()
        database.close()

    def _left(self) -> int:
        counts = self._storage.admin.counts()
        return int(sum(counts[state] for state in ("queued", "scheduled", "running")))

    def _tend(self) -> None:
        while len(self._workers) < self._number:
            self._workers[fork(self._work)] = None
        for pid, thaws in list(self._workers.items()):
            done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if done and os.WIFSTOPPED(status):
                self._freezes += 1
                self._workers[pid] = time.monotonic() + FREEZE
                # Another one takes its place meanwhile.
                self._number += 1
            elif done:
                self._kills += 1
                del self._workers[pid]
            elif thaws is not None and time.monotonic() > thaws:
                self._workers[pid] = None
                self._number -= 1
                os.kill(pid, signal.SIGCONT)
        if len(self._workers) > self._number:
            # One too many since the other one goes on: a kill at random.
            pid = self._random.choice([pid for pid, thaws in self._workers.items() if not thaws])
            if self._random.random() < 0.01:
                self._kills += 1
                kill(pid)
                del self._workers[pid]

    def _work(self) -> None:
        Worker(self._settings, self._opener, self._with_slots).run()

    def _runs(self) -> dict[str, int]:
        database: DB = self._opener()
        with database.transaction() as connection:
            runs = [name.partition(" ")[0] for name in connection.root()["runs"]]
        database.close()
        return dict(Counter(runs))

    def _totals(self, urls: list[str], runs: dict[str, int]) -> dict[str, Any]:
        found = self._storage.admin.tasks("succeeded", size=len(urls))
        histories = [self._storage.admin.get(status.id).attempts for status in found]
        ended = sum(any(each.reason == COMMITTED for each in history) for history in histories)
        doubled = {url: number for url, number in runs.items() if number > 1}
        for url, number in doubled.items():
            print(url, number, file=sys.stderr)
        return {
            "tasks": len(urls),
            "kills": self._kills,
            "freezes": self._freezes,
            "succeeded": len(found),
            "ended by their slots": ended,
            "doubled": len(doubled),
            "missing": sum(url not in runs for url in urls),
        }


def main() -> int:
    """Print the totals as JSON; 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="crash.exactly", description=__doc__)
    parser.add_argument("--database", choices=DATABASES, default="zeo")
    parser.add_argument("--storage", choices=("redis", "sqlite", "postgresql"), default="redis")
    parser.add_argument("--injections", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-slots", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    # One process at a time can open a FileStorage: a frozen worker would have no successor.
    alone = options.database == "file_storage"
    with (
        TemporaryDirectory() as folder,
        DATABASES[options.database](Path(folder)) as opener,
        backend(options.storage, Path(folder)) as fields,
    ):
        marks = Path(folder) / "marks"
        marks.mkdir()
        os.environ[MARKS] = str(marks)
        settings = QueueSettings(max_deliveries=1000, max_finished=1_000_000, **fields)
        slots = not options.without_slots
        harness = Harness(settings, opener, 1 if alone else 2, slots, options.seed)
        signals = ("SIGKILL",) if alone else ("SIGKILL", "SIGSTOP")
        totals = harness.run(options.injections, signals)
    print(json.dumps(totals))
    wrong = totals["doubled"] or totals["missing"] or totals["succeeded"] < totals["tasks"]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
