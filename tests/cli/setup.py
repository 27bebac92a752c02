"""A folder with a zope.conf, the storage that it describes, and calls of the command line."""

from __future__ import annotations

from collective.taskqueue.cli.main import main
from collective.taskqueue.cli.settings import read
from collective.taskqueue.storages.factory import make_storage
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import new_task
from contextlib import chdir
from contextlib import contextmanager
from contextlib import redirect_stderr
from contextlib import redirect_stdout
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any
import fcntl
import json
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import time


HERE = Path(__file__).parent

#: Seconds until a process is taken to hang.
BOUND = 120.0

COMMAND = [sys.executable, "-m", "collective.taskqueue"]

CONF = """\
%define INSTANCE {folder}
instancehome $INSTANCE
%import collective.taskqueue
<zodb_db main>
    mount-point /
    <mappingstorage>
    </mappingstorage>
</zodb_db>
{sections}
"""

REASON = "status 502: Bad Gateway"


class Setup:
    """See the module."""

    def __init__(self, folder: Path, sections: str) -> None:
        self.folder = folder
        (folder / "etc").mkdir(parents=True)
        self.conf = folder / "etc" / "zope.conf"
        self.conf.write_text(CONF.format(folder=folder, sections=sections))
        self.environ = {**os.environ, "PYTHONWARNINGS": "ignore", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
        self.environ.pop("TASKQUEUE_CONFIG", None)

    @cached_property
    def storage(self) -> Any:
        """The storage of the queue `default`."""
        return make_storage(read(str(self.conf)).queues["default"])

    def close(self) -> None:
        """Close the storage."""
        if "storage" in vars(self):
            self.storage.close()

    # the command line

    def run(self, *words: str, input: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Call the command line in the folder of the zope.conf."""
        return subprocess.run(
            [*COMMAND, *words],
            cwd=self.folder,
            env={**self.environ, **environ},
            input=input,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )

    def here(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Like `run`, in this process: for the many calls that end before they open a storage."""
        out, error = StringIO(), StringIO()
        logger = logging.getLogger("collective.taskqueue")
        before = logger.handlers[:], logger.propagate, logger.level
        try:
            with chdir(self.folder), redirect_stdout(out), redirect_stderr(error):
                main([*words])
        except SystemExit as exc:
            code = int(exc.code or 0)
        finally:
            logger.handlers[:], logger.propagate, logger.level = before
        return subprocess.CompletedProcess(words, code, out.getvalue(), error.getvalue())

    def out(self, *words: str, code: int = 0, **more: str) -> str:
        """Call the command line; return what it prints. It has to end with that code."""
        done = self.run(*words, **more)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def json(self, *words: str, code: int = 0) -> Any:
        """Call the command line with ``--json``; return the document."""
        return json.loads(self.out(*words, "--json", code=code))

    def refused(self, *words: str, code: int, **more: str) -> str:
        """Call the command line, which has to say one sentence to standard error; return it."""
        done = self.run(*words, **more)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        [line] = done.stderr.splitlines()
        assert line.startswith("taskqueue: ")
        return line.removeprefix("taskqueue: ")

    def terminal(self, width: int, *words: str) -> str:
        """Call the command line in a terminal of this width; return what it shows."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        process = subprocess.Popen(
            [*COMMAND, *words], cwd=self.folder, env=self.environ, stdout=slave, stderr=slave
        )
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:
                # Linux says so when the process has ended.
                break
            shown += data
        os.close(master)
        assert process.wait(BOUND) == 0, shown
        return shown.decode().replace("\r\n", "\n")

    # tasks

    def add(self, number: int = 1, **fields: Any) -> list[Task]:
        """Queue tasks."""
        tasks = [new_task(**{"created": time.time(), **fields}) for _ in range(number)]
        for start in range(0, number, 500):
            add(self.storage, *tasks[start : start + 500])
        return tasks

    def fail(self, number: int = 1, **fields: Any) -> list[str]:
        """Queue tasks and let them fail; no other task may be waiting. Return their ids."""
        self.add(number, **fields)
        found: list[str] = []
        ends: list[Any] = []
        while ends or len(found) < number:
            _, leases = self.storage.complete_and_reserve(ends, "seed", 100)
            attempt = AttemptRecord(1, "seed", time.time(), 0.5, 502, REASON, "Traceback")
            ends = [(lease, Transition(FAILED, attempt, REASON)) for lease in leases]
            found += [lease.task.id for lease in leases]
        return found

    @contextmanager
    def consumer(self, *words: str) -> Any:
        """Start a process that runs the tasks; yields a function that returns the ids it ran."""
        record = self.folder / "ran"
        record.touch()
        process = subprocess.Popen(
            [sys.executable, HERE / "consume.py", self.conf, record, *words], env=self.environ
        )
        try:
            yield lambda: record.read_text().split("\n")[:-1]
        finally:
            process.terminate()
            process.wait(BOUND)


def wait_for(condition: Any, what: str) -> Any:
    """Return the first true result of `condition`; an error if there is none for too long."""
    deadline = time.monotonic() + BOUND
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return result
