"""The units in examples/systemd: systemd takes them, and what they start does what they say."""

from __future__ import annotations

from acceptance.instance import wait_for
from acceptance.workers import Systemd
from acceptance.workers import Worker
from acceptance.workers import ZEO
from crash.databases import ZEOServer
from pathlib import Path
from services import RedisServer
from unitfiles import environment_file
from unitfiles import Unit
from unitfiles import UNITS
import pytest
import re
import shutil
import signal
import subprocess
import sys


BIN = Path(sys.executable).parent
HOME = "/srv/plone"
PASSWORD = "s3cret-of-redis"

#: In the folder of the credentials of a service.
SECRET = "redis-password"

UNIT_NAMES = ["plone.target", "plone-worker.service", "plone-web@8081.service"]


@pytest.fixture
def worker(tmp_path, short):
    """A worker whose zope.conf has no word of queues; its Redis wants a password."""
    redis = RedisServer(short, users={"default": PASSWORD}).start()
    zeo = ZEOServer(short).start()
    storage = ZEO.format(address=zeo.address)
    made = Worker(tmp_path, redis, storage, snippet="", password=PASSWORD)
    # Two processes that make the root of an empty database would be in conflict.
    made.instance.script("pass")
    yield made
    made.kill()
    zeo.stop()
    redis.stop()


@pytest.fixture
def units(tmp_path):
    """A copy of the units, with programs that there are on this machine."""
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    for path in folder.glob("*.service"):
        path.write_text(path.read_text().replace(f"{HOME}/venv/bin", str(BIN)))
    return folder


def environment(unit, worker, short):
    """Return what systemd sets for a service: files, variables and credentials."""
    (short / SECRET).write_text(f"{PASSWORD}\n")
    assert unit.words("LoadCredential") == [f"{SECRET}:/etc/plone/{SECRET}"]
    environ = {**environment_file(UNITS / "plone.env"), **unit.environment()}
    # %d is the folder of the credentials.
    environ = {name: value.replace("%d", str(short)) for name, value in environ.items()}
    environ["TASKQUEUE_CONFIG"] = str(worker.instance.conf)
    environ["TASKQUEUE_URL"] = f"unix://{short}/redis.sock"
    return environ


def command(unit, worker, key="ExecStart"):
    """Return the command of a unit, for this instance."""
    words = [word.replace(f"{HOME}/venv/bin", str(BIN)) for word in unit.words(key)]
    return [word.replace(HOME, str(worker.instance.home)) for word in words]


@pytest.mark.parametrize("name", UNIT_NAMES)
def test_systemd_takes_the_unit(units, name):
    """Without a warning: an unknown key is one."""
    if shutil.which("systemd-analyze") is None:
        raise RuntimeError("systemd-analyze is missing; type: apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"./{name}"],
        cwd=units,
        # Where the file for all units is found.
        env={"SYSTEMD_UNIT_PATH": f"{units}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_worker_of_the_unit(worker, short):
    """READY, WATCHDOG, a task, a rolling restart by the command for it, and its end."""
    unit = Unit("plone-worker.service")
    systemd = Systemd(short / "notify")
    assert (unit.one("Type"), unit.one("KillMode")) == ("notify", "mixed")
    microseconds = int(unit.one("WatchdogSec")) * 1_000_000
    worker.instance.environ |= environment(unit, worker, short) | {
        "NOTIFY_SOCKET": str(systemd.path),
        "WATCHDOG_USEC": str(microseconds),
    }
    worker.instance.spawn(*command(unit, worker))
    for message in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
        systemd.wait_for(message)
    assert worker.instance.lines("of queue default: started, concurrent limit 2")
    ids = worker.put("/@@fixture-record", 10)
    wait_for(lambda: worker.queue.counts()["succeeded"] == 10, "the tasks")
    pid = worker.instance.process.pid
    reload = [word.replace("$MAINPID", str(pid)) for word in unit.words("ExecReload")]
    subprocess.run(reload, check=True, timeout=60)
    worker.wait_for("takes no more tasks and leaves", number=2)
    ids += worker.put("/@@fixture-record", 10)
    wait_for(lambda: worker.queue.counts()["succeeded"] == 20, "the tasks of the new processes")
    assert worker.runs() == dict.fromkeys(ids, 1)
    assert len(worker.pids()) == 4
    # KillMode=mixed: the supervisor alone is told.
    worker.instance.signal(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert worker.instance.wait() == 0
    systemd.close()


def test_the_web_server_of_the_unit(worker, short):
    """It answers at the port that the name of the unit has, and runs no tasks."""
    unit = Unit("plone-web@.service")
    worker.instance.environ |= environment(unit, worker, short)
    # What the unit tells to write there.
    port = re.search(r"has the line: (port = \S+)", unit.path.read_text())[1]
    text = worker.ini.read_text()
    worker.ini.write_text(text.replace(f"port = {worker.instance.port}", port))
    words = [word.replace("%i", str(worker.instance.port)) for word in command(unit, worker)]
    worker.instance.spawn(*words)
    worker.instance.wait_until_up(worker.instance.port)
    (task_id,) = worker.instance.add({"url": "/@@fixture-record"}, path="")["ids"]
    assert worker.queue.status(task_id).state == "queued"
    assert not worker.instance.lines("of queue default: started")
