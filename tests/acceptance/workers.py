"""Workers as processes, their queue in a private Redis, and what else they need."""

from __future__ import annotations

from acceptance.instance import FILE_STORAGE
from acceptance.instance import Instance
from acceptance.instance import WAIT_TIMEOUT
from acceptance.instance import ZOPE_ZCML
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import Task
from pathlib import Path
from ports import free_port
from services import RedisServer
from uuid import uuid4
import contextlib
import http.client
import os
import re
import signal
import socket
import sys
import time


SNIPPET = """\
%import collective.taskqueue
<taskqueue>
  type redis
  unix_socket_path $(FIXTURE_REDIS)
</taskqueue>
<taskqueue-server>
  lease 3
  grace 600
</taskqueue-server>
<taskqueue>
  queue mail
  type redis
  unix_socket_path $(FIXTURE_REDIS)
</taskqueue>
"""

#: Of the Redis server of the examples of deployments.
PASSWORD = "s3cret-of-redis"

#: What any process of the fixture is called that a test starts as a worker.
COMMAND = (sys.executable, "-c", "from collective.taskqueue.cli.worker import worker; worker()")

ZEO = """\
<zodb_db main>
    mount-point /
    <zeoclient>
        server {address}
    </zeoclient>
</zodb_db>"""

RELSTORAGE = """\
%import relstorage
<zodb_db main>
    mount-point /
    <relstorage>
        <sqlite3>
            data-dir {folder}
        </sqlite3>
    </relstorage>
</zodb_db>"""


class Worker:
    """A worker of bare Zope; tasks are put into its queue from here."""

    def __init__(
        self,
        home: Path,
        redis: RedisServer,
        storage: str = FILE_STORAGE,
        snippet: str = SNIPPET,
        password: str = "",
    ) -> None:
        environ = {"FIXTURE_REDIS": redis.socket}
        self.instance = Instance(home, snippet, ZOPE_ZCML, storage, environ)
        self.ini = home / "etc" / "zope.ini"
        self._where = {"unix_socket_path": redis.socket, "password": password}
        self.queue = self._queue("default")
        self.mail = self._queue("mail")
        self.probe_port = free_port()

    def _queue(self, name: str) -> TaskQueue:
        settings = QueueSettings(queue=name, type="redis", **self._where)
        return TaskQueue(settings, RedisStorage(settings))

    def start(self, *options: object, command: Sequence[object] = COMMAND) -> Worker:
        """Start the command and wait until it has loaded Zope, and its processes have."""
        self.spawn(*options, command=command)
        self.wait_for("worker: ready, all" if "--processes" in options else "worker: ready")
        return self

    def spawn(self, *options: object, command: Sequence[object] = COMMAND) -> None:
        """Start the command, and do not wait for it."""
        self.instance.spawn(*command, self.ini, *options)

    def put(self, url: str, number: int = 1, queue: TaskQueue | None = None, **more) -> list[str]:
        """Queue tasks that call this view of the root; return their ids."""
        queue = queue or self.queue
        ids = [str(uuid4()) for _ in range(number)]
        for task_id in ids:
            queue.put(Task(id=task_id, queue=queue.name, url=url, created=time.time(), **more))
        return ids

    def wait_for(self, *words: str, number: int = 1) -> list[str]:
        """Wait until so many lines of the log have these words, and return them."""
        process = self.instance.process
        deadline = time.monotonic() + WAIT_TIMEOUT
        while True:
            over = process.poll() is not None or time.monotonic() > deadline
            lines = self.instance.lines(*words)
            if len(lines) >= number:
                return lines
            assert not over, (words, lines, process.poll(), self.instance.console())
            time.sleep(0.02)

    def runs(self) -> dict[str, int]:
        """Return how often each task has run."""
        found: dict[str, int] = {}
        for item in self.instance.records():
            if item.get("id"):
                found[item["id"]] = found.get(item["id"], 0) + 1
        return found

    def pids(self) -> list[int]:
        """Return the processes that a supervisor has started, oldest first."""
        lines = self.instance.lines("worker: process", "started")
        return [int(re.search(r"process (\d+) started", line)[1]) for line in lines]

    def probe(self, path: str) -> tuple[int, str]:
        """Return status and body of an answer of the probe."""
        connection = http.client.HTTPConnection("127.0.0.1", self.probe_port, timeout=WAIT_TIMEOUT)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def kill(self) -> None:
        """End all processes for sure; for teardown."""
        self.instance.kill()
        for pid in self.pids():
            # Each is the leader of a session of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.queue.storage.close()
        self.mail.storage.close()


class Systemd:
    """The socket that systemd gives a service, and what it is told there."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(WAIT_TIMEOUT)
        self.path = path
        self.told: list[str] = []

    def wait_for(self, message: str) -> None:
        """Wait until a message comes, after those that were waited for before."""
        while True:
            self.told.append(self._socket.recv(4096).decode())
            if self.told[-1] == message:
                return

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def exists(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
