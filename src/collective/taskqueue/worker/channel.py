"""What a supervisor and a worker process tell each other: lines over a pair of sockets.

The supervisor sends the options first, and then commands. The worker sends its health. Either
notices the end of the other: the socket is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.worker.health import Health
from collective.taskqueue.worker.options import WorkerOptions
from collective.taskqueue.worker.signals import Command
from contextlib import suppress
import json
import os
import socket
import threading


class Channel:
    """The end of the worker process; `descriptor` is the number of its socket."""

    def __init__(self, descriptor: int) -> None:
        # What tasks start must not keep it open.
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def options(self) -> WorkerOptions:
        """Return the options that the supervisor has sent; called once, first."""
        return WorkerOptions.loads(self._lines.readline())

    def listen(self, told: Callable[[Command], object]) -> None:
        """Pass commands on, in a thread of their own; STOP when the supervisor has ended."""

        def run() -> None:
            with suppress(OSError):
                for line in self._lines:
                    told(Command(line.strip()))
            told(Command.STOP)

        threading.Thread(target=run, name="taskqueue-supervisor", daemon=True).start()

    def report(self, health: Health, finished: int, failed: int) -> None:
        """Send the health of this process, and how many attempts and failed tasks it has had."""
        numbers = {"finished": finished, "failed": failed}
        line = json.dumps({"dead": health.dead, "unready": health.unready, **numbers})
        # If the supervisor has ended, `listen` stops this process; if it does not read right now,
        # it gets the next report.
        with suppress(OSError):
            self._socket.send(f"{line}\n".encode(), socket.MSG_DONTWAIT)
