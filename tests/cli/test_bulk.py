"""A bulk change that is interrupted or killed, and repeated; beside a consumer of the tasks."""

from cli.setup import COMMAND
from cli.setup import wait_for
from collections import Counter
import os
import pty
import re
import signal
import subprocess


#: Tasks of each kind of storage: so many that a bulk change takes some seconds.
NUMBERS = {"redis-server": 3000, "sqlite": 2000, "postgresql": 1500}


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


def test_ctrl_c_in_a_terminal(setup, kind):
    """In the middle, as the bar shows; the filter holds, and what is left is retried once."""
    number = NUMBERS[kind]
    failed = setup.fail(number)
    others = setup.fail(20, url="/fail")
    retry = ("retry", "--all", "--state", "failed", "--url", "/view", "--yes")
    with setup.consumer() as ran:
        done, left, seen = interrupted_by_key(setup, number, *retry)
        assert 0 < seen <= done < number
        assert done + left == number
        text = setup.out(*retry)
        assert text == f"{left} tasks to retry\n{left} tasks queued again\n"
        wait_for(lambda: setup.storage.admin.counts()["succeeded"] == number, "their ends")
        assert Counter(ran()) == Counter(failed)
    assert {task.id for task in setup.storage.admin.tasks("failed")} == set(others)


def interrupted_by_key(setup, number, *words):
    """Press Ctrl-C when the bar shows progress; return what is done, left, and was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(setup.folder)
        os.execve(COMMAND[0], [*COMMAND, *words], setup.environ)
    shown, progress = "", None
    try:
        while progress is None:
            shown += os.read(terminal, 65536).decode()
            progress = re.search(rf"([1-9]\d*)/{number}", shown)
        os.write(terminal, b"\x03")
        while True:
            shown += os.read(terminal, 65536).decode()
    except OSError:
        # Linux says so when the process has ended.
        pass
    finally:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130, shown
    found = re.search(r"interrupted: (\d+) tasks queued again, (\d+) left", shown)
    return int(found[1]), int(found[2]), int(progress[1])


def test_killed_and_repeated(setup, kind):
    """Each task is retried once, by the process that is killed or by the next one."""
    number = NUMBERS[kind]
    failed = setup.fail(number)
    process = start(setup, "retry", "--all", "--state", "failed", "--yes")
    wait_for(lambda: setup.storage.admin.counts()["failed"] < number, "the first page")
    process.kill()
    process.communicate(timeout=120)
    counts = setup.storage.admin.counts()
    done, left = counts["queued"], counts["failed"]
    # What is changed at a time is changed as a whole.
    assert (done % 100, done + left) == (0, number)
    assert 0 < done < number
    with setup.consumer() as ran:
        text = setup.out("retry", "--all", "--state", "failed", "--yes")
        assert text == f"{left} tasks to retry\n{left} tasks queued again\n"
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
