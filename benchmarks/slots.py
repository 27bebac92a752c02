"""What slots cost a task that writes, and what it earns if completed attempts wait longer.

``python -m benchmarks.slots`` prints the throughput of a consumer ÷ that of a bare loop of the
publisher, with a view that reads ten brains, writes an object and commits. The variants alternate;
see `throughputs`.
"""

from benchmarks.peers import postgres_server
from benchmarks.peers import redis_server
from benchmarks.site import make_consumer
from benchmarks.site import plone_site
from benchmarks.throughput import throughputs
from benchmarks.throughput import WRITING_URL
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.sql import SqlStorage
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zope.component import getGlobalSiteManager
import argparse
import sys


#: The throughput with slots ÷ that without them.
MIN_RATIO = 0.98


class Variant(NamedTuple):
    """A line of the table: whether tasks have slots, and how many times the delay applies."""

    what: str
    slots: bool
    delays: float


VARIANTS = (
    Variant("without slots", False, 1),
    Variant("with slots", True, 1),
    Variant("with slots, completions wait 2 times as long", True, 2),
    Variant("with slots, completions wait 5 times as long", True, 5),
)


def measure(make: Callable[[str], TaskQueue], slices: int) -> Iterator[tuple[Variant, float]]:
    """Yield each variant and its throughput ÷ that of the bare loop.

    `make` returns a queue of this name; each variant has its own.
    """
    queues = {make(f"queue-{number}"): variant for number, variant in enumerate(VARIANTS)}
    for queue, variant in queues.items():
        queue.storage.admin.check()
        queue.storage.delay *= variant.delays
        getGlobalSiteManager().registerUtility(queue, ITaskQueue, name=queue.name)

    def consumer(queue: TaskQueue, told: Callable[[str], None]) -> Consumer:
        return make_consumer(queue, told, slots=queues[queue].slots)

    speeds = throughputs(list(queues), slices, "jane", WRITING_URL, consumer)
    for queue, speed in zip(queues, speeds, strict=True):
        queue.storage.close()
        yield queues[queue], speed.ratio


def main() -> int:
    """Print the table; 1 if slots cost too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--storage", choices=_STORAGES, nargs="*", default=list(_STORAGES))
    options = parser.parse_args()
    missed = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(plone_site(folder))
        for storage in options.storage:
            make = _STORAGES[storage](stack, folder)
            ratios = {}
            for variant, ratio in measure(make, options.slices):
                print(f"{storage:12}{variant.what:48}{ratio:.3f}", flush=True)
                ratios[variant] = ratio
            cost = ratios[VARIANTS[1]] / ratios[VARIANTS[0]]
            print(f"{storage:12}{f'with ÷ without slots (≥ {MIN_RATIO:g})':48}{cost:.3f}")
            missed |= cost < MIN_RATIO
    return int(missed)


def _redis(stack: ExitStack, folder: Path) -> Callable[[str], TaskQueue]:
    socket = stack.enter_context(redis_server())

    def make(name: str) -> TaskQueue:
        settings = QueueSettings(queue=name, type="redis", unix_socket_path=socket)
        return TaskQueue(settings, RedisStorage(settings))

    return make


def _sqlite(stack: ExitStack, folder: Path) -> Callable[[str], TaskQueue]:
    return lambda name: _sql(f"sqlite:///{folder}/{name}.db", name)


def _postgresql(stack: ExitStack, folder: Path) -> Callable[[str], TaskQueue]:
    return partial(_sql, stack.enter_context(postgres_server()))


def _sql(url: str, name: str) -> TaskQueue:
    settings = QueueSettings(queue=name, type="sql", url=url)
    return TaskQueue(settings, SqlStorage(settings))


_STORAGES = {"Redis": _redis, "SQLite": _sqlite, "PostgreSQL": _postgresql}


if __name__ == "__main__":
    sys.exit(main())
