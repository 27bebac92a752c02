"""Run all benchmarks and print one table of reStructuredText."""

from benchmarks.enqueue import enqueue
from benchmarks.latency import idle_cpu
from benchmarks.latency import latency
from benchmarks.latency import running_consumer
from benchmarks.peers import require_redis
from benchmarks.site import plone_site
from benchmarks.throughput import Speed
from benchmarks.throughput import throughput
from benchmarks.throughput import WRITING_URL
from collections.abc import Iterator
from collective.taskqueue.queue import TaskQueue
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
import argparse
import os
import platform
import sys


MIN_RATIO = 0.97
MAX_IDLE_CPU = 0.1


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    slices: int
    enqueue_rounds: int
    tasks: int
    samples: int
    idle: float


FULL = Effort(slices=75, enqueue_rounds=9, tasks=1000, samples=500, idle=30.0)
QUICK = Effort(slices=1, enqueue_rounds=1, tasks=1000, samples=20, idle=0.5)


@dataclass(frozen=True)
class Row:
    """A line of the table; `missed` if there is a goal and it was not reached."""

    what: str
    measured: str
    goal: str = ""
    missed: bool = False


def measure(queue: TaskQueue, effort: Effort, peers: bool) -> Iterator[Row]:
    """Yield the rows of the table, one after the other as they are measured."""
    yield from _throughput(queue, effort)
    yield from _enqueue(queue, effort, peers)
    with running_consumer(queue):
        p50, p95 = latency(queue, effort.samples)
        yield Row("from commit to the first line of the task, p50", _ms(p50))
        yield Row("from commit to the first line of the task, p95", _ms(p95))
        cpu = idle_cpu(effort.idle)
        yield Row(
            f"CPU time of an idle consumer in {effort.idle:g} s",
            f"{cpu:.3f} s",
            f"≤ {MAX_IDLE_CPU:g} s",
            missed=cpu > MAX_IDLE_CPU,
        )


def _throughput(queue: TaskQueue, effort: Effort) -> Iterator[Row]:
    writing = throughput(queue, effort.slices, "jane", WRITING_URL)
    noop = throughput(queue, effort.slices, "jane")
    anonymous = throughput(queue, effort.slices)
    yield from _rows("view that reads ten brains and writes an object, by a member", writing)
    yield from _rows("no-op view, by a member", noop)
    yield from _rows("no-op view, by Anonymous", anonymous, goal=False)


def _rows(what: str, speed: Speed, goal: bool = True) -> Iterator[Row]:
    yield Row(f"{what}, bare publisher loop", _ms(speed.bare))
    yield Row(f"{what}, as a task", _ms(speed.ours))
    ratio = f"{speed.ratio:.3f}"
    if goal:
        missed = speed.ratio < MIN_RATIO
        yield Row(f"{what}, throughput ÷ bare loop", ratio, f"≥ {MIN_RATIO:g}", missed)
    else:
        yield Row(f"{what}, throughput ÷ bare loop", ratio)


def _enqueue(queue: TaskQueue, effort: Effort, peers: bool) -> Iterator[Row]:
    seconds = enqueue(queue, effort.enqueue_rounds, effort.tasks, peers)
    yield Row("empty commit", _ms(seconds["empty"]))
    yield Row("add() and commit, 1 task per transaction", _ms(seconds["1"]))
    yield Row("add() and commit, 10 tasks per transaction, each", _ms(seconds["10"]))
    yield Row("add() and commit, 1000 tasks per transaction, each", _ms(seconds["1000"]))
    for peer in ("Huey", "Celery"):
        if peer in seconds:
            name = f"{peer} {version(peer)}"
            yield Row(f"{name}, one task to a local Redis", _ms(seconds[peer]))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"


def table(rows: list[Row]) -> str:
    """Return the rows as a table of reStructuredText."""
    cells = [("What", "Measured", "Goal"), *((row.what, row.measured, row.goal) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def main() -> int:
    """Print the table; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see that it works; means nothing")
    parser.add_argument("--no-peers", action="store_true", help="without Huey, Celery and Redis")
    options = parser.parse_args()
    if not options.no_peers:
        require_redis()
    effort = QUICK if options.quick else FULL
    rows = []
    with TemporaryDirectory() as folder, plone_site(Path(folder)) as queue:
        for row in measure(queue, effort, not options.no_peers):
            print(f"{row.what}: {row.measured}", file=sys.stderr)
            rows.append(row)
    print(
        f"Plone {version('Products.CMFPlone')}, Python {platform.python_version()},"
        f" {os.cpu_count()} cores, local storage, one thread; medians.\n"
    )
    print(table(rows))
    missed = [row.what for row in rows if row.missed and not options.quick]
    for what in missed:
        print(f"\nGoal missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
