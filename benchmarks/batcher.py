"""What each mechanism of the batcher earns: one at a time is turned off, in the same run.

``python -m benchmarks.batcher`` prints the throughput of a consumer ÷ that of a bare loop of the
publisher, with a view that does nothing. Of each round, the variants alternate with bare loops,
and each is compared to the two loops around it.
"""

from benchmarks import throughput
from benchmarks.peers import redis_server
from benchmarks.site import logged_in
from benchmarks.site import plone_site
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer import consumer
from collective.taskqueue.consumer.batcher import Batcher
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.task import SUCCEEDED
from pathlib import Path
from statistics import median
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


class Unyielding(Batcher):
    def _give_way(self) -> None:
        """Go on at once."""


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
    "threads do not give way": Unyielding,
}


def measure(queue: TaskQueue, rounds: int, size: int) -> Iterator[tuple[str, float]]:
    """Yield each variant and its throughput ÷ that of the bare loop, the median of the rounds."""
    member = "jane"
    environ = throughput._environ(queue)
    with logged_in(member) as cookie:
        environ["HTTP_COOKIE"] = cookie
    ratios: dict[str, list[float]] = {name: [] for name in VARIANTS}
    bare = _bare(environ, size, member)
    for number in range(rounds + 1):
        for name in list(VARIANTS)[:: 1 if number % 2 else -1]:
            with patch.object(consumer, "Batcher", VARIANTS[name]):
                throughput._fill(queue, size, member)
                seconds, started = throughput._timed(throughput._drain, queue, size)
                started.stop()
            queue.purge(SUCCEEDED)
            before, bare = bare, _bare(environ, size, member)
            if number:
                # The first round warms up.
                ratios[name].append((before + bare) / 2 / seconds)
    for name, found in ratios.items():
        yield name, median(found)


def _bare(environ: dict[str, object], size: int, member: str) -> float:
    return throughput._timed(throughput._bare, environ, size, member)[0]


def _queues(socket: str, folder: str) -> dict[str, Callable[[], TaskQueue]]:
    def redis() -> TaskQueue:
        settings = QueueSettings(queue="redis", type="redis", unix_socket_path=socket)
        return TaskQueue(settings, RedisStorage(settings))

    def sqlite() -> TaskQueue:
        settings = QueueSettings(queue="sqlite", type="sql", url=f"sqlite:///{folder}/queue.db")
        return TaskQueue(settings, SqlStorage(settings))

    return {"Redis": redis, "SQLite": sqlite}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=500)
    options = parser.parse_args()
    with redis_server() as socket, TemporaryDirectory() as folder, plone_site(Path(folder)):
        for storage, make in _queues(socket, folder).items():
            queue = make()
            queue.storage.admin.check()
            getGlobalSiteManager().registerUtility(queue, ITaskQueue, name=queue.name)
            for name, ratio in measure(queue, options.rounds, options.size):
                print(f"{storage:8}{name:44}{ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
