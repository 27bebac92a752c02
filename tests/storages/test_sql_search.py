"""Searches in tables of any content: the sources that they read, each in portions of a few rows."""

from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.sql import candidates
from collective.taskqueue.storages.sql import search
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import new_task
from itertools import combinations
from services import PostgresServer
import pytest
import random


JANE = Identity("/Plone/acl_users", "jane")
OTHER_JANE = Identity("/acl_users", "jane")
USERS = (None, JANE, OTHER_JANE, Identity("/Plone/acl_users", "joe"))

#: Larger than every number and place of a test.
FAR = 1_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(
    request: pytest.FixtureRequest,
    tmp_path,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SqlStorage]:
    """A queue that reads five rows at a time, sorts ten, and examines at most twelve in a call."""
    monkeypatch.setattr(candidates, "PORTION", 5)
    monkeypatch.setattr(candidates, "FEW", 10)
    monkeypatch.setattr(candidates, "FEW_OF_PERSON", 7)
    monkeypatch.setattr(search, "SCAN", 12)
    url = f"sqlite:///{tmp_path}/queue.sqlite"
    if request.param == "postgresql":
        url = postgres_server.new_database()
    storage = SqlStorage(QueueSettings(type="sql", url=url, stage_timeout=20.0))
    yield storage
    storage.close()


def put(storage: SqlStorage, *rows: tuple[str, Identity | None, int]) -> list[str]:
    """Make tasks with these states, users and changes of their places; return their ids."""
    tasks = add(storage, *(new_task(user=user) for _, user, _ in rows))

    def work(connection) -> None:
        for task, (state, _, moved) in zip(tasks, rows, strict=True):
            # As a retry or a release: behind all others, or before them.
            place = {0: TASK.c.place, 1: TASK.c.place + FAR, -1: -TASK.c.place}[moved]
            values = {"state": state, "place": place, "due": 9e12, "expires": 9e12, "claim": 1}
            connection.execute(TASK.update().where(TASK.c.id == task.id).values(values))

    storage._session.write(work)
    return [task.id for task in tasks]


def walk(storage: SqlStorage, filter: TaskFilter, size: int = 4) -> tuple[list[str], int]:
    """Return the ids of all pages, and how many pages there are."""
    found: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = storage.admin.search(filter, cursor, size)
        found += [status.id for status in page.tasks]
        cursor, pages = page.cursor, pages + 1
    return found, pages


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_in_the_table(storage, seed):
    """Every filter finds what matches, each task once, in the order in which they were added."""
    chance = random.Random(seed)
    weights = [chance.choice((0, 1, 1, 5, 20)) or 0.01 for _ in STATES]
    rows = [
        (
            chance.choices(STATES, weights)[0],
            chance.choice(USERS),
            chance.choice((0, 0, 1, -1)) if chance.random() < seed / 3 else 0,
        )
        for _ in range(chance.choice((20, 90)))
    ]
    ids = put(storage, *rows)
    several = [states for n in range(2, len(STATES) + 1) for states in combinations(STATES, n)]
    for states in ((), *((state,) for state in STATES), *chance.sample(several, 6)):
        for user in (None, JANE, "jane"):
            expected = [
                task_id
                for task_id, (state, whose, _) in zip(ids, rows, strict=True)
                if (not states or state in states)
                and (user is None or (whose and user in (whose, whose.id)))
            ]
            found, _ = walk(storage, TaskFilter(states, user=user), chance.choice((4, 50)))
            assert found == expected, (states, user)


@pytest.mark.parametrize("user", [None, JANE])
@pytest.mark.parametrize("state", [SCHEDULED, FAILED, CANCELLED])
def test_a_page_is_full_whatever_is_between(storage, state, user):
    """Twenty tasks of a state, each behind as many others as one call may examine."""
    others = [(SUCCEEDED, JANE, 0)] * 12
    ids = put(storage, *(row for _ in range(20) for row in (*others, (state, JANE, 0))))
    assert walk(storage, TaskFilter((state,), user=user)) == (ids[12::13], 5)


def test_a_queue_that_begins_behind_many_finished_tasks(storage):
    """Those that wait are found at once, also if some were moved."""
    moves = (0, 0, 1, 0, -1, 0, 0, 1)
    rows = [*[(SUCCEEDED, None, 0)] * 100, *((QUEUED, None, moved) for moved in moves)]
    ids = put(storage, *rows)
    assert walk(storage, TaskFilter((QUEUED,))) == (ids[100:], 2)


def test_many_were_moved(storage):
    """They come where they were added; looking for others behind them is cut, too."""
    ids = put(storage, *[(QUEUED, None, 1)] * 40, *[(SUCCEEDED, None, 0)] * 30)
    found, pages = walk(storage, TaskFilter((QUEUED,)))
    assert found == ids[:40]
    assert pages < 20


@pytest.mark.parametrize(
    ("state", "number", "user", "more"),
    [(SUCCEEDED, 10, None, False), (SUCCEEDED, 11, None, True)]
    + [(state, 7, JANE, False) for state in (SUCCEEDED, QUEUED)]
    + [(state, 8, JANE, True) for state in (SUCCEEDED, QUEUED)],
)
def test_too_many_to_be_sorted(storage, state, number, user, more):
    """Of those that have no index by number, only a few are sorted; then all tasks are read."""
    ids = put(storage, *[(FAILED, JANE, 0)] * 30, *[(state, JANE, 0)] * number)
    found, pages = walk(storage, TaskFilter((state,), user=user), 20)
    assert found == ids[30:]
    assert (pages > 1) == more


def test_running_tasks(storage):
    """Any number of them is sorted: no more run than there are threads."""
    ids = put(storage, *[(SUCCEEDED, None, 0)] * 50, *[(RUNNING, JANE, 0)] * 30)
    for user in (None, JANE):
        assert walk(storage, TaskFilter((RUNNING,), user=user), 12) == (ids[50:], 3)
