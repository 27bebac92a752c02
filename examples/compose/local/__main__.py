"""The processes of docker-compose.yml, without Docker.

Starts Redis, PostgreSQL or ZEO, two web servers and two workers in private folders, from the
commands and the environment of docker-compose.yml. Queues tasks over HTTP, kills a worker,
restarts the workers one after the other, restarts a web server, and counts in the database.
"""

from argparse import ArgumentParser
from cluster import Cluster
from collections import Counter
from container import Container
from pathlib import Path
from show import CREATE_SITE
from show import Site
from show import SITE_ZCML
from typing import Any
from visitor import Visitor
import json
import os
import shutil
import signal
import sys
import tempfile
import time


DATABASES = ("relstorage", "zeo")

#: What is the same in each container, besides the files of the image.
FILES = {"etc/site.zcml": SITE_ZCML, "scripts/create_site.py": CREATE_SITE}

#: What is queued at once, before a worker is killed: each of the workers runs two at a time.
BURST = {"number": 12, "milliseconds": 2000}

#: How often a worker is killed at most, until it has run a task at that moment.
KILLS = 5

#: The exit code of a worker that was told by HUP.
REPLACE = 7


def main() -> int:
    """Run everything; the exit code is 0 if no task was lost and none has run twice."""
    parser = ArgumentParser(prog="make example-compose-local", description=__doc__)
    parser.add_argument("--tasks", type=int, default=200, help="how many; default: 200")
    number = parser.parse_args().tasks
    database = os.environ.get("DATABASE") or DATABASES[0]
    if database not in DATABASES:
        sys.exit(f"DATABASE is one of {', '.join(DATABASES)}, not {database!r}.")
    for each in (signal.SIGTERM, signal.SIGHUP):
        # Workers have to hear HUP, also if this program was started by nohup.
        signal.signal(each, lambda *args: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="compose-"))
    cluster = Cluster(folder, database)
    story = Story(cluster)
    succeeded, keep = False, True
    try:
        succeeded = story.play(number)
        keep = not succeeded
    except RuntimeError as exc:
        story.tell(str(exc))
    except KeyboardInterrupt:
        keep = False
        story.tell("Interrupted; ending all processes ...")
    finally:
        cluster.stop()
        if keep:
            story.tell(f"Look into the logs: {folder}/*/log")
        else:
            shutil.rmtree(folder)
    return 0 if succeeded else 1


class Story:
    """What happens, act by act; each line begins with the seconds since the beginning."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._began = time.monotonic()

    def play(self, number: int) -> bool:
        """Play all acts with so many tasks; return whether each has run exactly once."""
        self._start()
        visitor = Visitor([Site(port) for port in self._cluster.ports], number)
        try:
            visitor.start()
            self.tell(f"A visitor queues {number} tasks over HTTP, at both web servers in turn.")
            self._kill(self._cluster.workers[0], visitor)
            self._roll(visitor)
            self._restart(self._cluster.webs[0], visitor)
            visitor.hurry()
        finally:
            visitor.leave()
        return self._count(visitor)

    def tell(self, text: str) -> None:
        """Print a line."""
        print(f"{time.monotonic() - self._began:5.1f} s  {text}", flush=True)

    def _start(self) -> None:
        cluster = self._cluster
        cluster.start_servers()
        self.tell("Redis and the server of the ZODB run. Creating a Plone site ...")
        cluster.run_once("site", FILES)
        self.tell("Starting two web servers and two workers ...")
        cluster.start_webs(FILES)
        cluster.start_workers(FILES)
        cluster.until(cluster.healthy, "all health checks succeed")
        self.tell("All health checks succeed. taskqueue check:")
        print(cluster.webs[0].execute("bin/taskqueue", "check").rstrip(), flush=True)

    def _kill(self, worker: Container, visitor: Visitor) -> None:
        """Kill a worker that runs tasks."""
        for _ in range(KILLS):
            visitor.queue(**BURST)
            self._until_tasks_run(visitor)
            pid = worker.process.pid
            worker.signal(signal.SIGKILL)
            worker.process.wait()
            lost = self._running(pid)
            self.tell(f"{worker.name} is killed; it ran {lost} tasks. It starts again ...")
            self._until_it_is_back(worker, -signal.SIGKILL)
            if lost:
                return
        raise RuntimeError(f"{worker.name} was killed {KILLS} times, and never ran a task then")

    def _until_tasks_run(self, visitor: Visitor) -> None:
        before = sum(visitor.ledger().values())
        self._cluster.until(lambda: sum(visitor.ledger().values()) > before, "tasks run")

    def _roll(self, visitor: Visitor) -> None:
        for worker in self._cluster.workers:
            worker.signal(signal.SIGHUP)
            self.tell(f"{worker.name} gets HUP: its tasks finish, it ends, and starts again ...")
            self._until_it_is_back(worker, REPLACE)

    def _until_it_is_back(self, worker: Container, exit_code: int) -> None:
        ends = worker.ends
        self._cluster.until(lambda: worker.ends > ends, f"{worker.name} ends")
        if worker.exit_code != exit_code:
            raise RuntimeError(f"{worker.name} has ended with exit code {worker.exit_code}")
        self._cluster.until(worker.healthy, f"{worker.name} is healthy")

    def _restart(self, web: Container, visitor: Visitor) -> None:
        self.tell(f"{web.name} is restarted; the visitor goes to the other one ...")
        web.stop()
        web.start()
        self._cluster.until(web.healthy, f"{web.name} is healthy")
        self.tell(f"{web.name} answers again. {visitor.queued} tasks are queued.")

    def _count(self, visitor: Visitor) -> bool:
        """Wait until no task waits or runs, and compare the queue with the database."""
        counts: dict[str, int] = {}

        def idle() -> bool:
            counts.update(self._counts())
            return not (counts["queued"] or counts["running"] or counts["scheduled"])

        self.tell(f"All {visitor.queued} tasks are queued. Waiting until none is left ...")
        self._cluster.until(idle, "the queue is empty")
        ledger = visitor.ledger()
        times = Counter(ledger.values())
        more = sum(times[each] for each in times if each > 1)
        self.tell(f"Over HTTP: {visitor.queued} tasks queued, {visitor.unanswered} without answer.")
        self.tell(f"The queue: {counts['succeeded']} succeeded, {counts['failed']} failed.")
        self.tell(f"Of these, {self._begun_again()} began again after the kill.")
        self.tell(f"The database: {times[1]} ran once, {times[0]} never, {more} more than once.")
        complete = visitor.total <= visitor.queued <= len(ledger) == counts["succeeded"]
        return complete and len(ledger) == times[1]

    def _counts(self) -> dict[str, int]:
        return self._queue()["counts"]

    def _running(self, pid: int) -> int:
        """Return how many tasks a process runs, or ran when it was killed."""
        consumers = [each for each in self._queue()["consumers"] if each["pid"] == pid]
        return sum(len(each["running"]) for each in consumers)

    def _begun_again(self) -> int:
        limit = str(10**6)
        tasks = self._taskqueue("tasks", "--limit", limit)
        return sum(task["attempts"] > 1 for task in tasks)

    def _queue(self) -> dict[str, Any]:
        (queue,) = self._taskqueue("stats")
        return queue

    def _taskqueue(self, *words: str) -> list[dict[str, Any]]:
        text = self._cluster.webs[0].execute("bin/taskqueue", *words, "--json")
        return json.loads(text)["items"]


if __name__ == "__main__":
    sys.exit(main())
