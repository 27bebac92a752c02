"""A worker process as its supervisor hears it; the process is not real."""

from collective.taskqueue.worker import child as module
from collective.taskqueue.worker.child import Child
from collective.taskqueue.worker.options import WorkerOptions
import os
import pytest
import socket


@pytest.fixture
def made(monkeypatch):
    """A child, and the end of the socket that its process would have."""
    passed = []

    class Process:
        def __init__(self, command, pass_fds, **more):
            passed.append(socket.socket(fileno=os.dup(pass_fds[0])))

    monkeypatch.setattr(module.subprocess, "Popen", Process)
    child = Child(WorkerOptions(ini="/zope.ini"))
    yield child, passed[0]
    child.close()
    passed[0].close()


def test_a_report_may_come_in_parts(made):
    child, process = made
    process.sendall(b'{"dead": [], "unready": ["it rests"], "finished": 3')
    child.read()
    assert not child.loaded
    process.sendall(b', "failed": 1}\n')
    child.read()
    assert (child.loaded, child.finished, child.failed) == (True, 3, 1)
    assert child.health.unready == ("it rests",)
    assert not child.silenced


@pytest.mark.parametrize("reads", [True, False])
def test_a_process_that_ends(made, reads):
    """The supervisor must not wait at its socket any more."""
    child, process = made
    if reads:
        process.recv(65536)
    process.close()
    child.read()
    assert child.silenced
