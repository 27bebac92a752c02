"""A consumer process whose tasks are written down, line by line, as they start and end."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from crash.backends import storage_class
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4
import argparse
import logging
import os
import signal
import time


@dataclass(frozen=True)
class Line:
    """An attempt has started or ended, by the monotonic clock, the same in all processes."""

    event: str
    when: float
    pid: int
    url: str


class Journal:
    """A file that many processes append to; no line is torn."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[Line] = []
        self._read = 0
        path.touch()

    def write(self, event: str, url: str) -> None:
        """Append a line."""
        line = f"{event} {time.monotonic()} {os.getpid()} {url}\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def lines(self) -> list[Line]:
        """Return all lines, oldest first."""
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            # Of the last line only the beginning may be there yet.
            whole = stream.read().rpartition(b"\n")[0]
        for text in whole.decode().splitlines():
            event, when, pid, url = text.split()
            self._lines.append(Line(event, float(when), int(pid), url))
        self._read += len(whole) + bool(whole)
        return self._lines


def new_task(url: str, **fields: object) -> Task:
    """Return a task for the worker: its url says what it does, and for how long."""
    return Task(**{"id": str(uuid4()), "queue": "default", "url": url, **fields})  # type: ignore[arg-type]


def work(settings: QueueSettings, server: ServerSettings, journal: Journal) -> None:
    """Consume until killed. The last part of a url is the seconds that the task takes."""

    def perform(attempt: Attempt) -> Outcome:
        url = attempt.task.url
        started = time.time()
        journal.write("start", url)
        if url.startswith("/poison/"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(url.rpartition("/")[2]))
        journal.write("end", url)
        return Outcome(200, started=started, seconds=time.time() - started)

    Consumer(storage_class(settings)(settings), perform, server).run()


def main() -> None:
    """Work in an interpreter of its own."""
    parser = argparse.ArgumentParser(prog="crash.worker", description=__doc__)
    parser.add_argument("socket")
    parser.add_argument("name")
    parser.add_argument("lease", type=float)
    parser.add_argument("journal", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    settings = QueueSettings(type="redis", unix_socket_path=options.socket)
    server = ServerSettings(name=options.name, lease=options.lease)
    work(settings, server, Journal(options.journal))


if __name__ == "__main__":
    main()
