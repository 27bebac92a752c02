"""`make bench` works; what it measures is read by people, on a quiet machine."""

from docutils.core import publish_doctree
from docutils.nodes import row
from pathlib import Path
import os
import re
import subprocess
import sys


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "costs.rst").read_text()

#: A quick run takes fifteen seconds, most of them for making a Plone site.
RUN_TIMEOUT = 180.0

ROWS = (
    "What",
    "writes an object, by a member, bare publisher loop",
    "writes an object, by a member, as a task",
    "writes an object, by a member, throughput",
    "no-op view, by a member, bare publisher loop",
    "no-op view, by a member, as a task",
    "no-op view, by a member, throughput",
    "no-op view, by Anonymous, bare publisher loop",
    "no-op view, by Anonymous, as a task",
    "no-op view, by Anonymous, throughput",
    "empty commit",
    "1 task per transaction",
    "10 tasks per transaction",
    "1000 tasks per transaction",
    "Huey",
    "Celery",
    "p50",
    "p95",
    "idle consumer",
)


SHARED = (
    "two worker processes",
    "backlog of 1000",
    "reserve+finish",
    "memory per waiting task",
    "throughput of a writing view",
    "throughput of a no-op view",
    "1 per transaction",
    "10 per transaction",
    "1000 per transaction",
    "Huey",
    "RQ",
    "Dramatiq",
    "Celery",
    "commit to first line",
    "commands of an idle consumer per minute",
)


def bench(*options, module="benchmarks", **environ):
    return subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environ},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )


def test_a_quick_run_prints_the_table_of_the_page():
    done = bench("--quick")
    assert done.returncode == 0, done.stderr
    rows = list(publish_doctree(done.stdout, settings_overrides={"report_level": 2}).findall(row))
    texts = [line.children[0].astext() for line in rows]
    assert len(texts) == len(ROWS)
    assert all(word in text for word, text in zip(ROWS, texts, strict=True)), texts
    assert all(line.children[1].astext() for line in rows)
    # The page quotes what is printed, line by line; only the figures are of another run.
    quoted = PAGE.partition("\n.. bench\n")[2].strip().split("\n\n")[0]
    lines = [line.children[0].astext() for line in publish_doctree(quoted).findall(row)]
    assert lines == [re.sub(r"in 0\.5 s$", "in 30 s", text) for text in texts]


def test_web_hooks_and_the_http_interface():
    """A line for each number of calls at once, and how long a client waits."""
    options = ("--number", "20", "--rounds", "1", "--requests", "5", "--no-peers")
    done = bench(*options, module="benchmarks.web")
    assert done.returncode == 0, done.stderr
    lines = [line.rpartition(": ")[0] for line in done.stdout.splitlines()[1:]]
    speeds = [f"web hooks per second, {number} at once, ours, on Redis" for number in (1, 10, 50)]
    assert lines == [*speeds, "POST /@tasks, p50", "POST /@tasks, p95"]


def test_what_is_measured_on_a_shared_queue():
    """An idle consumer asks now and then, and no more."""
    options = ("--backlog", "1000", "--size", "10", "--idle", "1", "--rounds", "1", "--slices", "1")
    done = bench(*options, module="benchmarks.shared")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(SHARED)
    assert all(word in line for word, line in zip(SHARED, lines, strict=True)), lines
    assert re.fullmatch(r".*per minute: \d+\.\d", lines[-1])


def test_what_slots_cost():
    """A line for each variant, and the ratio; one slice says nothing about the goal."""
    done = bench("--slices", "1", "--storage", "Redis", module="benchmarks.slots")
    assert not done.stderr
    lines = [re.fullmatch(r"Redis {7}(.+?) +\d\.\d{3}", line) for line in done.stdout.splitlines()]
    assert [line.group(1) for line in lines] == [
        "without slots",
        "with slots",
        "with slots, completions wait 2 times as long",
        "with slots, completions wait 5 times as long",
        "with ÷ without slots (≥ 0.98)",
    ]


def test_what_threads_earn():
    """The lines of the page, whose figures are of another run, and how busy the machine is."""
    done = bench("--rounds", "1", "--size", "2", module="benchmarks.threads")
    assert done.returncode == 0, done.stderr
    *lines, load = done.stdout.splitlines()
    page = (ROOT / "docs" / "explanation" / "processes.rst").read_text()
    quoted = page.partition("\n.. threads\n")[2].strip().split("\n\n")[0]
    rows = [each.children[0].astext() for each in publish_doctree(quoted).findall(row)]
    assert [line.rpartition(": ")[0] for line in lines] == rows[1:]
    assert re.fullmatch(r"load average: \d+\.\d, \d+ cores", load)


def test_without_redis_it_says_what_to_type(tmp_path):
    done = bench(PATH=str(tmp_path))
    assert done.returncode == 1
    assert "apt-get install redis-server" in done.stderr
    assert not done.stdout
