"""A queue in SQLite and in PostgreSQL: what it costs, beside its peers and with a backlog."""

from benchmarks.enqueue import _medians
from benchmarks.enqueue import _request_of_member
from benchmarks.enqueue import URL
from benchmarks.peers import huey_sqlite
from benchmarks.peers import postgres_server
from benchmarks.peers import procrastinate_queue
from benchmarks.shared import _commits
from benchmarks.shared import shown
from benchmarks.site import plone_site
from benchmarks.throughput import throughput
from benchmarks.throughput import WRITING_URL
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import Lease
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from uuid import uuid4
from zope.component import getGlobalSiteManager
import argparse


#: Tasks of one transaction while the backlog is filled.
PORTION = 1000


#: Throughput with a no-op view ÷ that of a bare loop.
GOALS = {"SQLite": 0.88, "PostgreSQL": 0.85}


def measure(url: str, name: str, backlog: int, size: int, slices: int) -> Iterator[tuple[str, str]]:
    """Yield what was measured on one database, and the value."""
    queue = _queue(url, "bench")
    getGlobalSiteManager().registerUtility(queue, ITaskQueue, name=queue.name)
    writing = throughput(queue, slices, "jane", WRITING_URL)
    noop = throughput(queue, slices, "jane")
    yield f"{name}: throughput of a writing view ÷ bare loop (≥ 0.97)", shown(writing)
    yield f"{name}: throughput of a no-op view ÷ bare loop (≥ {GOALS[name]:g})", shown(noop)
    ways = {f"{tasks} per transaction": _commits(queue, tasks, 200 // tasks) for tasks in (1, 10)}
    with _request_of_member():
        medians = _medians(ways, 5, 200, queue)
        medians |= _medians({"1000 per transaction": _commits(queue, 1000, 1)}, 5, 1000, queue)
    for way, seconds in medians.items():
        yield f"{name}: enqueue, {way}, each", _ms(seconds)
    for limit in (1, 10):
        yield f"{name}: claim+finish, batch {limit}", _rate(queue.storage, limit, size)
    yield from _backlog(url, name, backlog)
    queue.storage.close()


def peers(url: str, folder: Path, size: int) -> Iterator[tuple[str, str]]:
    """Yield what the same costs with others, on the same databases."""
    ways = {
        "SQLite: Huey": huey_sqlite(folder / "huey.sqlite"),
        "PostgreSQL: Procrastinate": procrastinate_queue(url),
    }
    for name, (enqueue, run_all) in ways.items():
        yield f"{name}: enqueue, each", _ms(_seconds(partial(_repeat, enqueue, size), size))
        yield f"{name}: claim+finish", f"{1 / _seconds(run_all, size):.0f}/s"


def _repeat(enqueue: Callable[[str], object], number: int) -> None:
    for _ in range(number):
        enqueue(URL)


def _queue(url: str, name: str) -> TaskQueue:
    settings = QueueSettings(queue=name, type="sql", url=url, stage_timeout=60.0)
    return TaskQueue(settings, SqlStorage(settings))


def _fill(storage: SqlStorage, number: int) -> None:
    name = storage.settings.queue
    for _ in range(number // PORTION):
        tasks = [Task(id=str(uuid4()), queue=name, url=URL) for _ in range(PORTION)]
        batch = str(uuid4())
        storage.stage(batch, tasks)
        storage.promote(batch)


def _rate(storage: SqlStorage, limit: int, number: int) -> str:
    _fill(storage, PORTION)
    rate = 1 / _cost(storage, limit, number)
    storage.admin.clear()
    return f"{rate:.0f}/s"


def _cost(storage: SqlStorage, limit: int, number: int) -> float:
    started = perf_counter()
    done = 0
    while done < number:
        leases = storage.reserve("bench", limit=limit, timeout=0)
        # What a consumer does with many.
        while len(leases) > 1 and done + len(leases) < number:
            done += len(leases)
            _, leases = storage.complete_and_reserve(
                [_end(lease) for lease in leases], "bench", limit
            )
        for lease in leases:
            storage.complete(*_end(lease))
        done += len(leases)
    return (perf_counter() - started) / done


def _end(lease: Lease) -> tuple[Lease, Transition]:
    attempt = AttemptRecord(lease.attempt, "bench", 0.0, 0.0, 200)
    return lease, Transition(SUCCEEDED, attempt)


def _backlog(url: str, name: str, number: int) -> Iterator[tuple[str, str]]:
    small, large = (_queue(url, kind).storage for kind in ("small", "large"))
    _fill(small, 3000)
    _fill(large, number)
    ratios = [_cost(large, 1, 100) / _cost(small, 1, 100) for _ in range(9)]
    yield f"{name}: claim+finish with {number} rows ÷ with 1000 (≤ 1.2)", f"{median(ratios):.3f}"
    for storage in (small, large):
        storage.close()


def _seconds(call: Callable[[], object], number: int) -> float:
    started = perf_counter()
    call()
    return (perf_counter() - started) / number


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"


def main() -> None:
    """Print one line for each figure."""
    parser = argparse.ArgumentParser(prog="benchmarks.sql", description=__doc__)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=75)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    effort = (options.backlog, options.size, options.slices)
    with (
        TemporaryDirectory() as folder,
        postgres_server() as url,
        plone_site(Path(folder)),
    ):
        databases = {"SQLite": f"sqlite:///{folder}/queue.sqlite", "PostgreSQL": url}
        for name, place in databases.items():
            for what, value in measure(place, name, *effort):
                print(f"{what}: {value}", flush=True)
        if not options.no_peers:
            for what, value in peers(url, Path(folder), options.size):
                print(f"{what}: {value}", flush=True)


if __name__ == "__main__":
    main()
