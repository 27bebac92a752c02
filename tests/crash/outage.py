"""Outages of Redis under load: one writer, two workers, and a server that will not rest.

The writer notes each transaction whose commit has returned. In the end each of those
tasks, and no other, has run, and has run once: every outage is shorter than a lease.

    python -m crash.outage --rounds 10
"""

from __future__ import annotations

from collections import Counter
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from crash.processes import fork
from crash.processes import kill
from crash.processes import wait
from crash.worker import Journal
from crash.worker import work
from functools import partial
from pathlib import Path
from services import RedisServer
from tempfile import TemporaryDirectory
from typing import Any
import argparse
import json
import logging
import os
import redis
import signal
import sys
import time
import transaction


#: Seconds of a lease; longer than all outages together with the pauses that follow them.
LEASE = 60.0

#: Seconds that the server is gone, or frozen.
OUTAGE = 2.0

#: Seconds between two outages.
INTERVAL = 1.0

#: Seconds that anything may take which should take moments.
PATIENCE = 60.0


class Harness:
    """The processes, and what they have written down."""

    def __init__(self, folder: Path) -> None:
        self._server = RedisServer(folder, persistent=True).start()
        self._settings = QueueSettings(
            type="redis", unix_socket_path=self._server.socket, max_finished=1_000_000
        )
        self._journal = Journal(folder / "journal")
        self._committed = Journal(folder / "committed")
        self._slowest = 0.0

    def run(self, rounds: int) -> dict[str, Any]:
        """Let every kind of outage happen so many times; return the totals."""
        told, tell = os.pipe()
        writer = fork(lambda: self._write(told))
        workers = [fork(partial(self._work, name)) for name in ("one", "two")]
        outages = [self._restart, self._crash, self._freeze, self._disconnect, self._flush_scripts]
        try:
            for _ in range(rounds):
                for outage in outages:
                    time.sleep(INTERVAL)
                    outage()
                    self._await_return(time.monotonic())
            os.write(tell, b".")
            ended = wait(writer)
            if ended:
                raise RuntimeError(f"the writer ended with {ended}")
            self._drain()
        finally:
            for worker in workers:
                kill(worker)
            self._server.stop()
        return {"outages": rounds * len(outages), **self._judge()}

    # outages

    def _restart(self) -> None:
        self._server.stop()
        time.sleep(OUTAGE)
        self._server.start()

    def _crash(self) -> None:
        self._server.stop(signal.SIGKILL)
        time.sleep(OUTAGE)
        self._server.start()

    def _freeze(self) -> None:
        os.kill(self._server.process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
        time.sleep(OUTAGE)
        os.kill(self._server.process.pid, signal.SIGCONT)  # type: ignore[union-attr]

    def _disconnect(self) -> None:
        with redis.Redis(unix_socket_path=self._server.socket) as client:
            client.client_kill_filter(_type="normal", skipme=True)

    def _flush_scripts(self) -> None:
        with redis.Redis(unix_socket_path=self._server.socket) as client:
            client.script_flush()

    def _await_return(self, since: float) -> None:
        deadline = since + PATIENCE
        while True:
            for line in reversed(self._journal.lines()):
                if line.when < since:
                    break
                if line.event == "start":
                    self._slowest = max(self._slowest, line.when - since)
                    return
            if time.monotonic() > deadline:
                raise RuntimeError("the consumers do not come back")
            time.sleep(0.005)

    # processes

    def _work(self, name: str) -> None:
        work(self._settings, ServerSettings(name=name, lease=LEASE), self._journal)

    def _write(self, told: int) -> None:
        os.set_blocking(told, False)
        queue = TaskQueue(self._settings, RedisStorage(self._settings))
        number = 0
        while not _told(told):
            number += 1
            for task in range(3):
                queue.add(f"/{number}/{task}/0.001")
            try:
                transaction.commit()
                self._committed.write("committed", f"/{number}")
            except StorageUnavailable:
                transaction.abort()
            time.sleep(0.01)
        outbox.flush(PATIENCE)

    def _drain(self) -> None:
        storage = RedisStorage(self._settings)
        deadline = time.monotonic() + PATIENCE
        while any(storage.admin.counts()[state] for state in ("queued", "running", "scheduled")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"tasks stay behind: {storage.admin.counts()}")
            time.sleep(0.01)

    def _judge(self) -> dict[str, Any]:
        committed = {f"{i.url}/{task}/0.001" for i in self._committed.lines() for task in range(3)}
        runs = Counter(line.url for line in self._journal.lines() if line.event == "end")
        for url in committed ^ set(runs):
            print(url, "lost" if url in committed else "ghost", file=sys.stderr)
        return {
            "committed": len(committed),
            "lost": len(committed - set(runs)),
            "ghosts": len(set(runs) - committed),
            "doubled": sum(number > 1 for number in runs.values()),
            "slowest return": round(self._slowest, 2),
        }


def _told(descriptor: int) -> bool:
    try:
        return bool(os.read(descriptor, 1))
    except BlockingIOError:
        return False


def main() -> int:
    """Print the totals as JSON; 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="crash.outage", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    with TemporaryDirectory() as folder:
        totals = Harness(Path(folder)).run(options.rounds)
    print(json.dumps(totals))
    return 1 if totals["lost"] or totals["ghosts"] or totals["doubled"] else 0


if __name__ == "__main__":
    sys.exit(main())
