"""What lists, and searches by a filter, cost beside the tasks of others: few of them, and many.

Each storage has two queues, with as many tasks of one person and as many cancelled ones, and with
`--few` and `--tasks` of others between them. The same is asked of both, one after the other, and
the medians are divided. What is asked finds as much in both.
"""

from benchmarks.peers import postgres_server
from benchmarks.peers import redis_server
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import STORAGES
from collective.taskqueue.storages.search import CHANGES
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from contextlib import ExitStack
from contextlib import suppress
from pathlib import Path
from sqlalchemy import text
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

#: Tasks of the person who looks; and tasks, half of them of that person, that are cancelled. In a
#: SQL database these are more than a search examines in one call.
MINE = 200
CANCELLED_TASKS = {"sql": 2400}
FEW_CANCELLED_TASKS = 100

JANE = Identity("/Plone/acl_users", "jane")


def others(number: int) -> Identity:
    """Return one of many other persons."""
    return Identity("/Plone/acl_users", f"member-{number % 5000}")


def fill(storage: Any, number: int) -> None:
    """Queue the tasks of others, between those of one person and some that are cancelled."""
    _commit(storage, [_task(JANE, n % 2 == 1) for n in range(MINE)])
    first = min(number, PORTION)
    _commit(storage, [_task(others(n), n % 2 == 1) for n in range(first)])
    if storage.settings.type == "sql":
        copy_last(storage, first, number - first)
    else:
        for start in range(first, number, PORTION):
            rest = range(start, min(start + PORTION, number))
            _commit(storage, [_task(others(n), n % 2 == 1) for n in rest])
    cancelled = CANCELLED_TASKS.get(storage.settings.type, FEW_CANCELLED_TASKS)
    unwanted = [_task(JANE if n % 2 else others(n), False) for n in range(cancelled)]
    for start in range(0, cancelled, PORTION):
        _commit(storage, unwanted[start : start + PORTION])
    ids = [task.id for task in unwanted]
    for start in range(0, cancelled, CHANGES):
        storage.admin.change("cancel", ids[start : start + CHANGES], (QUEUED,))


def copy_last(storage: Any, last: int, number: int) -> None:
    """Copy the last rows of the table so often: through the storage it would take an hour."""
    session = storage._session
    values = {"queue": storage.settings.queue, "last": last, "number": number}

    def work(connection: Any) -> None:
        is_sqlite = connection.dialect.name == "sqlite"
        top = connection.scalar(text(_TOP), values)
        series = _RECURSIVE if is_sqlite else _GENERATED
        rest = ", ".join(f'"{column.name}"' for column in TASK.c if column.name not in _NEW)
        session.dialect.take_time()
        connection.execute(text(_COPY.format(series=series, rest=rest)), {**values, "top": top})
        numbered = _NUMBERED_SQLITE if is_sqlite else _NUMBERED_POSTGRESQL
        connection.execute(text(numbered), {"number": top + number, "queue": values["queue"]})

    session.write(work)
    if session.engine.dialect.name == "postgresql":
        # As autovacuum does before long.
        session.single(lambda connection: connection.execute(text("VACUUM ANALYZE taskqueue_task")))


_TOP = "SELECT max(number) FROM taskqueue_task WHERE queue = :queue"
_RECURSIVE = (
    "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :number)"
    " SELECT n FROM numbers"
)
_GENERATED = "SELECT generate_series(1, :number) AS n"
_NEW = ("id", "number", "place")
_COPY = """
INSERT INTO taskqueue_task (id, number, place, {rest})
SELECT id || '-' || n, :top + n, :top + n, {rest}
FROM ({series}) AS series JOIN taskqueue_task
  ON queue = :queue AND taskqueue_task.number = :top - :last + 1 + (n - 1) % :last
"""
_NUMBERED_SQLITE = "UPDATE taskqueue_queue SET number = :number WHERE name = :queue"
_NUMBERED_POSTGRESQL = "SELECT setval('taskqueue_number', :number), CAST(:queue AS text)"


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
    behind = storage.admin.search(TaskFilter((CANCELLED,)), size=1000)
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
        "search by state, far behind": lambda: storage.admin.search(
            TaskFilter((CANCELLED,)), behind.cursor
        ),
        "search by a state that half of all are in": lambda: storage.admin.search(
            TaskFilter((QUEUED,))
        ),
        "search by person and state": lambda: storage.admin.search(
            TaskFilter((CANCELLED, FAILED), user=JANE)
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


def measure(few: Any, many: Any, number: int) -> Iterator[tuple[str, float, float]]:
    """Yield what was asked, its cost in seconds with many others, and the ratio."""
    asked = looks(many)
    for what, ask in looks(few).items():
        calls = (ask, asked[what])
        few_found, many_found = (_number(call()) for call in calls)
        if few_found != many_found:
            raise SystemExit(f"{what}: {few_found} and {many_found} tasks found")
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(number):
            # In turn: what disturbs a machine for a moment disturbs both.
            for call, seconds in zip(calls, found, strict=True):
                seconds.append(_seconds(call))
        yield what, median(found[1]), median(found[1]) / median(found[0])


def _number(found: Any) -> int:
    """Return how many tasks a list or a page has; 0 for what is neither."""
    if isinstance(found, TaskPage):
        return len(found.tasks)
    return len(found) if isinstance(found, list) else 0


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
    parser.add_argument("--calls", type=int, default=500, help="how often each queue is asked")
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
            for what, seconds, ratio in measure(few, many, options.calls):
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
