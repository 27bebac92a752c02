"""Crash injection: what the package promises, while processes and servers die."""

from __future__ import annotations

from pathlib import Path
from typing import Any
import json
import os
import subprocess
import sys


#: Seconds that one run may take on a busy machine.
PATIENCE = 600.0

_TESTS = Path(__file__).parent.parent


def run(module: str, *options: object, fails: bool = False) -> Any:
    """Run a harness in an interpreter of its own, without our threads; return its totals."""
    command, environ = _command(module, *options)
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == int(fails), done.stdout + done.stderr
    return json.loads(done.stdout)


def worker_command(*options: object) -> tuple[list[str], dict[str, str]]:
    """Return how to start a worker, and in which environment."""
    return _command("worker", *options)


def _command(module: str, *options: object) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", f"crash.{module}", *map(str, options)]
    return command, {**os.environ, "PYTHONPATH": str(_TESTS)}
