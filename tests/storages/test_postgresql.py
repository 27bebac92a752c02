"""What only a server can suffer: it is stopped, hangs, restarts, or drops its connections."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.sql import session
from collective.taskqueue.storages.sql import SqlStorage
from collective.taskqueue.storages.sql import storage as sql
from collective.taskqueue.storages.sql import wakeup
from collective.taskqueue.storages.sql.dialects import driver
from collective.taskqueue.storages.sql.dialects import postgresql
from collective.taskqueue.storages.sql.promote import Promotion
from collective.taskqueue.storages.sql.wakeup import Debounced
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import at_once
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from load import until
from load import wake_too_late
from services import PostgresServer
from typing import Any
import contextlib
import os
import psycopg
import pytest
import signal
import threading
import time


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_database()


@pytest.fixture
def make_storage(url: str) -> Iterator[Callable[..., SqlStorage]]:
    made: list[SqlStorage] = []

    def make(**settings: Any) -> SqlStorage:
        made.append(SqlStorage(QueueSettings(**{"type": "sql", "url": url, **settings})))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    server = PostgresServer().start()
    yield server
    server.remove()


def test_a_notification_wakes(make_storage, monkeypatch):
    """The consumer does not poll within this test."""
    for room, name in ((session, "POLL"), (wakeup, "PAUSE"), (sql, "BLOCK")):
        monkeypatch.setattr(room, name, 1000.0)
    consumer, producer = make_storage(), make_storage()
    for _ in range(3):
        blocked = aside(lambda: consumer.reserve("consumer", timeout=BOUND))
        with pytest.raises(TimeoutError):
            blocked.result(0.3)
        task = add_one(producer)
        [lease] = blocked.result(BOUND / 3)
        assert lease.task.id == task.id


def test_a_task_that_is_added_before_the_consumer_listens(make_storage, monkeypatch):
    """The consumer sleeps already, and is not notified yet."""
    for room, name in ((session, "POLL"), (wakeup, "PAUSE"), (sql, "BLOCK")):
        monkeypatch.setattr(room, name, 1000.0)
    consumer, producer = make_storage(), make_storage()
    asked, added = threading.Event(), threading.Event()
    is_pooled = driver._is_pooled

    def ask(connection: Any) -> bool:
        asked.set()
        return added.wait(BOUND) and is_pooled(connection)

    monkeypatch.setattr(driver, "_is_pooled", ask)
    blocked = aside(lambda: consumer.reserve("consumer", timeout=BOUND))
    assert asked.wait(BOUND)
    task = add_one(producer)
    added.set()
    [lease] = blocked.result(BOUND / 3)
    assert lease.task.id == task.id


def test_it_listens_again_after_an_outage(own_server, caplog):
    """Nothing is said about it but by those who ask for tasks."""
    storage = SqlStorage(QueueSettings(type="sql", url=own_server.url()))
    with pytest.raises(TimeoutError):
        aside(lambda: storage.reserve("consumer", timeout=BOUND)).result(0)
    until(lambda: _listening(own_server) == 1)
    own_server.stop()
    own_server.start()
    until(lambda: _listening(own_server) == 1)
    storage.close()
    until(lambda: _listening(own_server) == 0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def _listening(server: PostgresServer) -> int:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
        [number] = connection.execute(query).fetchone()
        return number


def test_without_notifications_it_looks_now_and_then(make_storage, monkeypatch):
    """N45, T10: as behind a pooler that changes sessions: LISTEN hears nothing."""
    monkeypatch.setattr(session, "POLL", 0.2)
    consumer, producer = make_storage(), make_storage()
    monkeypatch.setattr(producer._session.dialect, "notify", lambda connection: None)
    blocked = aside(lambda: consumer.reserve("consumer", timeout=None))
    with pytest.raises(TimeoutError):
        blocked.result(0.3)
    task = add_one(producer)
    [lease] = blocked.result(5)
    assert lease.task.id == task.id


def test_notifications_are_few():
    """One at once, and one for all that follow before its interval is over."""
    calls: list[float] = []
    called = threading.Semaphore(0)

    def call() -> None:
        calls.append(time.monotonic())
        called.release()

    notify = Debounced(call, 0.3)
    for _ in range(100):
        notify()
    assert called.acquire(timeout=BOUND)
    assert called.acquire(timeout=BOUND)
    assert len(calls) == 2
    assert calls[1] - calls[0] >= 0.3
    notify()
    notify.close()
    notify()
    assert len(calls) == 2


def test_a_server_that_hangs(own_server):
    """A commit waits no longer than `stage_timeout`, on connections old and new."""
    storage = SqlStorage(QueueSettings(type="sql", url=own_server.url(), stage_timeout=1.0))
    storage.admin.check()
    add_one(storage)
    pids = [own_server.process.pid, *_backends(own_server)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            refused = aside(lambda: storage.stage("batch", [new_task()]))
            assert isinstance(refused.exception(BOUND), StorageUnavailable)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    storage.stage("batch", [new_task()])
    storage.promote("batch")
    assert storage.admin.counts()["queued"] == 2
    storage.close()


def _backends(server: PostgresServer) -> list[int]:
    with psycopg.connect(_conninfo(server.url()), autocommit=True) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'collective.taskqueue'"
        return [pid for (pid,) in connection.execute(query)]


def _conninfo(url: str) -> str:
    return url.replace("postgresql+psycopg:", "postgresql:")


def test_a_user_who_may_create_nothing(make_storage, url):
    """The error says what is missing; with tables that another user has made all calls work."""
    with psycopg.connect(_conninfo(url), autocommit=True) as connection:
        # Of the whole server; it may be there from another database.
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            connection.execute("CREATE ROLE weak LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM public")
        weak = make_storage(url=url.replace("postgres@", "weak@"))
        with pytest.raises(StorageUnavailable, match="permission denied"):
            weak.admin.check()
        make_storage().admin.check()
        connection.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO weak"
        )
        connection.execute("GRANT USAGE ON SEQUENCE taskqueue_number TO weak")
    weak.admin.check()
    lease = (add_one(weak), take(weak))[1]
    assert weak.complete_and_reserve([(lease, completed(lease))], "consumer", limit=0) == (
        [SUCCEEDED],
        [],
    )
    assert weak.admin.throughput()[SUCCEEDED] == 1


def test_a_server_that_is_not_there(own_server):
    """Refused with a sentence, and used again as soon as it is back."""
    storage = SqlStorage(QueueSettings(type="sql", url=own_server.url()))
    task = add_one(storage)
    own_server.stop()
    with pytest.raises(StorageUnavailable, match="connection"):
        storage.stage("batch", [new_task()])
    own_server.start()
    assert take(storage).task.id == task.id
    storage.close()


def test_an_exhausted_pool(make_storage, monkeypatch):
    """A call that gets no connection in time fails with an error; no call hangs."""
    monkeypatch.setattr(session, "POOL", 1)
    monkeypatch.setattr(session, "OVERFLOW", 1)
    make_storage().admin.check()
    storage = make_storage(stage_timeout=5.0)
    add_one(storage)
    held = [storage._session.alone.connect() for _ in range(2)]
    refused = aside(lambda: storage.stage("batch", [new_task()]))
    assert isinstance(refused.exception(BOUND), StorageUnavailable)
    for connection in held:
        connection.close()
    add_one(storage)
    assert storage.admin.counts()["queued"] == 2


#: Whether all who wait for a lock have waited for so many seconds.
_WAITED = """
    SELECT coalesce(bool_and(clock_timestamp() > xact_start + make_interval(secs => %s)), true)
    FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.mark.parametrize("late", [0.0, 1.6])
def test_a_claim_that_was_given_up(make_storage, url, monkeypatch, late):
    """The server carries out an abandoned claim when the lock is released: it must claim nothing.

    Nor if the claim came late, because the connection took long.
    """
    storage, other = make_storage(stage_timeout=2.0), make_storage()
    leases = [(add_one(storage), take(storage))[1] for _ in range(2)]
    task = add_one(storage)
    if late:
        storage.close()
        connect = driver.connect

        def connect_slowly(*arguments: Any, **options: Any) -> Any:
            time.sleep(late)
            return connect(*arguments, **options)

        monkeypatch.setattr(driver, "connect", connect_slowly)
    with psycopg.connect(_conninfo(url)) as person:
        person.execute("LOCK TABLE taskqueue_task IN ACCESS EXCLUSIVE MODE")
        calls: list[Callable[[], Any]] = [lambda: storage.reserve("consumer", timeout=0)]
        for lease in leases:
            ends = [(lease, completed(lease))]
            calls.append(lambda ends=ends: storage.complete_and_reserve(ends, "consumer"))
        for error in at_once(calls):
            assert isinstance(error, StorageUnavailable)
        # By the server's clock as well, which has begun later.
        with psycopg.connect(_conninfo(url), autocommit=True) as watching:
            until(lambda: watching.execute(_WAITED, [2.0]).fetchone() == (True,))
        person.rollback()
        person.execute("LOCK TABLE taskqueue_task IN ACCESS EXCLUSIVE MODE")
    # The completions may be stored or not: they, too, may have come too late.
    assert other.admin.get(task.id).state == QUEUED
    assert take(other).task.id == task.id


def test_a_process_that_stands_still_during_a_claim(make_storage, monkeypatch):
    """The database thinks that its consumer has given up; the task does not wait for that."""
    storage = make_storage(stage_timeout=1.5)
    task = add_one(storage, key="key")
    execute = storage._session.execute
    pauses = [1.0]

    def stand_still(connection, statement, **values):
        if statement is storage._statements.claim_keyed and pauses:
            time.sleep(pauses.pop())
        return execute(connection, statement, **values)

    monkeypatch.setattr(storage._session, "execute", stand_still)
    assert take(storage).task.id == task.id
    assert pauses == []


@pytest.mark.parametrize("how", ["expired", "due"])
def test_a_lock_that_another_session_keeps(make_storage, url, how):
    """Other tasks go on, consumers can be stopped, and the locked task runs after the release."""
    storage = make_storage()
    if how == "expired":
        task = add_one(storage)
        assert storage.reserve("consumer", timeout=0, lease=0.001)
    else:
        task = add_one(storage, due=time.time() + 0.2)
    others = [add_one(storage), add_one(storage, key="key")]
    with psycopg.connect(_conninfo(url)) as person:
        query = "SELECT clock_timestamp() FROM taskqueue_task WHERE id = %s FOR UPDATE"
        person.execute(query, [task.id])
        until(lambda: storage._session.time() > (task.due or 0.0) + 0.1)
        for other in others:
            [lease] = aside(lambda: storage.reserve("consumer", timeout=0)).result(BOUND)
            assert lease.task.id == other.id
        blocked = aside(lambda: storage.reserve("consumer", timeout=BOUND))
        with pytest.raises(TimeoutError):
            blocked.result(0.2)
    [lease] = blocked.result(BOUND)
    assert lease.task.id == task.id


def test_a_process_that_is_frozen_in_a_transaction(make_storage, monkeypatch):
    """The server ends it, and its task runs elsewhere; when it wakes it has changed nothing."""
    monkeypatch.setattr(postgresql, "IDLE", 0.5)
    wake_too_late(make_storage(), make_storage(), monkeypatch)


def test_a_batch_of_any_size(make_storage, monkeypatch):
    """Longer than `stage_timeout` on its way, and with more keys than the server has locks."""
    storage = make_storage(stage_timeout=4.0)
    portions = storage._session.portions

    def slowly(rows: Any) -> Any:
        for portion in portions(rows):
            time.sleep(0.6)
            yield portion

    monkeypatch.setattr(storage._session, "portions", slowly)
    tasks = [new_task(key=str(number)) for number in range(8000)]
    storage.stage("batch", tasks)
    storage.promote("batch", b"\0" * 8)
    again = [new_task(key=task.key, on_conflict="replace") for task in tasks[:1000]]
    storage.stage("again", again)
    storage.promote("again", b"\1" * 8)
    counts = storage.admin.counts()
    assert (counts["queued"], counts["cancelled"]) == (8000, 1000)
    assert [take(storage).task.id for _ in range(3)] == ids(tasks[1000:1003])


def test_keys_that_are_locked_for_long(make_storage, url):
    """No outage: who asks for a task is given none, and those who have ended one go on."""
    make_storage().admin.check()
    storage = make_storage(stage_timeout=4.0)
    first = add_one(storage)
    lease = take(storage)
    task = add_one(storage, key="key")
    with psycopg.connect(_conninfo(url)) as holder:
        lock = storage._session.dialect._locks(map(str, range(1000)))
        holder.execute("SELECT pg_advisory_xact_lock(%s)", lock["numbers"])
        assert storage.complete_and_reserve([(lease, completed(lease))], "consumer") == (
            [SUCCEEDED],
            [],
        )
        assert storage.reserve("consumer", timeout=0) == []
    assert storage.admin.get(first.id).state == SUCCEEDED
    assert take(storage).task.id == task.id


def test_what_waits_is_dropped_while_another_is_skipped_for_it(make_storage, monkeypatch):
    """The two are done one after the other: in the end the later task waits."""
    storage, other = make_storage(), make_storage()
    add_one(storage, key="key")
    store = Promotion._store
    dropped: list[int] = []

    def drop_first(admission: Promotion) -> None:
        if not dropped:
            dropped.append(other.admin.clear())
        store(admission)

    monkeypatch.setattr(Promotion, "_store", drop_first)
    task = add_one(storage, key="key")
    assert dropped == [1]
    assert take(storage).task.id == task.id


def test_the_answer_to_finish_is_lost(make_storage, monkeypatch):
    """The attempt has ended, and who asks again is told how."""
    storage = make_storage()
    task = add_one(storage)
    lease = take(storage)
    execute = storage._session.execute
    lost = [1]

    def lossy(connection: Any, statement: Any, **values: Any) -> Any:
        result = execute(connection, statement, **values)
        if statement is storage._statements.finish and lost:
            lost.pop()
            connection.connection.driver_connection.close()
            connection.exec_driver_sql("SELECT 1")
        return result

    monkeypatch.setattr(storage._session, "execute", lossy)
    assert storage.complete(lease, completed(lease)) == SUCCEEDED
    assert not lost
    assert len(storage.admin.get(task.id).attempts) == 1
    assert storage.complete(lease, completed(lease)) is None


def test_the_answer_to_a_claim_is_lost(make_storage, monkeypatch):
    """The storage asks again and gets the same tasks and tokens; each running task has a holder."""
    storage = make_storage()
    tasks = [add_one(storage) for _ in range(3)]
    execute = storage._session.execute
    lost = [1]

    def lossy(connection: Any, statement: Any, **values: Any) -> Any:
        result = execute(connection, statement, **values)
        if statement is storage._statements.claim and lost:
            lost.pop()
            connection.connection.driver_connection.close()
            connection.exec_driver_sql("SELECT 1")
        return result

    monkeypatch.setattr(storage._session, "execute", lossy)
    leases = storage.reserve("consumer", limit=2, timeout=0)
    assert not lost
    assert [lease.task.id for lease in leases] == [task.id for task in tasks[:2]]
    assert storage.admin.counts()["running"] == 2
    for lease in leases:
        assert storage.complete(lease, completed(lease)) == SUCCEEDED
