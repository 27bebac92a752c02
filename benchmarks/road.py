"""The road of one task from reserve to finish: the modules that it passes, and the calls.

Calls of functions of collective.taskqueue are counted between a consumer and its storage: for
`reserve` and `complete` of the local storage, for `complete_and_reserve` of one attempt and one
task of a remote one, whose tasks are prefetched.
"""

from benchmarks.peers import redis_server
from collections import Counter
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import Lease
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from uuid import uuid4
import argparse
import sys


PACKAGE = "collective.taskqueue."

#: Tasks that run before the calls are counted: the first ones trigger maintenance.
WARM = 20


def road(storage: Any) -> Counter[tuple[str, str]]:
    """Return the number of calls for one task, by module and function."""
    calls: Counter[tuple[str, str]] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(PACKAGE):
            calls[module.removeprefix(PACKAGE), frame.f_code.co_qualname] += 1

    _fill(storage, WARM + 2)
    prefetched: list[Lease] = []
    for number in range(WARM + 1):
        ends = [_end(lease) for lease in prefetched]
        sys.setprofile(count if number == WARM else None)
        if hasattr(storage, "complete_and_reserve"):
            _, prefetched = storage.complete_and_reserve(ends, "road", 1)
        else:
            for lease, transition in ends:
                storage.complete(lease, transition)
            prefetched = storage.reserve("road", timeout=0)
        sys.setprofile(None)
    return calls


def _fill(storage: Any, number: int) -> None:
    queue, batch = storage.settings.queue, str(uuid4())
    storage.stage(batch, [Task(id=str(uuid4()), queue=queue, url="/view") for _ in range(number)])
    storage.promote(batch)


def _end(lease: Lease) -> tuple[Lease, Transition]:
    attempt = AttemptRecord(lease.attempt, "road", 0.0, 0.0, 200)
    return lease, Transition(SUCCEEDED, attempt)


def main() -> None:
    """Print modules and calls for each storage."""
    parser = argparse.ArgumentParser(prog="benchmarks.road", description=__doc__)
    parser.add_argument("--all", action="store_true", help="print each function, too")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, redis_server() as socket:
        settings = {
            "local": LocalStorage(QueueSettings()),
            "Redis": RedisStorage(QueueSettings(type="redis", url=f"unix://{socket}")),
            "SQLite": SqlStorage(QueueSettings(type="sql", url=f"sqlite:///{folder}/queue.sqlite")),
        }
        for name, storage in settings.items():
            calls = road(storage)
            storage.admin.clear()
            storage.close()
            modules = {module for module, _ in calls}
            print(f"{name}: {len(modules)} modules, {calls.total()} calls")
            if options.all:
                for (module, function), number in calls.most_common():
                    print(f"{number:6}  {module}.{function}")


if __name__ == "__main__":
    main()
