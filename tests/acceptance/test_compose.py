"""`make example-compose-local`: the processes of examples/compose, without Docker."""

from pathlib import Path
import os
import pytest
import subprocess
import sys


ROOT = Path(__file__).parents[2]

#: Seconds: Zope is started nine times, which takes about eighty on an idle machine.
TIMEOUT = 1200.0


def run(*options, **environ):
    """Run the example; return its exit code, and what it prints."""
    folders = (ROOT / "tests", ROOT / "examples" / "demo")
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "compose" / "local", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        out, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        # So that it ends its processes.
        process.terminate()
        out, _ = process.communicate(timeout=TIMEOUT)
    return process.returncode, out


@pytest.mark.parametrize("database", ["relstorage", "zeo"])
def test_no_task_is_lost(database):
    """A worker is killed, workers and a web server are restarted; each task ran once."""
    code, out = run("--tasks", "40", DATABASE=database)
    assert code == 0, out
    assert "\nall is as it should be\n" in out
    for words in ("worker-1 is killed", "worker-1 gets HUP", "worker-2 gets HUP"):
        assert words in out
    assert "The queue: 40 succeeded, 0 failed." in out
    assert "The database: 40 ran once, 0 never, 0 more than once." in out


def test_an_unknown_database():
    """One sentence, and nothing is started."""
    code, out = run(DATABASE="oracle")
    assert code == 1
    assert out == "DATABASE is one of relstorage, zeo, not 'oracle'.\n"
