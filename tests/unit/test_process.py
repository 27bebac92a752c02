"""Whether another process is dead: its tasks are taken over only if that is certain."""

from collective.taskqueue.storages import processes
from pathlib import Path
import os
import pytest
import subprocess
import sys


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def hidden(monkeypatch):
    """The processes of others cannot be seen: what a mount option of /proc does."""
    read_text = Path.read_text

    def read(path, *args, **kwargs):
        if path.name == "stat":
            raise FileNotFoundError(path)
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read)


def name_of(pid):
    """The identity of a process, as it would give it itself."""
    parts = processes.identity().split("|")
    return "|".join((*parts[:-2], str(pid), processes._started(pid)))


def test_a_process_that_lives(child):
    assert not processes.is_dead(name_of(child.pid))


def test_a_process_that_was_killed(child):
    """Already before its parent has heard of it."""
    name = name_of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.is_dead(name)
    child.wait()
    assert processes.is_dead(name)


def test_another_process_with_the_same_number():
    name = processes.identity()
    assert not processes.is_dead(name)
    assert processes.is_dead(f"{name}1")


def test_a_process_that_is_hidden(child, request):
    name = name_of(child.pid)
    request.getfixturevalue("hidden")
    assert not processes.is_dead(name)
    child.kill()
    child.wait()
    assert processes.is_dead(name)


def test_a_process_of_another_user(hidden, monkeypatch):
    def kill(pid, number):
        raise PermissionError(pid)

    name = processes.identity()
    monkeypatch.setattr(os, "kill", kill)
    assert not processes.is_dead(name)


def test_a_machine_without_a_name(monkeypatch):
    """Without a name of the machine the process may be anywhere."""
    monkeypatch.setattr(processes, "_machine", lambda: "")
    assert not processes.is_dead("|999999999|nonce")
