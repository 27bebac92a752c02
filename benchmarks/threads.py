"""What more threads of a consumer earn, and what they cost the pages of the same process.

``python -m benchmarks.threads`` prints ratios within one process with a Plone site. For more
processes see ``benchmarks.shared``.
"""

from benchmarks.site import make_consumer
from benchmarks.site import plone_site
from benchmarks.throughput import answer
from benchmarks.throughput import environ_of
from benchmarks.views import WAIT
from collections.abc import Iterator
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event
from threading import Lock
from time import perf_counter
import argparse
import os
import psutil
import transaction


COMPUTING = "/Plone/@@bench-read"
WAITING = "/Plone/@@bench-wait"

THREADS = (1, 2, 4)

#: Seconds after which tasks are given up.
TIMEOUT = 300.0

MB = 1024 * 1024


def measure(queue: TaskQueue, rounds: int, size: int) -> Iterator[tuple[str, str]]:
    """Yield what was measured, and the value."""
    kinds = {"a task that computes": COMPUTING, f"a task that waits {WAIT * 1000:g} ms": WAITING}
    for kind, url in kinds.items():
        speeds = [[_speed(queue, url, size, limit) for limit in THREADS] for _ in range(rounds)]
        for number, limit in enumerate(THREADS[1:], 1):
            ratio = median(each[number] / each[0] for each in speeds)
            yield f"{kind}, throughput of {limit} threads ÷ 1", f"{ratio:.2f}"
    # One after the other: a machine that others use, too, changes its speed all the time.
    pages = [[_page(queue, 4 * size, limit) for limit in (0, 1, 2)] for _ in range(rounds)]
    for limit, what in ((1, "one task computes"), (2, "two tasks compute")):
        ratio = median(each[limit] / each[0] for each in pages)
        yield f"time of a page while {what} ÷ while none does", f"{ratio:.2f}"
    yield "memory of the process", f"{psutil.Process().memory_info().rss / MB:.0f} MB"


def _speed(queue: TaskQueue, url: str, size: int, limit: int) -> float:
    """Return tasks per second."""
    lock, begun, done = Lock(), Event(), Event()
    left = [size]

    def told(state: str) -> None:
        if state == RUNNING:
            begun.set()
        elif state in (SUCCEEDED, FAILED):
            with lock:
                left[0] -= 1
                if not left[0]:
                    done.set()

    consumer = make_consumer(queue, told, limit=limit)
    _fill(queue, url, size)
    consumer.start()
    begun.wait(TIMEOUT)
    started = perf_counter()
    if not done.wait(TIMEOUT):
        raise AssertionError(f"{left[0]} tasks have not finished")
    seconds = perf_counter() - started
    consumer.stop()
    return size / seconds


def _page(queue: TaskQueue, size: int, limit: int) -> float:
    """Return the seconds of a page while so many tasks run all the time."""
    environ = environ_of(queue, COMPUTING)
    if not limit:
        return _answers(environ, size)
    # Enough for this time; on a machine that is very busy it may take more of them.
    for tasks in (2000, 10_000, 50_000):
        begun = Event()
        consumer = make_consumer(queue, lambda state, begun=begun: begun.set(), limit=limit)
        _fill(queue, COMPUTING, tasks)
        consumer.start()
        begun.wait(TIMEOUT)
        seconds = _answers(environ, size)
        left = queue.counts()[QUEUED]
        queue.reset()
        consumer.stop()
        if left:
            return seconds
    raise AssertionError("the tasks have not run all the time")


def _answers(environ: dict[str, object], size: int) -> float:
    # The mean: a page either has the core for itself, or waits for it.
    started = perf_counter()
    answer(environ, size, None)
    return (perf_counter() - started) / size


def _fill(queue: TaskQueue, url: str, size: int) -> None:
    for _ in range(size):
        queue.add(url)
    transaction.commit()


def main() -> None:
    """Print one line for each figure."""
    parser = argparse.ArgumentParser(prog="benchmarks.threads", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=100)
    options = parser.parse_args()
    with TemporaryDirectory() as folder, plone_site(Path(folder)) as queue:
        for what, value in measure(queue, options.rounds, options.size):
            print(f"{what}: {value}", flush=True)
    print(f"load average: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
