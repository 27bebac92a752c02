"""How long `taskqueue stats` takes, of an empty queue on each storage.

The time of the processor counts: on a machine that has nothing else to do, the command takes
about as long, and on a busy one the time on the clock says how busy it is. The clock is shown, too.
"""

from benchmarks.peers import postgres_server
from benchmarks.peers import redis_server
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.sql import SqlStorage
from contextlib import ExitStack
from pathlib import Path
from resource import getrusage
from resource import RUSAGE_CHILDREN
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
import argparse
import os
import subprocess
import sys


#: Seconds.
MAX_START = 2.0

CONF = """\
instancehome {folder}
%import collective.taskqueue
<zodb_db main>
  mount-point /
  <mappingstorage>
  </mappingstorage>
</zodb_db>
<taskqueue>
  url {url}
</taskqueue>
"""


def measure(url: str, folder: Path, number: int) -> tuple[float, float]:
    """Return the seconds of the processor and of the clock that one call takes, medians."""
    conf = folder / "zope.conf"
    conf.write_text(CONF.format(folder=folder, url=url))
    command = [sys.executable, "-W", "ignore", "-m", "collective.taskqueue"]
    command += ["--config", str(conf), "stats"]
    # The first one compiles the modules.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = [_once(command) for _ in range(number)]
    return median(cpu for cpu, _ in found), median(clock for _, clock in found)


def _once(command: list[str]) -> tuple[float, float]:
    before, started = _processor(), perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _processor() - before, perf_counter() - started


def _processor() -> float:
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def urls(folder: Path, stack: ExitStack) -> Iterator[tuple[str, str]]:
    """Yield the name and the url of an empty queue of each storage."""
    yield "Redis", f"unix://{stack.enter_context(redis_server())}"
    server = stack.enter_context(postgres_server())
    for name, url in (("SQLite", f"sqlite:///{folder}/queue.sqlite"), ("PostgreSQL", server)):
        storage = SqlStorage(QueueSettings(type="sql", url=url))
        storage.admin.check()
        storage.close()
        yield name, url


def main() -> int:
    """Print one line for each figure; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.start", description=__doc__)
    parser.add_argument("--number", type=int, default=7, help="how often the command is called")
    options = parser.parse_args()
    missed = False
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        for name, url in urls(folder, stack):
            processor, clock = measure(url, folder, options.number)
            missed = missed or processor > MAX_START
            print(
                f"{name}: taskqueue stats (≤ {MAX_START:g} s): {processor:.2f} s of the processor"
                f" ({clock:.2f} s on the clock, load {os.getloadavg()[0]:.1f})",
                flush=True,
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
