"""A queue on a service that Redis Sentinel watches: real servers, a real failover."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.storages.urls import sentinel_url
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import take
from pathlib import Path
from services import RedisReplica
from services import RedisSentinel
import logging
import pytest
import redis
import signal
import tempfile
import threading
import time


PASSWORD = "s3cret/word"

#: States of a task that is not finished.
WAITING = (QUEUED, SCHEDULED, RUNNING)

#: Seconds that a wait takes at most; a failover takes two or three.
BOUND = 60.0


def until(condition, what):
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Service:
    """A master, a replica, and a sentinel that watches them."""

    def __init__(self):
        self.folders = []
        self.master = RedisReplica(self.folder(), password=PASSWORD).start()
        self.replica = RedisReplica(self.folder(), self.master, PASSWORD).start()
        # Before that, the master sends nothing that is written.
        until(lambda: self.info(self.master).get("slave0", {}).get("state") == "online", "replica")
        self.sentinel = RedisSentinel(self.folder(), self.master, PASSWORD).start()
        until(lambda: self.watched()["num-slaves"] == 1, "the sentinel to know the replica")

    def folder(self):
        self.folders.append(Path(tempfile.mkdtemp(prefix="redis-")))
        return self.folders[-1]

    def remove(self):
        for server in (self.sentinel, self.replica, self.master):
            server.stop(signal.SIGKILL)
            server.remove()

    def client(self, server):
        return redis.Redis(host="127.0.0.1", port=server.port, password=PASSWORD)

    def info(self, server):
        with self.client(server) as client:
            return client.info("replication")

    def watched(self):
        with self.client(self.sentinel) as client:
            return client.sentinel_masters()["main"]

    def replicated(self):
        """Wait until the replica has all that the master has now."""
        offset = self.info(self.master)["master_repl_offset"]
        until(lambda: self.info(self.replica)["slave_repl_offset"] >= offset, "the replica")

    def cut(self):
        """Cut the replica off: what is written from now on is on the master alone."""
        with self.client(self.master) as client:
            client.config_set("requirepass", "")
            client.acl_setuser("default", enabled=True, nopass=True, keys="*", commands=["+@all"])
            client.acl_setuser("default", commands=["-psync", "-sync", "-replconf"])
            client.client_kill_filter(_type="replica")

    def url(self, more=""):
        user = f":{PASSWORD.replace('/', '%2F')}@"
        hosts = f"127.0.0.1:1,127.0.0.1:{self.sentinel.port}"
        login = f"?sentinel_password={PASSWORD.replace('/', '%2F')}"
        return f"redis+sentinel://{user}{hosts}/main/0{login}{more}"


@pytest.fixture
def service():
    service = Service()
    yield service
    service.remove()


@pytest.fixture
def storage(service):
    settings = QueueSettings(type="redis", url=service.url(), stage_timeout=2.0)
    storage = RedisStorage(settings)
    yield storage
    storage.close()


def fail_over(service):
    """Kill the master, and wait until the replica has taken over."""
    service.master.stop(signal.SIGKILL)
    until(lambda: service.info(service.replica)["role"] == "master", "the failover")


def repeated(function, *args, **kwargs):
    """Call a method until the storage is available, as its callers do."""
    deadline = time.monotonic() + BOUND
    while True:
        try:
            return function(*args, **kwargs)
        except StorageUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_one_sentinel_of_two_is_enough(storage):
    """The first one of the url is away; the storage serves a queue all the same."""
    add(storage, new_task())
    lease = take(storage)
    assert storage.complete(lease, completed(lease)) == SUCCEEDED
    storage.admin.check()
    # A forked process has connections of its own.
    storage.after_fork()
    waiting = aside(lambda: storage.reserve("worker", timeout=BOUND))
    task = add_one(storage)
    assert [lease.task.id for lease in waiting.result(BOUND)] == [task.id]


def test_a_failover_under_load(service, storage, caplog):
    """Threads add and run tasks all the time: what the new master has is not lost, and all that
    is lost is told by its id."""
    caplog.set_level(logging.WARNING, "collective.taskqueue")
    stop, added, ran = threading.Event(), [], []

    def produce():
        number = 0
        while not stop.is_set():
            task = new_task(id=f"task-{number}")
            repeated(storage.stage, f"batch-{number}", [task])
            repeated(storage.promote, f"batch-{number}", tasks=[task])
            added.append(task.id)
            number += 1

    def consume():
        while not stop.is_set():
            for lease in repeated(storage.reserve, "worker", limit=5, timeout=0.1):
                ran.append(lease.task.id)
                repeated(storage.complete, lease, completed(lease))

    threads = [threading.Thread(target=each) for each in (produce, consume, consume)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(ran) > 100, "tasks before the failover")
        service.replicated()
        fail_over(service)
        before = len(added)
        until(lambda: len(added) > before + 100, "tasks after the failover")
    finally:
        stop.set()
        for thread in threads:
            thread.join(BOUND)
    while leases := repeated(storage.reserve, "worker", limit=50, timeout=0.1):
        for lease in leases:
            ran.append(lease.task.id)
            repeated(storage.complete, lease, completed(lease))
    told = [text.split()[1] for text in caplog.messages if "does not have it, lost" in text]
    lost = {task_id.removesuffix(":") for task_id in told}
    # A thread may have taken a task whose answer was lost: its lease has not expired yet.
    held = {status.task.id for status in storage.admin.tasks("running")}
    assert set(added) - lost - held <= set(ran)
    assert lost < set(added)
    assert len(told) == len(lost)
    assert f"failover, the master is now 127.0.0.1:{service.replica.port}; of " in caplog.text


def test_a_consumer_survives_a_failover(service, storage, caplog):
    """With its batcher: each task that is not told as lost has run when the queue is empty."""
    caplog.set_level(logging.WARNING, "collective.taskqueue")
    ran = []

    def perform(attempt):
        ran.append(attempt.task.id)
        return Outcome(200)

    consumer = Consumer(storage, perform, ServerSettings(concurrent_limit=3, lease=2.0))
    consumer.start()
    tasks = [new_task() for _ in range(600)]
    for number, task in enumerate(tasks):
        repeated(storage.stage, task.id, [task])
        repeated(storage.promote, task.id, tasks=[task])
        if number == 300:
            service.replicated()
            fail_over(service)
    until(lambda: not any(repeated(storage.admin.counts)[state] for state in WAITING), "the end")
    consumer.stop()
    told = {text.split()[1] for text in caplog.messages if "does not have it, lost" in text}
    lost = {task_id.removesuffix(":") for task_id in told}
    assert {task.id for task in tasks} - lost <= set(ran)
    # They were on the replica before the failover.
    assert lost.isdisjoint(task.id for task in tasks[:250])


def test_what_the_new_master_does_not_have_is_told(service, storage, caplog):
    """One task is on both servers, one is staged on both, two are on the former master alone."""
    caplog.set_level(logging.WARNING, "collective.taskqueue")
    add(storage, new_task(id="both"))
    storage.stage("half", [new_task(id="staged")])
    service.replicated()
    service.cut()
    storage.promote("half", tasks=[new_task(id="staged")])
    storage.stage("all", [new_task(id="lost-1"), new_task(id="lost-2")])
    storage.promote("all", tasks=[new_task(id="lost-1"), new_task(id="lost-2")])
    fail_over(service)
    found = [lease.task.id for lease in repeated(storage.reserve, "worker", limit=9, timeout=0.0)]
    # The call that noticed the failover may have been this one.
    found += [lease.task.id for lease in storage.reserve("worker", limit=9, timeout=0.0)]
    assert found == ["both", "staged"]
    told = [text for text in caplog.messages if "lost" in text]
    assert told == [
        *(f"task lost-{n}: the new master of its queue does not have it, lost" for n in (1, 2)),
        (
            f"queue default: failover, the master is now 127.0.0.1:{service.replica.port}; of 3"
            " batches that this process has queued in the last minutes, 1 are lost, with 2 tasks"
        ),
    ]


def test_a_fault_while_the_new_master_is_asked(service, storage, monkeypatch, caplog):
    """The next call asks again, and each task is told once."""
    add(storage, new_task(id="a"))
    service.replicated()
    verify, calls = storage._promoted.verify, []

    def fail_once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise StorageUnavailable("gone")
        return verify(*args)

    monkeypatch.setattr(storage._promoted, "verify", fail_once)
    fail_over(service)
    for _ in range(3):
        repeated(storage.reserve, "worker", limit=0, timeout=0.0)
    assert len(calls) == 2


MALFORMED = {
    "no service": ("redis+sentinel://h:1", "its url names a service, and a database by number"),
    "no number": ("redis+sentinel://h:1/main/x", "its url names a service, and a database by"),
    "a bad port": ("redis+sentinel://h:1,i:x/main", "the port in its url is no number"),
    "no name": ("redis+sentinel://h:1,:2/main", "its url has a sentinel without a name"),
    "an empty place": ("redis+sentinel://h:1,,i/main", "its url has a sentinel without a name"),
    "an option": ("redis+sentinel://h/main?ssl_certfile=/x", "its url has options that are not"),
    "a database twice": ("redis+sentinel://h/main/1?db=2", "its url has options that are not"),
    "an unescaped password": ("redis+sentinel://:s3/cret@h/main", "its url cannot be read"),
}


@pytest.mark.parametrize("mistake", MALFORMED)
def test_a_malformed_url(mistake):
    url, reason = MALFORMED[mistake]
    with pytest.raises(ConfigurationError) as caught:
        RedisStorage(QueueSettings(type="redis", url=url, place="<taskqueue>"))
    assert str(caught.value).startswith(f"<taskqueue>: {reason}")
    assert "cret" not in str(caught.value)


def test_the_parts_of_a_url():
    url = (
        "redis+sentinel://jane:a%2Fb@h,[::1]:7,i:26380/my.main/3?client_name=x&sentinel_username=u"
    )
    found = sentinel_url(QueueSettings(type="redis", url=url))
    assert found.sentinels == (("h", 26379), ("::1", 7), ("i", 26380))
    assert (found.service, found.username, found.password) == ("my.main", "u", "")
    assert found.server == "redis://jane:a%2Fb@i/3?client_name=x"
    assert "a%2Fb" not in repr(found)


def test_a_batch_that_is_promoted_while_others_are_verified(service, storage, monkeypatch):
    """Its answer may have come from the former master: the batches are verified once more."""
    add(storage, new_task(id="a"))
    call = storage._call

    def promote_late(*args, **kwargs):
        answer = call(*args, **kwargs)
        storage._promoted.verified += 1
        return answer

    monkeypatch.setattr(storage, "_call", promote_late)
    storage.promote("another", tasks=[new_task(id="b")])
    assert storage._server.sentinels.failover() == f"127.0.0.1:{service.master.port}"
    assert storage._server.sentinels.failover() == ""


def test_each_thread_that_comes_from_the_former_master(service, storage):
    """Others may have known the new one before this thread had its last answer."""
    add(storage, new_task(id="a"))
    storage._server._mine.master = ("former", 1)
    storage._call_admin("counts")
    assert storage._server.sentinels.failover() == f"127.0.0.1:{service.master.port}"
    storage._call_admin("counts")
    assert storage._server.sentinels.failover() == ""


def test_a_thread_that_never_called_the_former_master(service, storage):
    """It notices the failover for the threads that have ended since."""
    add(storage, new_task(id="a"))
    storage._server.sentinels._master = ("former", 1)
    aside(lambda: storage._call_admin("counts")).result(BOUND)
    assert storage._server.sentinels.failover() == f"127.0.0.1:{service.master.port}"
