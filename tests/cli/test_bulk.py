"""A bulk change that is interrupted, and repeated; beside a consumer that runs the tasks."""

from cli.setup import COMMAND
from cli.setup import wait_for
from collections import Counter
import re
import signal
import subprocess


#: Tasks of each kind of storage: so many that a bulk change takes some seconds.
NUMBERS = {"redis-server": 3000, "sqlite": 500, "postgresql": 1000}


def start(setup, *words):
    return subprocess.Popen(
        [*COMMAND, *words],
        cwd=setup.folder,
        env=setup.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_interrupted_and_repeated(setup, kind):
    """Each task is retried once: not lost, not twice."""
    number = NUMBERS[kind]
    failed = setup.fail(number)
    with setup.consumer() as ran:
        process = start(setup, "retry", "--all", "--state", "failed", "--yes")
        wait_for(lambda: setup.storage.admin.counts()["failed"] < number, "the first page")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
        assert process.returncode == 130, (out, error)
        assert out == f"{number} tasks to retry\n"
        done, left = map(int, re.findall(r"\d+", error))
        assert error == (
            f"taskqueue: interrupted: {done} tasks queued again, {left} left;"
            " repeat the command to go on\n"
        )
        assert done > 0
        assert left > 0
        assert done + left == number
        text = setup.out("retry", "--all", "--state", "failed", "--yes")
        assert text == f"{left} tasks to retry\n{left} tasks queued again\n"
        wait_for(lambda: len(ran()) >= number, "all tasks to run")
        wait_for(lambda: setup.storage.admin.counts()["succeeded"] == number, "their ends")
        assert Counter(ran()) == Counter(failed)


def test_tasks_that_fail_again_are_tried_once(setup):
    """A consumer fails them as fast as they are retried; one command does not go in a circle."""
    failed = setup.fail(300, url="/fail")
    with setup.consumer() as ran:
        text = setup.out("retry", "--all", "--yes")
        assert text == "300 tasks to retry\n300 tasks queued again\n"
        wait_for(lambda: setup.storage.admin.counts()["failed"] == 300, "their ends")
        assert Counter(ran()) == Counter(failed)


def test_progress_in_a_terminal(setup):
    """A bar in a terminal, none elsewhere; then what was done."""
    setup.fail(250)
    shown = setup.terminal(80, "retry", "--all", "--yes")
    assert "100/250" in shown
    assert shown.endswith("250 tasks queued again\n")
