"""Crash injection on the way out: workers are killed in the middle of their tasks.

Three workers run tasks under load, two of them under the same name. Again and again one
is killed while it runs a task; it comes back under its name, or never, and one of a new
name takes its place. In the end every task has succeeded, and has run once, and once more
for each time its worker was killed.

With `--stream` the tasks are short, so that many of them are held by a worker, and many ends
are on their way, when it is killed. Those that were only held are no poison.

    python -m crash.consume --kills 200 [--stream]
"""

from __future__ import annotations

from collections import Counter
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from crash.backends import backend
from crash.backends import storage_class
from crash.processes import fork
from crash.processes import kill
from crash.worker import Journal
from crash.worker import Line
from crash.worker import new_task
from crash.worker import work
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4
import argparse
import json
import logging
import random
import sys
import time


#: Seconds of a lease; the default is 30.
LEASE = 4.0

#: Seconds after the end of a lease within which its task runs again.
ALLOWANCE = 5.0

#: Seconds that anything may take which should take moments.
PATIENCE = 60.0

#: Tasks whose ends may be on their way when their worker is killed: what it brings at once,
#: and the one that runs.
UNSAID = 32 + 1


@dataclass(frozen=True)
class Load:
    """What the workers have to do."""

    #: Seconds that a task takes.
    duration: float
    #: Tasks that wait at least, and that are added at a time.
    low: int
    portion: int
    #: Lines that a worker has written at least before it is killed.
    lines: int
    max_deliveries: int


#: A task may be hit often, but none of these is poison.
SLOW = Load(0.02, 20, 60, 1, 1000)

STREAM = Load(0.001, 400, 400, 200, 3)


class Harness:
    """The workers, what they have written down, and who was killed when."""

    def __init__(
        self,
        folder: Path,
        fields: dict[str, Any],
        seed: int = 0,
        load: Load = SLOW,
        slack: float = 0.0,
    ) -> None:
        self._load = load
        self._slack = slack
        self._settings = QueueSettings(
            max_deliveries=load.max_deliveries, max_finished=1_000_000, **fields
        )
        self._storage = storage_class(self._settings)(self._settings)
        self._journal = Journal(folder / "journal")
        self._random = random.Random(seed)
        self._workers: dict[int, str] = {}
        self._kills: dict[int, float] = {}
        #: Who was killed, and came back under the same name.
        self._returned: set[int] = set()
        self._added = 0
        #: How many lines of the journal were looked at, how many of them each worker wrote,
        #: and what the last one tells.
        self._seen = 0
        self._written: Counter[int] = Counter()
        self._event: dict[int, str] = {}

    def run(self, kills: int) -> dict[str, Any]:
        """Kill a worker in its task so many times; return the totals."""
        for name in ("same", "same", "other"):
            self._start(name)
        try:
            for number in range(kills):
                self._fill()
                self._kill_one(number)
            self._drain()
        finally:
            for pid in self._workers:
                kill(pid)
        return self._judge()

    def _start(self, name: str) -> None:
        server = ServerSettings(name=name, lease=LEASE)
        pid = fork(lambda: work(self._settings, server, self._journal))
        self._workers[pid] = name

    def _fill(self) -> None:
        load = self._load
        if self._storage.admin.counts()["queued"] < load.low:
            tasks = [new_task(f"/{self._added + n}/{load.duration}") for n in range(load.portion)]
            self._added += load.portion
            batch = str(uuid4())
            self._storage.stage(batch, tasks)
            self._storage.promote(batch)

    def _kill_one(self, number: int) -> None:
        pid = self._random.choice(list(self._workers))
        deadline = time.monotonic() + PATIENCE
        while not self._is_busy(pid):
            self._fill()
            if time.monotonic() > deadline:
                raise RuntimeError(f"worker {self._workers[pid]} takes no tasks")
            time.sleep(0.001)
        self._kills[pid] = time.monotonic()
        kill(pid)
        name = self._workers.pop(pid)
        if number % 2:
            self._returned.add(pid)
            self._start(name)
        else:
            self._start(f"new-{number}")

    def _is_busy(self, pid: int) -> bool:
        """Whether the worker is in the midst of a task, and not of its first ones."""
        lines = self._journal.lines()
        for line in lines[self._seen :]:
            self._written[line.pid] += 1
            self._event[line.pid] = line.event
        self._seen = len(lines)
        return self._event.get(pid) == "start" and self._written[pid] >= self._load.lines

    def _ended(self) -> int:
        counts = self._storage.admin.counts()
        return counts["succeeded"] + counts["failed"]

    def _drain(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._ended() < self._added:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)

    def _judge(self) -> dict[str, Any]:
        attempts: dict[str, list[Line]] = {}
        for line in self._journal.lines():
            if line.event == "start":
                attempts.setdefault(line.url, []).append(line)
        again: Counter[int] = Counter()
        doubled, late, slow = [], [], 0.0
        for url, starts in attempts.items():
            for first, second in pairwise(starts):
                killed = self._kills.get(first.pid)
                if killed is None or killed > second.when:
                    doubled.append(url)
                    continue
                again[first.pid] += 1
                delay = second.when - killed
                slow = max(slow, delay)
                # Who comes back under its name does not wait for its own leases.
                limit = LEASE / 2 if first.pid in self._returned else LEASE + ALLOWANCE
                if delay > limit + self._slack:
                    late.append(f"{url} after {delay:.2f} s")
        # Lost once while it was held, perhaps; then alone, and lost by itself.
        most = self._load.max_deliveries - 1
        failed = self._storage.admin.tasks("failed", size=1_000_000)
        innocent = [i.task.url for i in failed if len(attempts.get(i.task.url, ())) < most]
        for problem in (*doubled, *late, *innocent):
            print(problem, file=sys.stderr)
        return {
            "kills": len(self._kills),
            "tasks": self._added,
            "redelivered": sum(len(starts) - 1 for starts in attempts.values()),
            "lost": self._added - self._ended(),
            "doubled": len(doubled),
            "most of one kill": max(again.values(), default=0),
            "failed": len(failed),
            "innocent": len(innocent),
            "late": len(late),
            "slowest redelivery": round(slow, 2),
        }


def main() -> int:
    """Print the totals as JSON; 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="crash.consume", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--storage", choices=("redis", "sqlite", "postgresql"), default="redis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument(
        "--slack", type=float, default=0.0, help="seconds more, for a machine with other work"
    )
    options = parser.parse_args()
    load = STREAM if options.stream else SLOW
    logging.basicConfig(level=logging.CRITICAL)
    with (
        TemporaryDirectory() as folder,
        backend(options.storage, Path(folder)) as fields,
    ):
        totals = Harness(Path(folder), fields, options.seed, load, options.slack).run(options.kills)
    print(json.dumps(totals))
    wrong = any(totals[name] for name in ("lost", "doubled", "late", "innocent"))
    return 1 if wrong or totals["most of one kill"] > UNSAID else 0


if __name__ == "__main__":
    sys.exit(main())
