"""One worker process: Zope with its pipeline and no port, from its start to its end."""

from __future__ import annotations

from acceptance.instance import wait_for
from acceptance.workers import Systemd
from pathlib import Path
import os
import pytest
import signal
import subprocess
import sys
import time


GATE = "/@@fixture-gate?name=slow"


def begin(worker, *options):
    """Start a worker with a slow task that runs, and one that waits; return their ids."""
    worker.start(*options)
    slow = worker.put(GATE)
    wait_for(lambda: worker.instance.records(gate="slow", event="start"), "the slow task")
    return slow + worker.put("/@@fixture-record")


def test_it_runs_tasks_and_listens_nowhere(worker):
    """The whole pipeline, but no port of zope.ini; TERM ends it with 0."""
    worker.start()
    (task_id,) = worker.put("/@@fixture-record")
    wait_for(lambda: worker.queue.status(task_id).state == "succeeded", "the task")
    assert worker.runs() == {task_id: 1}
    with pytest.raises(ConnectionRefusedError):
        worker.instance.request("GET", "/@@fixture-ping")
    assert worker.instance.stop() == 0
    assert worker.instance.lines("consumer default of queue default: stopped")
    assert not worker.instance.lines("Traceback")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_tasks_may_finish(worker, number):
    """The first signal: no other task begins, the running one finishes."""
    slow, waiting = begin(worker)
    worker.instance.signal(number)
    worker.wait_for("consumer default of queue default: stopping")
    assert worker.instance.process.poll() is None
    worker.instance.open("slow")
    assert worker.instance.wait() == 0
    assert worker.queue.status(slow).state == "succeeded"
    assert worker.queue.status(waiting).state == "queued"


def test_the_second_signal_ends_it_at_once(worker):
    """The grace period is ten minutes; a second signal ends it, and the task runs again."""
    slow, _ = begin(worker)
    worker.instance.signal(signal.SIGTERM)
    worker.wait_for("consumer default of queue default: stopping")
    worker.instance.signal(signal.SIGINT)
    assert worker.instance.wait() == 0
    assert worker.instance.lines(slow, "left unfinished")
    assert worker.queue.status(slow).state == "running"


def test_a_signal_while_zope_is_loaded(worker):
    """It ends at once, long before its consumers start."""
    worker.spawn("--probe-port", worker.probe_port)
    worker.wait_for("answers probes")
    worker.instance.signal(signal.SIGTERM)
    assert worker.instance.wait() == 0
    assert not worker.instance.lines("worker: ready")


def test_it_rests_and_goes_on(worker):
    """TSTP: the running task finishes, no other begins; CONT: they begin."""
    slow, waiting = begin(worker)
    worker.instance.signal(signal.SIGTSTP)
    worker.wait_for("takes no more tasks until CONT")
    worker.instance.open("slow")
    wait_for(lambda: worker.queue.status(slow).state == "succeeded", "the running task")
    # Stopped while it rests, which is not possible before it rests in fact.
    more = worker.put("/@@fixture-record", 5)
    worker.instance.signal(signal.SIGTTIN)
    worker.wait_for("stacks of")
    assert worker.queue.counts()["queued"] == 6
    worker.instance.signal(signal.SIGCONT)
    wait_for(lambda: worker.queue.counts()["succeeded"] == 7, "the tasks that waited")
    assert worker.runs() == dict.fromkeys([waiting, *more], 1)
    assert worker.instance.stop() == 0


def test_the_stacks_of_all_threads(worker):
    """TTIN: the line in the view that a task waits at is in the log; the task goes on."""
    slow, _ = begin(worker)
    worker.instance.signal(signal.SIGTTIN)
    worker.wait_for("stacks of")
    log = worker.instance.log.read_text()
    assert "Thread taskqueue-default-default-1:" in log
    assert "fixture/views.py" in log
    assert "Thread MainThread:" in log
    worker.instance.open("slow")
    wait_for(lambda: worker.queue.status(slow).state == "succeeded", "the running task")


def test_it_leaves_when_nothing_runs(worker):
    """HUP: however long the running task takes, it finishes; the exit code asks for another."""
    slow, waiting = begin(worker)
    worker.instance.signal(signal.SIGHUP)
    worker.wait_for("told to leave")
    worker.instance.open("slow")
    assert worker.instance.wait() == 7
    assert worker.queue.status(slow).state == "succeeded"
    assert worker.queue.status(waiting).state == "queued"
    assert worker.queue.status(waiting).attempts == ()


def test_burst(worker):
    """Until nothing is due, also what tasks have added and what is tried again; code 0."""
    ids = worker.put("/@@fixture-record", 30)
    (later,) = worker.put("/@@fixture-record", due=time.time() + 3600)
    worker.spawn("--burst")
    assert worker.instance.wait() == 0
    assert worker.runs() == dict.fromkeys(ids, 1)
    assert worker.queue.status(later).state == "scheduled"


def test_burst_with_a_failed_task(worker):
    """The others are run all the same; code 1."""
    (failed,) = worker.put("/@@fixture-error")
    ids = worker.put("/@@fixture-record", 3)
    worker.spawn("--burst")
    assert worker.instance.wait() == 1
    assert worker.queue.status(failed).state == "failed"
    assert worker.runs() == dict.fromkeys(ids, 1)


def test_burst_leaves_a_paused_queue(worker):
    """It does not wait for a person who resumes the queue."""
    worker.put("/@@fixture-record", 2)
    worker.queue.pause()
    worker.spawn("--burst")
    assert worker.instance.wait() == 0
    assert worker.instance.lines("queue default: paused, its 2 tasks are left")


def test_burst_waits_for_the_tasks_of_others(worker):
    """A task that a dead process has left is run, once its lease has expired."""
    (task_id,) = worker.put("/@@fixture-record")
    [lease] = worker.queue.storage.reserve("dead", timeout=0.0, lease=2.0)
    assert lease.task.id == task_id
    worker.spawn("--burst")
    assert worker.instance.wait() == 0
    assert worker.runs() == {task_id: 1}


def test_its_queues(worker):
    """--queue wins over zope.conf and the variables that it sets, with the limit that it names."""
    conf = worker.instance.conf
    section = "<environment>\n TASKQUEUE_CONSUMERS default:4\n</environment>\n"
    conf.write_text(f"{conf.read_text()}\n{section}")
    worker.start("--queue", "mail:2")
    worker.put("/@@fixture-record")
    names = ("a", "b", "c")
    for name in names:
        worker.put(f"/@@fixture-gate?name={name}", queue=worker.mail)
    wait_for(lambda: len(worker.instance.records(event="start")) == 2, "two tasks at a time")
    for name in names:
        worker.instance.open(name)
    wait_for(lambda: worker.mail.counts()["succeeded"] == 3, "all tasks of the queue")
    assert worker.instance.lines("of queue mail: started, concurrent limit 2")
    assert worker.queue.counts()["queued"] == 1


def test_its_queues_win_over_the_environment_of_zope_conf(worker):
    """A buildout writes `environment-vars` there, for all processes of an instance."""
    conf = worker.instance.conf
    section = "<environment>\n  TASKQUEUE_CONSUMERS off\n</environment>\n"
    conf.write_text(f"{conf.read_text()}\n{section}")
    worker.start("--queue", "default")
    (task_id,) = worker.put("/@@fixture-record")
    wait_for(lambda: worker.queue.status(task_id).state == "succeeded", "the task")
    assert worker.instance.stop() == 0


def test_it_leaves_after_some_tasks(worker):
    """The others wait for the process that replaces it; no attempt of theirs is lost."""
    ids = worker.put("/@@fixture-record", 40)
    worker.spawn("--max-tasks", 10)
    assert worker.instance.wait() == 7
    ran = worker.runs()
    assert 10 <= len(ran) < 40
    assert set(ran.values()) == {1}
    assert worker.queue.counts()["queued"] == 40 - len(ran)
    assert worker.queue.counts()["running"] == 0
    worker.spawn("--burst")
    assert worker.instance.wait() == 0
    assert worker.runs() == dict.fromkeys(ids, 1)


def test_it_leaves_when_it_is_too_large(worker):
    """The task that takes the memory finishes."""
    worker.start("--max-memory", "250MB")
    (task_id,) = worker.put("/@@fixture-fat?megabytes:int=300")
    assert worker.instance.wait() == 7
    assert worker.queue.status(task_id).state == "succeeded"
    assert worker.instance.lines("MB of memory, limit 250 MB, takes no more tasks")


def test_probes(worker, redis_of_worker):
    """Alive from the beginning; ready when it runs tasks, and not while it cannot."""
    worker.spawn("--probe-port", worker.probe_port)
    worker.wait_for("answers probes")
    assert worker.probe("/live") == (200, "ok\n")
    assert worker.probe("/ready") == (503, "Zope is being loaded\n")
    assert worker.probe("/other")[0] == 404
    worker.wait_for("worker: ready")
    assert worker.probe("/ready") == (200, "ok\n")
    redis_of_worker.stop()
    wait_for(
        lambda: worker.probe("/ready") == (503, "queue default: storage unavailable\n"),
        "the probe to notice the outage",
    )
    assert worker.probe("/live") == (200, "ok\n")
    redis_of_worker.start()
    wait_for(lambda: worker.probe("/ready")[0] == 200, "the probe to notice its end")
    worker.instance.signal(signal.SIGTSTP)
    wait_for(lambda: worker.probe("/ready") == (503, "it takes no more tasks\n"), "the rest")


def test_systemd(worker, short):
    """READY when it runs tasks, WATCHDOG again and again, STOPPING; tasks are not told of it."""
    systemd = Systemd(short / "notify")
    worker.instance.environ |= {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "900000"}
    worker.start()
    for message in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
        systemd.wait_for(message)
    assert systemd.told[0] == "READY=1"
    worker.instance.signal(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert worker.instance.wait() == 0
    systemd.close()


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--queue", "mail:many"], 2, "queue: 'many' is no number of tasks; write mail:2"),
        (["--processes", "0"], 2, "processes: the number must be at least 1"),
        (["--queue", "nowhere"], 3, "the option queue of the worker: there is no queue 'nowhere'"),
        (["--max-memory", "1XB"], 2, "max_memory: "),
        (["port"], 2, "'port' is no variable of zope.ini; write key=value"),
    ],
)
def test_mistakes(worker, options, code, sentence):
    """One sentence, no traceback, and the documented code."""
    worker.spawn(*options)
    assert worker.instance.wait() == code
    assert sentence in worker.instance.console()
    assert "Traceback" not in worker.instance.console()


def test_a_file_that_is_not_there(worker):
    """The sentence names it."""
    worker.ini.unlink()
    worker.spawn()
    assert worker.instance.wait() == 3
    assert f"there is no file {worker.ini}; name the zope.ini" in worker.instance.console()


def test_a_mistake_in_zope_conf(worker):
    """The sentence names section and line."""
    conf = worker.instance.conf
    conf.write_text(conf.read_text().replace("lease 3", "lease never"))
    worker.spawn()
    assert worker.instance.wait() == 3
    assert "<taskqueue-server> (line " in worker.instance.console()
    assert "Traceback" not in worker.instance.console()


def test_a_database_that_cannot_be_opened(worker):
    """The log has the traceback; a service manager tries again."""
    (worker.instance.home / "var" / "Data.fs").write_text("this is no database")
    worker.spawn()
    assert worker.instance.wait() == 4
    assert worker.instance.lines("Zope could not be loaded, the process ends")


def test_no_consumer(worker):
    """A worker without work is a mistake."""
    conf = worker.instance.conf
    text = conf.read_text()
    start, end = text.index("<taskqueue-server>"), text.index("</taskqueue-server>")
    conf.write_text(text[:start] + text[end + len("</taskqueue-server>") :])
    worker.spawn()
    assert worker.instance.wait() == 3
    assert "this worker has no consumer; name a queue with --queue" in worker.instance.console()


def test_variables_of_the_file(worker):
    """key=value of the command line, as runwsgi takes them."""
    text = worker.ini.read_text()
    worker.ini.write_text(text.replace("/etc/zope.conf", "/etc/%(conf)s"))
    worker.start("conf=zope.conf")
    assert worker.instance.stop() == 0


def server_section(worker, **settings):
    lines = [f"{name} = {value}" for name, value in settings.items()]
    section = ["", "[server:worker]", "use = egg:collective.taskqueue#worker", *lines, ""]
    worker.ini.write_text(worker.ini.read_text() + "\n".join(section))
    runwsgi = Path(sys.executable).parent / "runwsgi"
    return [runwsgi, "--server-name", "worker"]


def test_runwsgi(worker):
    """`[server:worker]` has the same options; signals mean the same."""
    command = server_section(worker, queue="mail", **{"probe-port": worker.probe_port})
    worker.start(command=command)
    worker.put("/@@fixture-record", 3, queue=worker.mail)
    wait_for(lambda: worker.mail.counts()["succeeded"] == 3, "the tasks")
    assert worker.probe("/ready") == (200, "ok\n")
    assert worker.instance.stop() == 0
    assert worker.instance.lines("of queue mail: stopped")
    assert not worker.instance.lines("of queue default: started")


def test_runwsgi_with_a_mistake(worker):
    """The sentence names the option."""
    worker.spawn(command=server_section(worker, procesess=2))
    worker.instance.wait()
    assert "a worker has no option procesess (known: queue, burst," in worker.instance.console()


#: What the recipe does with `bin/instance taskqueue …`: see its `ctl.main`.
INSTANCE = """\
from importlib.metadata import entry_points
from types import SimpleNamespace
import os, sys
[found] = [each for each in entry_points(group="plone.recipe.zope2instance.ctl")
           if each.name == "taskqueue"]
options = SimpleNamespace(
    args=["taskqueue", "worker", *sys.argv[2:]], wsgi=sys.argv[1], configfile="zope.conf"
)
controller = SimpleNamespace(options=options, environment=lambda: dict(os.environ))
found.load()(controller, " ".join(options.args))
"""


def test_instance_becomes_the_command(worker, monkeypatch):
    """The command line of the process, with the files of the instance, before Zope is loaded."""
    seen = {}
    monkeypatch.setattr(os, "execve", lambda path, argv, environ: seen.update(argv=argv))
    monkeypatch.setattr(sys, "argv", ["instance", str(worker.ini), "--burst"])
    exec(INSTANCE, {})
    expected = ["-P", "-m", "collective.taskqueue", "--config", "zope.conf", "worker"]
    assert seen["argv"] == [sys.executable, *expected, str(worker.ini), "--burst"]


def test_the_code_needs_no_zope_to_be_imported():
    """A supervisor, and `--help`, load nothing of it but the reading of zope.ini."""
    source = """\
import sys
import collective.taskqueue.worker.supervisor, collective.taskqueue.cli.worker
print([name for name in ("ZODB", "ZPublisher", "OFS", "AccessControl") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
