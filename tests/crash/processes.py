"""Forked children: cheap enough to kill a thousand of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
import json
import logging
import os
import signal
import time


#: Seconds that a child may take to end; it takes fractions of one.
PATIENCE = 60.0


def fork(function: Callable[[], object]) -> int:
    """Run the function in a child, which ends with it; return its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            logging.exception("a child failed")
        finally:
            os._exit(status)
    return pid


def kill(pid: int) -> int:
    """End a child by SIGKILL; return how it ended."""
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


def wait(pid: int) -> int:
    """Return the exit code of a child, or the negative number of the signal it died of."""
    deadline = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise RuntimeError("a child hangs")
        time.sleep(0.001)


def in_child(function: Callable[[], Any]) -> Any:
    """Return what the function returns in a child: this process stays without threads."""
    result, into = os.pipe()

    def work() -> None:
        with os.fdopen(into, "w") as stream:
            json.dump(function(), stream)

    pid = fork(work)
    os.close(into)
    with os.fdopen(result) as stream:
        answer = stream.read()
    if wait(pid):
        raise RuntimeError(f"{function} failed, see above")
    return json.loads(answer)
