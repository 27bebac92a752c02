"""A worker process as its supervisor sees it: spawned, told, heard, and buried."""

from __future__ import annotations

from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.health import Health
from collective.taskqueue.worker.options import WorkerOptions
from collective.taskqueue.worker.signals import Command
from contextlib import suppress
import json
import os
import signal
import socket
import subprocess
import sys
import time


#: Most bytes of one report that are kept until its line is complete.
LONGEST_LINE = 1_000_000

#: In Plone 6.1, the interpreter may begin with a namespace `collective` made by a file of
#: pkg_resources, which knows one folder only and need not be the one of an editable installation.
RUN = """\
import runpy, sys
sys.modules.pop("collective", None)
runpy.run_module("collective.taskqueue.worker", run_name="__main__")
"""


class Child:
    """One process; all times are monotonic."""

    def __init__(self, options: WorkerOptions) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # Without the current folder in its path: it need not be one of ours.
                [sys.executable, "-P", "-c", RUN, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                # Otherwise Ctrl-C would reach it twice: from the terminal and from us.
                start_new_session=True,
            )
        # Not as an argument, which everybody on this machine can read: it may have passwords.
        with suppress(OSError):
            self.socket.sendall(f"{options.dumps()}\n".encode())
        self.socket.setblocking(False)
        self.started = self.heard = time.monotonic()
        #: Whether it was told to end.
        self.ends = False
        self.killed = False
        #: Whether Zope is loaded.
        self.loaded = False
        self.health = Health(unready=("Zope is being loaded",))
        #: How many attempts have finished in it, and how many tasks have failed.
        self.finished = self.failed = 0
        #: Whether nothing more will come from it: it ends.
        self.silenced = False
        self._unread = b""

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def tell(self, command: Command) -> None:
        """Send a command; a process that has ended does not hear it."""
        self.ends = self.ends or command in (Command.STOP, Command.NOW, Command.LEAVE)
        with suppress(OSError):
            self.socket.send(f"{command.value}\n".encode())

    def kill(self) -> None:
        """End the process now."""
        self.killed = True
        self._process.send_signal(signal.SIGKILL)

    def read(self) -> None:
        """Take the reports that have come; never waits."""
        try:
            while data := self.socket.recv(65536):
                self._unread += data
            self.silenced = True
        except BlockingIOError:
            pass
        except OSError:
            # It has ended without reading all that it was told.
            self.silenced = True
        *lines, rest = self._unread.split(b"\n")
        self._unread = rest[-LONGEST_LINE:]
        if lines:
            report = json.loads(lines[-1])
            self.health = Health(tuple(report["dead"]), tuple(report["unready"]))
            self.finished, self.failed = report["finished"], report["failed"]
            self.loaded = True
            self.heard = time.monotonic()

    def code(self) -> int | None:
        """Return the exit code, or the negative number of a signal; None while it runs."""
        code = self._process.poll()
        if code is not None:
            self.read()
        return code

    def close(self) -> None:
        """Close our end of the socket; the process stops if it still runs."""
        self.socket.close()


def described(code: int) -> str:
    """Return in words how a process has ended."""
    if code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"
    with suppress(ValueError):
        return f"exit code {code}, {Exit(code).name.lower()}"
    return f"exit code {code}"
