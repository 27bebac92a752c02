"""The units in examples/systemd: systemd takes them, and what they start does what they say."""

from __future__ import annotations

from acceptance.instance import wait_for
from acceptance.workers import PASSWORD
from acceptance.workers import Systemd
from pathlib import Path
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

#: In the folder of the credentials of a service.
SECRET = "redis-password"

UNIT_NAMES = ["plone.target", "plone-worker.service", "plone-web@8081.service"]


@pytest.fixture
def units(tmp_path):
    """A copy of the units, with programs that there are on this machine."""
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    for path in folder.glob("*.service"):
        path.write_text(path.read_text().replace(f"{HOME}/venv/bin", str(BIN)))
    return folder


def environment(unit, deployed, short):
    """Return what systemd sets for a service: files, variables and credentials."""
    (short / SECRET).write_text(f"{PASSWORD}\n")
    assert unit.words("LoadCredential") == [f"{SECRET}:/etc/plone/{SECRET}"]
    environ = {**environment_file(UNITS / "plone.env"), **unit.environment()}
    # %d is the folder of the credentials.
    environ = {name: value.replace("%d", str(short)) for name, value in environ.items()}
    environ["TASKQUEUE_CONFIG"] = str(deployed.instance.conf)
    environ["TASKQUEUE_URL"] = f"unix://{short}/redis.sock"
    return environ


def command(unit, deployed, key="ExecStart"):
    """Return the command of a unit, for this instance."""
    words = [word.replace(f"{HOME}/venv/bin", str(BIN)) for word in unit.words(key)]
    return [word.replace(HOME, str(deployed.instance.home)) for word in words]


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


def test_the_worker_of_the_unit(deployed, short):
    """READY, WATCHDOG, a task, a rolling restart by the command for it, and its end."""
    unit = Unit("plone-worker.service")
    systemd = Systemd(short / "notify")
    assert (unit.one("Type"), unit.one("KillMode")) == ("notify", "mixed")
    microseconds = int(unit.one("WatchdogSec")) * 1_000_000
    deployed.instance.environ |= environment(unit, deployed, short) | {
        "NOTIFY_SOCKET": str(systemd.path),
        "WATCHDOG_USEC": str(microseconds),
    }
    deployed.instance.spawn(*command(unit, deployed))
    for message in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
        systemd.wait_for(message)
    assert deployed.instance.lines("of queue default: started, concurrent limit 2")
    ids = deployed.put("/@@fixture-record", 10)
    wait_for(lambda: deployed.queue.counts()["succeeded"] == 10, "the tasks")
    pid = deployed.instance.process.pid
    reload = [word.replace("$MAINPID", str(pid)) for word in unit.words("ExecReload")]
    subprocess.run(reload, check=True, timeout=60)
    deployed.wait_for("takes no more tasks and leaves", number=2)
    ids += deployed.put("/@@fixture-record", 10)
    wait_for(lambda: deployed.queue.counts()["succeeded"] == 20, "the tasks of the new processes")
    assert deployed.runs() == dict.fromkeys(ids, 1)
    assert len(deployed.pids()) == 4
    # KillMode=mixed: the supervisor alone is told.
    deployed.instance.signal(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert deployed.instance.wait() == 0
    systemd.close()


def test_the_web_server_of_the_unit(deployed, short):
    """It answers at the port that the name of the unit has, and runs no tasks."""
    unit = Unit("plone-web@.service")
    deployed.instance.environ |= environment(unit, deployed, short)
    # What the unit tells to write there.
    port = re.search(r"has the line: (port = \S+)", unit.path.read_text())[1]
    text = deployed.ini.read_text()
    deployed.ini.write_text(text.replace(f"port = {deployed.instance.port}", port))
    words = [word.replace("%i", str(deployed.instance.port)) for word in command(unit, deployed)]
    deployed.instance.spawn(*words)
    deployed.instance.wait_until_up(deployed.instance.port)
    (task_id,) = deployed.instance.add({"url": "/@@fixture-record"}, path="")["ids"]
    assert deployed.queue.status(task_id).state == "queued"
    assert not deployed.instance.lines("of queue default: started")
