"""At least once: what becomes of tasks whose worker dies, stalls, or has a namesake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.batcher import MOST
from collective.taskqueue.storages.redis import RedisStorage
from crash import run
from crash import worker_command
from crash.worker import Journal
from crash.worker import Line
from crash.worker import new_task
from pathlib import Path
from services import RedisServer
from subprocess import Popen
from typing import Any
from uuid import uuid4
import os
import pytest
import redis
import signal
import subprocess
import time


#: Whatever a test waits for takes a moment, or a lease; only a failure takes this long.
PATIENCE = 60.0

#: Seconds of a lease that ends within the test, and of one that does not.
SHORT, LONG = 1.0, 1000.0


class Workers:
    """A queue on a server of its own, and processes that consume it."""

    def __init__(self, folder: Path) -> None:
        self.server = RedisServer(folder).start()
        self.storage = RedisStorage(
            QueueSettings(type="redis", unix_socket_path=self.server.socket)
        )
        self.journal = Journal(folder / "journal")
        self._journal_path = folder / "journal"
        self._log = folder / "worker.log"
        self._processes: list[Popen[bytes]] = []

    def start(self, name: str = "worker", lease: float = LONG) -> Popen[bytes]:
        """Start a consumer process."""
        command, environ = worker_command(self.server.socket, name, lease, self._journal_path)
        with self._log.open("ab") as log:
            process = Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process

    def kill(self, process: Popen[bytes]) -> None:
        """End a process by SIGKILL."""
        process.kill()
        process.wait(PATIENCE)

    def add(self, *urls: str) -> list[str]:
        """Queue tasks; return their ids."""
        tasks = [new_task(url) for url in urls]
        batch = str(uuid4())
        self.storage.stage(batch, tasks)
        self.storage.promote(batch)
        return [task.id for task in tasks]

    def started(self, url: str = "") -> list[Line]:
        """Return what has started, oldest first."""
        return [i for i in self.journal.lines() if i.event == "start" and i.url.startswith(url)]

    def log(self) -> str:
        """Return what the processes logged."""
        return self._log.read_text()

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            self.kill(process)
        self.storage.close()
        self.server.stop()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.close()


#: Seconds that a busy machine may need for what takes moments; `make crash` has no slack.
SLACK = 30.0


def until(condition: Any) -> Any:
    """Wait for the first true result of the condition, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return result


@pytest.mark.parametrize(("storage", "kills"), [("redis", 24), ("sqlite", 8), ("postgresql", 8)])
def test_killed_under_load(storage, kills):
    """D05, D29, D35, N34: nothing lost, nothing late, nothing run twice but what was hit."""
    totals = run("consume", "--storage", storage, "--kills", kills, "--slack", SLACK)
    assert totals["kills"] == kills
    # Each hit a task; a few had just ended it.
    assert totals["redelivered"] > kills // 2
    assert (totals["lost"], totals["doubled"], totals["late"]) == (0, 0, 0)


def test_killed_in_a_stream():
    """Of many short tasks: what was held runs once, what had just ended perhaps twice."""
    totals = run("consume", "--stream", "--kills", 24, "--slack", SLACK)
    assert totals["kills"] == 24
    assert (totals["lost"], totals["doubled"], totals["late"]) == (0, 0, 0)
    assert totals["innocent"] == 0
    assert totals["most of one kill"] <= RedisStorage.most + MOST + 1


def test_back_under_its_name_at_once_and_in_order(workers):
    """C63, D34: the lease has long to go, and what was running comes before what waits."""
    first = workers.start(lease=LONG)
    workers.add("/a/1000", *(f"/{name}/0" for name in "bcd"))
    until(workers.started)
    workers.kill(first)
    second = workers.start(lease=LONG)
    [_, again] = until(lambda: workers.started()[1:] and workers.started())
    assert (again.url, again.pid) == ("/a/1000", second.pid)
    # It still takes its 1000 seconds; another one runs the rest.
    workers.start("other")
    until(lambda: workers.storage.admin.counts()["succeeded"] == 3)
    assert [line.url for line in workers.started()][2:] == ["/b/0", "/c/0", "/d/0"]


def test_name_that_never_comes_back(workers):
    """D29, D34: found by any other consumer, and put in front."""
    gone = workers.start("gone", lease=SHORT)
    # It is still running when the other one has started.
    workers.add("/a/10", "/b/0")
    until(workers.started)
    workers.start("other")
    until(lambda: len(workers.storage.admin.consumers()) == 2)
    workers.kill(gone)
    killed = time.monotonic()
    until(lambda: workers.storage.admin.counts()["succeeded"] == 2)
    [again] = [line for line in workers.started("/a/") if line.pid != gone.pid]
    assert again.when - killed < SHORT + 5.0


def test_stale_finisher_changes_nothing(workers):
    """A process that slept through its lease wakes up, ends the task, and is told no."""
    sleeper = workers.start("sleeper", lease=SHORT)
    [task_id] = workers.add("/a/2")
    until(workers.started)
    os.kill(sleeper.pid, signal.SIGSTOP)
    try:
        other = workers.start("other", lease=SHORT)
        until(lambda: workers.storage.admin.counts()["succeeded"] == 1)
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    until(lambda: f"task {task_id}: finished after its lease was lost" in workers.log())
    assert [line.pid for line in workers.started()] == [sleeper.pid, other.pid]
    status = workers.storage.admin.get(task_id)
    assert (status.state, status.consumer) == ("succeeded", "other")
    assert [attempt.reason for attempt in status.attempts] == ["its process was lost", ""]
    assert workers.storage.admin.counts()["succeeded"] == 1


def test_poison_stops(workers):
    """D35: a task that kills its process is given up after `max_deliveries`, and says so."""
    [task_id] = workers.add("/poison/0")
    workers.add("/good/0")
    for _ in range(3):
        workers.start().wait(PATIENCE)
    workers.start()
    until(lambda: workers.storage.admin.counts()["succeeded"] == 1)
    status = workers.storage.admin.get(task_id)
    assert (status.state, status.reason) == ("failed", "its process was lost 3 times")
    assert [attempt.number for attempt in status.attempts] == [1, 2, 3]
    assert len(workers.started("/poison/")) == 3


def test_namesakes_share_no_task(workers):
    """C71, D05: two processes with one name; one starts while the other is in a task."""
    first = workers.start("default")
    [long] = workers.add("/long/5")
    until(workers.started)
    second = workers.start("default")
    until(lambda: len(workers.storage.admin.consumers()) == 2)
    workers.add(*(f"/{number}/0.002" for number in range(200)))
    until(lambda: workers.storage.admin.counts()["succeeded"] == 201)
    lines = workers.started()
    assert len({line.url for line in lines}) == len(lines) == 201
    assert {line.pid for line in lines} == {first.pid, second.pid}
    assert len(workers.storage.admin.get(long).attempts) == 1


def test_poison_takes_nobody_with_it(workers):
    """D35: in the midst of a stream, what was only held when the process died is innocent."""
    urls = [f"/{number}/0.0005" for number in range(150)]
    urls[75] = "/poison/0"
    tasks = dict(zip(urls, workers.add(*urls), strict=True))
    dead = []
    for _ in range(3):
        dead.append(workers.start())
        dead[-1].wait(PATIENCE)
    workers.start()
    until(lambda: workers.storage.admin.counts()["succeeded"] == 149)
    assert workers.storage.admin.get(tasks["/poison/0"]).reason == "its process was lost 3 times"
    # Each death cost the others no more than what was on its way, and only the first did.
    often = Counter(line.url for line in workers.started())
    assert often.pop("/poison/0") == 3
    assert max(often.values()) <= 2
    assert [line.url for line in workers.started() if line.pid == dead[1].pid][-1] == "/poison/0"
    succeeded = workers.storage.admin.tasks("succeeded", size=200)
    lost = [status for status in succeeded if status.attempts_made > 1]
    assert len(lost) <= workers.storage.most + MOST
    assert all(status.attempts_made == 2 for status in lost)


def test_stale_ends_of_many_change_nothing(workers):
    """A process that slept while their ends were on their way is told no for each of them."""
    sleeper = workers.start("sleeper", lease=SHORT)
    ids = workers.add(*(f"/{number}/0.002" for number in range(600)))
    until(lambda: len(workers.started()) >= 60)
    until(lambda: stop_with_ends_unsaid(workers, sleeper))
    try:
        ended = {line.url for line in workers.journal.lines() if line.event == "end"}
        running = {status.id: status.task.url for status in workers.storage.admin.tasks("running")}
        unsaid = [task_id for task_id, url in running.items() if url in ended]
        assert len(unsaid) > 1
        workers.start("other", lease=SHORT)
        until(lambda: workers.storage.admin.counts()["succeeded"] == len(ids))
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    for task_id in unsaid:
        message = f"task {task_id}: finished after its lease was lost"
        until(lambda message=message: message in workers.log())
        status = workers.storage.admin.get(task_id)
        assert (status.state, status.consumer) == ("succeeded", "other")
        assert [attempt.reason for attempt in status.attempts] == ["its process was lost", ""]
    often = Counter(line.url for line in workers.started())
    assert {url for url, number in often.items() if number > 1} <= set(running.values())
    assert workers.storage.admin.counts()["succeeded"] == len(ids)


def stop_with_ends_unsaid(workers: Workers, worker: Popen[bytes]) -> bool:
    """Stop a worker when some of its tasks have ended and the server has not heard of it."""

    def ended() -> int:
        return sum(line.event == "end" for line in workers.journal.lines())

    with redis.Redis(unix_socket_path=workers.server.socket) as client:
        client.client_pause(int(PATIENCE * 1000), all=False)
        before, deadline = ended(), time.monotonic() + SHORT / 4
        while ended() < before + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(worker.pid, signal.SIGSTOP)
        # What it has sent and is not done yet never will be.
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_unpause()
    if ended() >= before + 3:
        return True
    os.kill(worker.pid, signal.SIGCONT)
    return False
