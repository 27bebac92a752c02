"""What lists, and searches by a filter, cost beside the tasks of others: few of them, and many.

Each storage has two queues, with as many tasks of one person and as many cancelled ones, and with
`--few` and `--tasks` of others. The same is asked of both, one after the other, and the medians
are divided.
"""

from benchmarks.peers import postgres_server
from benchmarks.peers import redis_server
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import STORAGES
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from contextlib import ExitStack
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import uuid4
from zope.dottedname.resolve import resolve
import argparse
import logging
import sys
import time


MAX_RATIO = 1.2

#: Tasks of one transaction while a queue is filled.
PORTION = 1000

#: How often each queue is asked.
CALLS = 500

#: Tasks of the person who looks, and tasks of others that are cancelled.
MINE = 200
CANCELLED_TASKS = 100

JANE = Identity("/Plone/acl_users", "jane")


def others(number: int) -> Identity:
    """Return one of many other persons."""
    return Identity("/Plone/acl_users", f"member-{number % 5000}")


def fill(storage: Any, number: int) -> None:
    """Queue the tasks of others, after those of one person and after some that are cancelled."""
    _commit(storage, [_task(JANE, n % 2 == 1) for n in range(MINE)])
    unwanted = [_task(others(n), False) for n in range(CANCELLED_TASKS)]
    _commit(storage, unwanted)
    for task in unwanted:
        storage.admin.cancel(task.id)
    for start in range(0, number, PORTION):
        rest = range(start, min(start + PORTION, number))
        _commit(storage, [_task(others(n), n % 2 == 1) for n in rest])


def _task(user: Identity, later: bool) -> Task:
    due = time.time() + 10_000_000 if later else None
    now = time.time()
    return Task(id=str(uuid4()), queue="bench", url="/Plone/view", user=user, due=due, created=now)


def _commit(storage: Any, tasks: list[Task]) -> None:
    batch = str(uuid4())
    storage.stage(batch, tasks)
    storage.promote(batch)


def looks(storage: Any) -> dict[str, Callable[[], object]]:
    """Return what is asked."""
    return {
        "list by person": lambda: storage.admin.tasks(None, JANE),
        "list by person and state": lambda: storage.admin.tasks(QUEUED, JANE),
        "list by user id and state": lambda: storage.admin.tasks(SCHEDULED, JANE.id),
        "counts of a person": lambda: storage.admin.counts(JANE),
        "list of all, at an offset": lambda: storage.admin.tasks(None, None, 400, 50),
        "list of all that wait, at an offset": lambda: storage.admin.tasks(QUEUED, None, 200, 50),
        "counts of all": storage.admin.counts,
        "search, of all": lambda: storage.admin.search(TaskFilter()),
        "search by state": lambda: storage.admin.search(TaskFilter((CANCELLED,))),
        "search by state, url, time and reason": lambda: storage.admin.search(
            TaskFilter((FAILED, CANCELLED), "/Plone", since=1.0, reason="cancel")
        ),
        "search by person": lambda: storage.admin.search(TaskFilter(user=JANE)),
        "search by user id, state and url": lambda: storage.admin.search(
            TaskFilter((QUEUED,), "/Plone/view", JANE.id)
        ),
        "search that finds nothing and is cut": lambda: storage.admin.search(
            TaskFilter(url="/nowhere")
        ),
        "an unknown id": lambda: _unknown(storage),
    }


def _unknown(storage: Any) -> None:
    with suppress(LookupError):
        storage.admin.get(str(uuid4()), brief=True)


def measure(few: Any, many: Any) -> Iterator[tuple[str, float, float]]:
    """Yield what was asked, its cost in seconds with many others, and the ratio."""
    for what, ask in looks(few).items():
        calls = (ask, looks(many)[what])
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(CALLS):
            # In turn: what disturbs a machine for a moment disturbs both.
            for call, seconds in zip(calls, found, strict=True):
                seconds.append(_seconds(call))
        yield what, median(found[1]), median(found[1]) / median(found[0])


def _seconds(call: Callable[[], object]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def storages(names: list[str], folder: Path, stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """Yield the name of each storage, and what makes an empty queue in it."""
    settings: dict[str, Any] = {"queue": "bench", "stage_timeout": 60.0}
    for name in names:
        places: tuple[dict[str, Any], ...]
        if name == "local":
            places = ({}, {})
        elif name == "redis":
            socket = stack.enter_context(redis_server())
            places = tuple({"unix_socket_path": socket, "queue": f"bench-{i}"} for i in "ab")
        elif name == "sqlite":
            places = tuple({"url": f"sqlite:///{folder}/{which}.sqlite"} for which in "ab")
        else:
            url = stack.enter_context(postgres_server())
            places = tuple({"url": url, "queue": f"bench-{which}"} for which in "ab")
        kind = {"sqlite": "sql", "postgresql": "sql"}.get(name, name)
        made = [QueueSettings(**{**settings, **place}, type=kind) for place in places]
        yield name, [resolve(STORAGES[kind])(one) for one in made]


def main() -> int:
    """Print one line for each figure; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.lists", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000, help="tasks of others")
    parser.add_argument("--few", type=int, default=1000, help="what that is compared with")
    names = ["local", "redis", "sqlite", "postgresql"]
    parser.add_argument("storages", nargs="*", default=names, metavar="storage")
    options = parser.parse_args()
    missed = False
    # The end of a local queue would be told for each of its tasks.
    logging.getLogger("collective.taskqueue").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        for name, (few, many) in storages(options.storages, folder, stack):
            for storage, number in ((few, options.few), (many, options.tasks)):
                fill(storage, number)
            for what, seconds, ratio in measure(few, many):
                missed = missed or ratio > MAX_RATIO
                print(
                    f"{name}: {what}, {options.tasks} tasks of others ÷ {options.few}"
                    f" (≤ {MAX_RATIO:g}): {ratio:.3f} ({seconds * 1000:.3f} ms)",
                    flush=True,
                )
            for storage in (few, many):
                storage.close()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
