"""A queue on Redis: what it costs beside its peers, with a backlog, and while idle."""

from benchmarks.enqueue import _medians
from benchmarks.enqueue import _request_of_member
from benchmarks.enqueue import URL
from benchmarks.latency import latency
from benchmarks.latency import running_consumer
from benchmarks.peers import celery_enqueue
from benchmarks.peers import dramatiq_enqueue
from benchmarks.peers import huey_enqueue
from benchmarks.peers import redis_server
from benchmarks.peers import rq_enqueue
from benchmarks.site import plone_site
from benchmarks.throughput import Speed
from benchmarks.throughput import throughput
from benchmarks.throughput import WRITING_URL
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue import taskqueue
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from pathlib import Path
from redis import Redis
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from uuid import uuid4
from zope.component import getGlobalSiteManager
import argparse
import os
import signal
import time
import transaction


#: Tasks of one transaction while the backlog is filled.
PORTION = 1000

#: Seconds of CPU that a task takes which shows how processes scale.
WORK = 0.0015


def measure(
    socket: str, backlog: int, size: int, idle: float, rounds: int, slices: int
) -> Iterator[tuple[str, str]]:
    """Yield what was measured, and the value."""
    yield from _scaling(socket, 1000, min(rounds, 3))
    yield from _backlog(socket, backlog, rounds)
    queue = _queue(socket, "shared")
    with TemporaryDirectory() as folder, plone_site(Path(folder)):
        getGlobalSiteManager().registerUtility(queue, ITaskQueue, name=queue.name)
        writing = throughput(queue, slices, "jane", WRITING_URL)
        noop = throughput(queue, slices, "jane")
        yield "throughput of a writing view ÷ bare loop (≥ 0.97)", shown(writing)
        yield "throughput of a no-op view ÷ bare loop (≥ 0.92)", shown(noop)
        for name, seconds in _enqueue(queue, socket, min(rounds, 5)).items():
            yield f"enqueue, {name}, each", _ms(seconds)
        with running_consumer(queue):
            p50, p95 = latency(queue, size)
            yield "commit to first line, p50, p95", f"{_ms(p50)}, {_ms(p95)}"
            with Redis(unix_socket_path=socket) as client:
                client.config_resetstat()
                time.sleep(idle)
                # Without those that the script itself makes.
                stats = client.info("commandstats")
                sent = ("cmdstat_evalsha", "cmdstat_brpop", "cmdstat_ping")
                commands = sum(stats.get(name, {}).get("calls", 0) for name in sent)
            yield "commands of an idle consumer per minute", f"{commands * 60 / idle:.1f}"


def _queue(socket: str, name: str) -> TaskQueue:
    settings = QueueSettings(queue=name, type="redis", unix_socket_path=socket)
    return TaskQueue(settings, RedisStorage(settings))


def _enqueue(queue: TaskQueue, socket: str, rounds: int) -> dict[str, float]:
    size = 1000
    peers = {
        "Huey": huey_enqueue(socket),
        "RQ": rq_enqueue(socket),
        "Dramatiq": dramatiq_enqueue(socket),
        "Celery": celery_enqueue(socket),
    }
    ways = {
        f"{tasks} per transaction": _commits(queue, tasks, size // tasks) for tasks in (1, 10, 1000)
    }
    ways |= {name: _calls(call, size) for name, call in peers.items()}
    with _request_of_member():
        return _medians(ways, rounds, size, queue)


def _commits(queue: TaskQueue, tasks: int, count: int) -> Callable[[], None]:
    def way() -> None:
        for _ in range(count):
            transaction.begin()
            for _ in range(tasks):
                taskqueue.add(URL, queue=queue.name)
            transaction.commit()

    return way


def _calls(call: Callable[[str], object], count: int) -> Callable[[], None]:
    def way() -> None:
        for _ in range(count):
            call(URL)

    return way


def _fill(storage: RedisStorage, number: int) -> None:
    name = storage.settings.queue
    for _ in range(number // PORTION):
        tasks = [Task(id=str(uuid4()), queue=name, url=URL) for _ in range(PORTION)]
        batch = str(uuid4())
        storage.stage(batch, tasks)
        storage.promote(batch, None)


def _backlog(socket: str, number: int, rounds: int) -> Iterator[tuple[str, str]]:
    small = _queue(socket, "small").storage
    _fill(small, 3000)
    with Redis(unix_socket_path=socket) as client:
        before = client.info("memory")["used_memory"]
        large = _queue(socket, "large").storage
        _fill(large, number)
        each = (client.info("memory")["used_memory"] - before) / number
        ratios = [_cost(large, 200) / _cost(small, 200) for _ in range(rounds)]
        yield f"backlog of {number}: reserve+finish ÷ at 1000 (≤ 1.1)", f"{median(ratios):.3f}"
        yield "reserve+finish", _ms(_cost(large, 500))
        yield "memory per waiting task", f"{each:.0f} bytes"
        client.flushall()


def _cost(storage: RedisStorage, number: int) -> float:
    started = perf_counter()
    for _ in range(number):
        [lease] = storage.reserve("bench", timeout=0)
        attempt = AttemptRecord(lease.attempt, "bench", 0.0, 0.0, 200)
        storage.complete(lease, Transition(SUCCEEDED, attempt))
    return (perf_counter() - started) / number


def _scaling(socket: str, number: int, rounds: int) -> Iterator[tuple[str, str]]:
    ratios = []
    for _ in range(rounds):
        one, two = (_drain(socket, number, workers) for workers in (1, 2))
        ratios.append(one / two)
    yield "two worker processes ÷ one (≥ 1.8)", f"{median(ratios):.2f}"


def _drain(socket: str, number: int, workers: int) -> float:
    storage = _queue(socket, "scaling").storage
    _fill(storage, number)
    storage.admin.pause()
    children = [_worker(socket, f"worker-{n}") for n in range(workers)]
    time.sleep(0.5)
    started = perf_counter()
    storage.admin.resume()
    while any(storage.admin.counts()[state] for state in ("queued", "running")):
        time.sleep(0.02)
    seconds = perf_counter() - started
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    storage.admin.purge("succeeded")
    return seconds


def _worker(socket: str, name: str) -> int:
    pid = os.fork()
    if pid:
        return pid

    def perform(attempt: object) -> Outcome:
        deadline = time.thread_time() + WORK
        while time.thread_time() < deadline:
            pass
        return Outcome(200)

    settings = ServerSettings(name=name, queue="scaling")
    Consumer(_queue(socket, "scaling").storage, perform, settings).run()
    os._exit(0)


def shown(speed: Speed) -> str:
    """Return what a table says of a throughput: the ratio, and the time of each side."""
    return f"{speed.ratio:.3f} ({_ms(speed.bare)}, {_ms(speed.ours)})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"


def main() -> None:
    """Print one line for each figure."""
    parser = argparse.ArgumentParser(prog="benchmarks.shared", description=__doc__)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slices", type=int, default=75)
    options = parser.parse_args()
    effort = (options.backlog, options.size, options.idle, options.rounds, options.slices)
    with redis_server() as socket:
        for what, value in measure(socket, *effort):
            print(f"{what}: {value}", flush=True)


if __name__ == "__main__":
    main()
