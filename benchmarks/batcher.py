"""What each mechanism of the batcher earns: one at a time is turned off, in the same run.

``python -m benchmarks.batcher`` prints the throughput of a consumer ÷ that of a bare loop of the
publisher, with a view that does nothing. The variants alternate; see `throughputs`.
"""

from benchmarks.peers import redis_server
from benchmarks.site import make_consumer
from benchmarks.site import plone_site
from benchmarks.throughput import throughputs
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer import consumer
from collective.taskqueue.consumer.batcher import Batcher
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.sql import SqlStorage
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch
from zope.component import getGlobalSiteManager
import argparse


class Unprefetched(Batcher):
    def _ahead(self) -> float:
        return 0.0


class Undelayed(Batcher):
    def __init__(self, calls: object, storage: object) -> None:
        super().__init__(calls, storage)
        self._delay = 0.0


class LateFlush(Batcher):
    """Flushes when the last prefetched task has begun, and so has nothing to do meanwhile."""

    def _due_at(self) -> float:
        if self._prefetched and len(self._completed) < self._most:
            return self._first + self._delay
        return super()._due_at()


class InBackground(Batcher):
    def __init__(self, calls: object, storage: object) -> None:
        super().__init__(calls, storage)
        self._in_process = False


class InThread(Batcher):
    def __init__(self, calls: object, storage: object) -> None:
        super().__init__(calls, storage)
        self._in_process = True


#: What a row of the table says is not done, and the batcher that does not do it.
VARIANTS: dict[str, type[Batcher]] = {
    "all mechanisms": Batcher,
    "no prefetching": Unprefetched,
    "completions do not wait for others": Undelayed,
    "flush when nothing is prefetched any more": LateFlush,
    "the background thread does each flush": InBackground,
    "the threads do each flush": InThread,
}


def measure(make: Callable[[str], TaskQueue], slices: int) -> Iterator[tuple[str, float]]:
    """Yield each variant and its throughput ÷ that of the bare loop.

    `make` returns a queue of this name; each variant has its own.
    """
    queues = {name: make(f"queue-{number}") for number, name in enumerate(VARIANTS)}
    variants = {queue.name: VARIANTS[name] for name, queue in queues.items()}
    for queue in queues.values():
        queue.storage.admin.check()
        getGlobalSiteManager().registerUtility(queue, ITaskQueue, name=queue.name)

    def variant(queue: TaskQueue, told: Callable[[str], None]) -> Consumer:
        with patch.object(consumer, "Batcher", variants[queue.name]):
            return make_consumer(queue, told)

    speeds = throughputs(list(queues.values()), slices, "jane", make=variant)
    for name, speed in zip(VARIANTS, speeds, strict=True):
        yield name, speed.ratio


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--storage", choices=("Redis", "SQLite"), nargs="*")
    options = parser.parse_args()
    with redis_server() as socket, TemporaryDirectory() as folder, plone_site(Path(folder)):

        def redis(name: str) -> TaskQueue:
            settings = QueueSettings(queue=name, type="redis", unix_socket_path=socket)
            return TaskQueue(settings, RedisStorage(settings))

        def sqlite(name: str) -> TaskQueue:
            url = f"sqlite:///{folder}/{name}.db"
            settings = QueueSettings(queue=name, type="sql", url=url)
            return TaskQueue(settings, SqlStorage(settings))

        for storage, make in {"Redis": redis, "SQLite": sqlite}.items():
            if storage in (options.storage or ("Redis", "SQLite")):
                for name, ratio in measure(make, options.slices):
                    print(f"{storage:8}{name:44}{ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
