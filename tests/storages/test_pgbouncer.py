"""N45: behind a real PgBouncer in transaction mode: each transaction has another session."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.sql import session
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql import storage as sql
from collective.taskqueue.storages.sql import wakeup
from collective.taskqueue.storages.sql.dialects import postgresql
from collective.taskqueue.storages.sql.schema import METADATA
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import Progress
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract.ahead import Ahead
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import at_once
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.keys import Keys
from collective.taskqueue.testing.contract.races import Races
from collective.taskqueue.testing.contract.reserving import Reserving
from load import Load
from load import persist
from load import terminate_sessions
from load import until
from load import wake_too_late
from services import PgBouncer
from services import PostgresServer
from typing import Any
import os
import psycopg
import pytest
import signal
import subprocess
import sys
import time


#: Seconds that an outage lasts.
OUTAGE = 0.5


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    pooler = PgBouncer(postgres_server).start()
    yield pooler
    pooler.remove()


@pytest.fixture(scope="module")
def narrow(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """One session for everybody: who waits for another one while they have it waits in vain."""
    pooler = PgBouncer(postgres_server, connections=1).start()
    yield pooler
    pooler.remove()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    server = PostgresServer().start()
    yield server
    server.remove()


@pytest.fixture
def own_pooler(own_server: PostgresServer) -> Iterator[PgBouncer]:
    pooler = PgBouncer(own_server).start()
    yield pooler
    pooler.remove()


@pytest.fixture(scope="module")
def shared(postgres_server: PostgresServer) -> str:
    """The name of a database with tables, which each test of the contract empties."""
    database = _new_database(postgres_server)
    storage = SqlStorage(QueueSettings(type="sql", url=postgres_server.url(database)))
    storage.admin.check()
    storage.close()
    return database


@pytest.fixture
def database(postgres_server: PostgresServer) -> str:
    """The name of a new one."""
    return _new_database(postgres_server)


@pytest.fixture
def make_storage() -> Iterator[Callable[..., SqlStorage]]:
    made: list[SqlStorage] = []

    def make(url: str, **settings: Any) -> SqlStorage:
        made.append(SqlStorage(QueueSettings(type="sql", url=url, **settings)))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


class TestContract(Reserving, Ahead, Keys):
    """The parts of the contract that reserve, end, lock and wait."""

    test_of_one_key_exactly_one_is_queued = Races.test_of_one_key_exactly_one_is_queued
    test_of_one_key_never_two_run = Races.test_of_one_key_never_two_run

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def make_storage(
        self, clock: ManualClock, postgres_server: PostgresServer, pooler: PgBouncer, shared: str
    ) -> Iterator[Callable[..., Any]]:
        with psycopg.connect(postgres_server.url(shared), autocommit=True) as connection:
            tables = set(METADATA.tables) - {"taskqueue_schema"}
            connection.execute(f"TRUNCATE {', '.join(tables)}")
        made: list[SqlStorage] = []

        def make(**settings: Any) -> SqlStorage:
            # As without a pooler: no test waits for a dead server here.
            settings = {"type": "sql", "stage_timeout": 20.0, **settings}
            made.append(SqlStorage(QueueSettings(url=pooler.url(shared), **settings), clock))
            return made[-1]

        yield make
        for storage in made:
            storage.close()


def _new_database(server: PostgresServer) -> str:
    return server.new_database().split("/")[3].split("?")[0]


def test_it_is_in_transaction_mode(pooler, database):
    """Else nothing here would prove anything."""
    with (
        psycopg.connect(pooler.url(database), autocommit=True) as one,
        psycopg.connect(pooler.url(database), autocommit=True) as other,
    ):
        one.execute("BEGIN")
        mine = _backend(one)
        others = _backend(other)
        other.execute("BEGIN")
        one.execute("COMMIT")
        assert _backend(one) == mine != others
        one.execute("BEGIN")
        other.execute("COMMIT")
        assert _backend(other) == others
        other.execute("BEGIN")
        one.execute("COMMIT")
        with psycopg.connect(pooler.url(database), autocommit=True) as third:
            assert _backend(third) == mine


def _backend(connection: Any) -> int:
    [pid] = connection.execute("SELECT pg_backend_pid()").fetchone()
    return pid


def test_one_session_is_enough(narrow, database, make_storage):
    """No call waits for a second session while it has the first; no call is refused."""
    storage = make_storage(narrow.url(database), stage_timeout=5.0)
    tasks = [new_task(key=str(number)) for number in range(12)]
    blocked = [aside(lambda: storage.reserve("consumer", timeout=BOUND)) for _ in range(2)]
    at_once([lambda task=task: _add(storage, task) for task in tasks])
    leases = [lease for future in blocked for lease in future.result(BOUND)]
    done = set()
    while leases:
        assert storage.report(leases[0], Progress(1, 2, "half", 0.0)) is False
        assert storage.renew(leases[0])
        states, more = storage.complete_and_reserve(
            [(lease, completed(lease)) for lease in leases], "consumer", limit=2
        )
        assert set(states) == {SUCCEEDED}
        done |= {lease.task.id for lease in leases}
        leases = more or storage.reserve("consumer", limit=2, timeout=0)
    assert done == {task.id for task in tasks}


def _add(storage: SqlStorage, task: Any) -> None:
    storage.stage(task.id, [task])
    storage.promote(task.id)


def test_a_session_is_given_back_as_it_was(narrow, database, make_storage, monkeypatch):
    """The next one to have it may be RelStorage: no setting, no lock, no channel is left."""
    monkeypatch.setattr(session, "POLL", 0.05)
    with psycopg.connect(narrow.url(database), autocommit=True) as observer:
        before = _left_behind(observer)
        consumer, storage = (make_storage(narrow.url(database)) for _ in range(2))
        for _ in range(3):
            seen = consumer._notifier.changes
            blocked = aside(lambda: consumer.reserve("consumer", timeout=BOUND))
            until(lambda seen=seen: consumer._notifier.changes > seen)
            task = add_one(storage, key="key", on_conflict="after_running")
            [lease] = blocked.result(BOUND)
            assert lease.task.id == task.id
            ends = [(lease, completed(lease))]
            assert consumer.complete_and_reserve(ends, "consumer") == ([SUCCEEDED], [])
            assert _left_behind(observer) == before
        assert list(observer.notifies(timeout=0)) == []


def _left_behind(connection: Any) -> Any:
    query = """
        SELECT pg_backend_pid(), current_setting('idle_in_transaction_session_timeout'),
        current_setting('synchronous_commit'), current_setting('search_path'),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_prepared_statements),
        (SELECT count(*) FROM pg_listening_channels())
    """
    return connection.execute(query).fetchone()


def test_who_waits_looks_now_and_then(pooler, database, make_storage):
    """The consumer finds what another process adds, although no notification arrives."""
    consumer = make_storage(pooler.url(database))
    blocked = aside(lambda: consumer.reserve("consumer", timeout=BOUND))
    done = subprocess.run(
        [sys.executable, "-c", _ANOTHER, pooler.url(database)],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=True,
    )
    [lease] = blocked.result(session.POLL + 5)
    assert lease.task.id == done.stdout.strip()


_ANOTHER = """
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.storages.sql import SqlStorage
import sys

print(add_one(SqlStorage(QueueSettings(type="sql", url=sys.argv[1]))).id)
"""


def test_who_listens_without_it_is_told(
    pooler, postgres_server, database, make_storage, monkeypatch
):
    """Consumers that are directly connected need not wait for their next look."""
    for room, name in ((session, "POLL"), (wakeup, "PAUSE"), (sql, "BLOCK")):
        monkeypatch.setattr(room, name, 1000.0)
    consumer = make_storage(postgres_server.url(database))
    storage = make_storage(pooler.url(database))
    for _ in range(2):
        blocked = aside(lambda: consumer.reserve("consumer", timeout=BOUND))
        with pytest.raises(TimeoutError):
            blocked.result(0.3)
        task = add_one(storage)
        [lease] = blocked.result(BOUND / 3)
        assert lease.task.id == task.id


def test_a_running_task_is_cancelled(pooler, database, make_storage):
    """The flag that its consumer asks for is set by another process."""
    consumer, person = make_storage(pooler.url(database)), make_storage(pooler.url(database))
    task = add_one(person)
    lease = take(consumer)
    assert consumer.report(lease, Progress(1, 10, "", 0.0)) is False
    assert person.admin.cancel(task.id) == "running"
    assert consumer.report(lease) is True
    assert consumer.complete(lease, completed(lease)) == CANCELLED
    assert person.admin.get(task.id).state == CANCELLED


def test_a_transaction_that_is_frozen(narrow, database, make_storage, monkeypatch):
    """The server ends it and its session; others go on with a new one."""
    monkeypatch.setattr(postgresql, "IDLE", 0.5)
    frozen, storage = (make_storage(narrow.url(database), stage_timeout=10.0) for _ in range(2))
    wake_too_late(frozen, storage, monkeypatch)


def test_it_hangs(own_pooler, make_storage):
    """A commit waits no longer than `stage_timeout`, on connections old and new."""
    storage = make_storage(own_pooler.url("postgres"), stage_timeout=1.0)
    storage.admin.check()
    add_one(storage)
    os.kill(own_pooler.process.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            refused = aside(lambda: storage.stage("batch", [new_task()]))
            assert isinstance(refused.exception(BOUND), StorageUnavailable)
    finally:
        os.kill(own_pooler.process.pid, signal.SIGCONT)
    persist(lambda: storage.stage("batch", [new_task()]))
    storage.promote("batch")
    assert storage.admin.counts()["queued"] == 2


def restart(pooler: PgBouncer, server: PostgresServer) -> None:
    pooler.stop()
    time.sleep(OUTAGE)
    pooler.start()


def kill(pooler: PgBouncer, server: PostgresServer) -> None:
    pooler.stop(signal.SIGKILL)
    time.sleep(OUTAGE)
    pooler.start()


def terminate_some(pooler: PgBouncer, server: PostgresServer) -> None:
    terminate_sessions(server, "pid <> pg_backend_pid() AND usename = 'postgres'", 20)


def restart_server(pooler: PgBouncer, server: PostgresServer) -> None:
    server.stop(signal.SIGINT)
    time.sleep(OUTAGE)
    server.start()


def test_outages_under_load(own_server, own_pooler):
    """Nothing is lost, nothing runs twice, and soon after each one the consumer goes on."""
    load = Load(own_pooler.url("postgres"), names=("one",), adders=2)
    load.start()
    try:
        for outage in (restart, kill, terminate_some, kill, restart_server, kill):
            load.await_return()
            outage(own_pooler, own_server)
            load.await_return()
    finally:
        load.stop()
    load.assert_once()
