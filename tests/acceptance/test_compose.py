"""`make example-compose-local`: the processes of examples/compose, without Docker."""

from pathlib import Path
import os
import pytest
import subprocess
import sys


ROOT = Path(__file__).parents[2]

#: Seconds: Zope is started nine times. On an idle machine it takes less than ninety.
TIMEOUT = 1200.0


@pytest.mark.parametrize("database", ["relstorage", "zeo"])
def test_no_task_is_lost(database):
    """A worker is killed, workers and a web server are restarted; each task ran once."""
    folders = (ROOT / "tests", ROOT / "examples" / "demo")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "compose" / "local", "--tasks", "40"],
        env={**environ, "DATABASE": database},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all is as it should be" in done.stdout
    for worker in ("worker-1", "worker-2"):
        assert f"{worker} gets HUP" in done.stdout
    assert "began again after the kill" in done.stdout
    assert " ran once, 0 never, 0 more than once." in done.stdout
    assert done.stderr == ""
