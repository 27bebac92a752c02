"""Several worker processes under one supervisor: no task is lost, none runs twice."""

from __future__ import annotations

from acceptance.instance import wait_for
from acceptance.workers import exists
from acceptance.workers import RELSTORAGE
from acceptance.workers import Systemd
from acceptance.workers import Worker
from acceptance.workers import ZEO
from crash.databases import ZEOServer
import os
import pytest
import signal
import time


#: Seconds for two processes to load Zope, one after the other, on a busy machine.
TIMEOUT = 300.0


@pytest.fixture
def worker(tmp_path, short, redis_of_worker):
    """A worker whose database is on a ZEO server, so that several processes can open it."""
    server = ZEOServer(short).start()
    made = Worker(tmp_path, redis_of_worker, ZEO.format(address=server.address))
    # Two processes that make the root of an empty database would be in conflict.
    made.instance.script("pass")
    yield made
    made.kill()
    server.stop()


def gates(worker, *names):
    """Let a task run for each name until its gate is opened; return ids, and process ids."""
    ids = [worker.put(f"/@@fixture-gate?name={name}")[0] for name in names]
    wait_for(lambda: len(starts(worker, *names)) == len(names), "the tasks to start")
    pids = {item["gate"]: item["pid"] for item in starts(worker, *names)}
    return ids, [pids[name] for name in names]


def starts(worker, *names):
    found = worker.instance.records(event="start")
    return [item for item in found if item["gate"] in names]


def test_a_killed_process_is_replaced(worker):
    """Its task runs again; that of the other process runs on; then all end together."""
    worker.start("--processes", 2)
    (one, two), (first, second) = gates(worker, "one", "two")
    assert {first, second} == set(worker.pids())
    os.kill(first, signal.SIGKILL)
    worker.wait_for(f"process {first} has ended (killed by SIGKILL), another one starts in 1 s")
    wait_for(lambda: len(starts(worker, "one")) == 2, "the lost task to start again")
    third = worker.pids()[2]
    assert [item["pid"] for item in starts(worker, "one")] == [first, third]
    worker.instance.open("one")
    worker.instance.open("two")
    wait_for(lambda: worker.queue.counts()["succeeded"] == 2, "both tasks")
    assert len(worker.queue.status(two).attempts) == 1
    assert len(worker.queue.status(one).attempts) == 2
    assert worker.instance.stop() == 0
    assert not any(map(exists, worker.pids()))


def test_a_process_over_its_limit_is_replaced(worker):
    """The task that takes the memory finishes, and the others run elsewhere, each once."""
    worker.start("--processes", 2, "--max-memory", "250MB")
    fat = worker.put("/@@fixture-fat?megabytes:int=300")
    ids = worker.put("/@@fixture-record", 100)
    worker.wait_for("has left (exit code 7, replace), another one starts")
    worker.wait_for("worker: ready, process", number=3)
    wait_for(lambda: worker.queue.counts()["succeeded"] == 101, "all tasks")
    assert worker.runs() == dict.fromkeys(ids, 1)
    assert len(worker.queue.status(fat[0]).attempts) == 1
    assert worker.instance.stop() == 0


def test_rolling_restart_under_load(worker):
    """HUP: each process is replaced by one that is ready; of 500 tasks none is lost or doubled."""
    worker.start("--processes", 2)
    old = worker.pids()
    ids = worker.put("/@@fixture-record", 100)
    worker.instance.signal(signal.SIGHUP)
    deadline = time.monotonic() + TIMEOUT
    while len(ids) < 500 or len(worker.instance.lines("has left")) < 2:
        # As many as the processes can run, so that there is load until the last one is replaced.
        ids += worker.put("/@@fixture-record", 20)
        wait_for(lambda: worker.queue.counts()["queued"] < 20, "the tasks to be run")
        assert worker.instance.process.poll() is None
        assert time.monotonic() < deadline, "the old processes do not leave"
    wait_for(lambda: worker.queue.counts()["succeeded"] == len(ids), "all tasks")
    assert worker.runs() == dict.fromkeys(ids, 1)
    assert all(len(worker.queue.status(each).attempts) == 1 for each in ids[:500])
    assert len(worker.pids()) == 4
    assert not any(map(exists, old))
    for pid in old:
        assert worker.instance.lines(f"is ready, {pid} takes no more tasks and leaves")
    assert worker.instance.stop() == 0


def test_a_long_task_survives_a_rolling_restart(worker):
    """The old process has no grace period: it leaves when its task has finished."""
    worker.start("--processes", 2)
    (task_id, *_), (pid, *_) = gates(worker, "one", "two")
    worker.instance.signal(signal.SIGHUP)
    worker.wait_for("takes no more tasks and leaves", number=2)
    later = worker.put("/@@fixture-record", 10)
    wait_for(lambda: worker.queue.counts()["succeeded"] == 10, "the tasks of the new processes")
    assert worker.runs() == dict.fromkeys(later, 1)
    assert exists(pid)
    worker.instance.open("one")
    worker.instance.open("two")
    worker.wait_for("has left (exit code 7, replace)", number=2)
    assert len(worker.queue.status(task_id).attempts) == 1
    assert worker.instance.stop() == 0


def test_a_restart_that_fails(worker):
    """If zope.conf has become wrong, the old processes go on."""
    worker.start("--processes", 2)
    conf = worker.instance.conf
    conf.write_text(conf.read_text().replace("lease 3", "lease never"))
    worker.instance.signal(signal.SIGHUP)
    worker.wait_for("exit code 3, configuration", "before it was ready, the old ones go on")
    ids = worker.put("/@@fixture-record", 10)
    wait_for(lambda: worker.queue.counts()["succeeded"] == 10, "the tasks")
    assert worker.runs() == dict.fromkeys(ids, 1)
    assert worker.instance.stop() == 0


def test_the_supervisor_is_killed(worker):
    """Its processes notice, let their tasks finish, and end: no orphan is left."""
    worker.start("--processes", 2)
    ids, _ = gates(worker, "one", "two")
    os.kill(worker.instance.process.pid, signal.SIGKILL)
    worker.instance.wait()
    wait_for(lambda: len(worker.instance.lines("queue default: stopping")) == 2, "both to notice")
    worker.instance.open("one")
    worker.instance.open("two")
    wait_for(lambda: not any(map(exists, worker.pids())), "the end of both processes")
    assert [worker.queue.status(each).state for each in ids] == ["succeeded"] * 2


def test_all_processes_get_the_signal(worker):
    """As from systemd, which signals all processes of a service: it is one signal, not two."""
    worker.start("--processes", 2)
    ids, pids = gates(worker, "one", "two")
    for pid in [*pids, worker.instance.process.pid]:
        os.kill(pid, signal.SIGTERM)
    worker.wait_for("told to stop, stopping its processes")
    wait_for(lambda: len(worker.instance.lines("queue default: stopping")) == 2, "both to stop")
    worker.instance.open("one")
    worker.instance.open("two")
    assert worker.instance.wait() == 0
    assert [worker.queue.status(each).state for each in ids] == ["succeeded"] * 2


def test_the_second_signal(worker):
    """The grace period of all processes is over at once."""
    worker.start("--processes", 2)
    ids, _ = gates(worker, "one", "two")
    worker.instance.signal(signal.SIGTERM)
    wait_for(lambda: len(worker.instance.lines("queue default: stopping")) == 2, "both to stop")
    worker.instance.signal(signal.SIGTERM)
    assert worker.instance.wait() == 0
    assert [worker.queue.status(each).state for each in ids] == ["running"] * 2
    assert not any(map(exists, worker.pids()))


def test_they_rest_and_go_on(worker):
    """TSTP and CONT reach all processes, and what starts meanwhile rests, too."""
    worker.start("--processes", 2, "--probe-port", worker.probe_port)
    assert worker.probe("/ready") == (200, "ok\n")
    worker.instance.signal(signal.SIGTSTP)
    worker.wait_for("takes no more tasks until CONT", number=2)
    wait_for(lambda: worker.probe("/ready")[1].count("takes no more tasks") == 2, "both to rest")
    os.kill(worker.pids()[0], signal.SIGKILL)
    worker.wait_for("takes no more tasks until CONT", number=3)
    wait_for(lambda: worker.probe("/ready")[1].count("takes no more tasks") == 2, "the third")
    worker.instance.signal(signal.SIGTTIN)
    worker.wait_for("stacks of", number=2)
    ids = worker.put("/@@fixture-record", 10)
    worker.instance.signal(signal.SIGCONT)
    wait_for(lambda: worker.queue.counts()["succeeded"] == 10, "the tasks")
    assert worker.runs() == dict.fromkeys(ids, 1)
    assert worker.instance.stop() == 0


def test_burst(worker):
    """All processes work until the queue is empty; a failed task is told by the exit code."""
    ids = worker.put("/@@fixture-record", 100)
    worker.spawn("--processes", 2, "--burst", "--max-tasks", 30)
    assert worker.instance.wait() == 0
    assert worker.runs() == dict.fromkeys(ids, 1)
    assert worker.instance.lines("exit code 7, replace")
    worker.put("/@@fixture-error")
    worker.spawn("--processes", 2, "--burst")
    assert worker.instance.wait() == 1


def test_relstorage(tmp_path, redis_of_worker):
    """The other database that several processes can open."""
    folder = tmp_path / "rel"
    made = Worker(tmp_path, redis_of_worker, RELSTORAGE.format(folder=folder))
    try:
        made.instance.script("pass")
        ids = made.put("/@@fixture-record", 50)
        made.spawn("--processes", 2, "--burst")
        assert made.instance.wait() == 0
        assert made.runs() == dict.fromkeys(ids, 1)
        assert list(folder.iterdir())
    finally:
        made.kill()


def test_burst_with_a_killed_process(worker):
    """The work is done all the same, and the exit code tells of the loss."""
    worker.spawn("--processes", 2, "--burst")
    (task_id,), (pid,) = gates(worker, "one")
    os.kill(pid, signal.SIGKILL)
    worker.wait_for(f"process {pid} has ended (killed by SIGKILL)")
    worker.instance.open("one")
    assert worker.instance.wait() == 8
    assert worker.queue.status(task_id).state == "succeeded"


def test_a_mistake_in_zope_conf(worker):
    """Starting again would not help: the supervisor ends, with the code of its processes."""
    conf = worker.instance.conf
    conf.write_text(conf.read_text().replace("lease 3", "lease never"))
    worker.spawn("--processes", 2)
    assert worker.instance.wait() == 3
    assert "<taskqueue-server> (line " in worker.instance.console()
    assert "Traceback" not in worker.instance.console()


def test_systemd(worker, short):
    """READY when all processes are; one that is silent is killed, and not all of the service."""
    systemd = Systemd(short / "notify")
    worker.instance.environ |= {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "4000000"}
    worker.start("--processes", 2)
    systemd.wait_for("READY=1")
    assert len(worker.instance.lines("worker: ready, process")) == 2
    (pid, other) = worker.pids()
    os.kill(pid, signal.SIGSTOP)
    worker.wait_for(f"process {pid} silent for too long, killed")
    worker.wait_for("worker: ready, process", number=3)
    systemd.wait_for("WATCHDOG=1")
    assert exists(other)
    worker.instance.signal(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert worker.instance.wait() == 0
    systemd.close()
