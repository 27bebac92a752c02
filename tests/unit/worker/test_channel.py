"""What a worker process hears of its supervisor."""

from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.worker.channel import Channel
from collective.taskqueue.worker.health import Health
from collective.taskqueue.worker.options import WorkerOptions
from collective.taskqueue.worker.signals import Command
from queue import SimpleQueue
import json
import os
import pytest
import socket


@pytest.fixture
def supervisor():
    """The end of the supervisor, and the channel of the worker."""
    ours, theirs = socket.socketpair()
    # As the supervisor passes it on.
    theirs.set_inheritable(True)
    channel = Channel(theirs.detach())
    yield ours, channel
    ours.close()
    # The process would keep them until its end.
    channel._lines.close()
    channel._socket.close()


def test_options_and_commands(supervisor):
    """The end of the supervisor, however it comes, is a command to stop."""
    ours, channel = supervisor
    options = WorkerOptions(ini="/etc/zope.ini", variables={"a": "b"}, queue=("mail",))
    ours.sendall(f"{options.dumps()}\nrest\nresume\n".encode())
    assert channel.options() == options
    told = SimpleQueue()
    channel.listen(told.put)
    assert [told.get(timeout=BOUND) for _ in range(2)] == [Command.REST, Command.RESUME]
    ours.close()
    assert told.get(timeout=BOUND) is Command.STOP


def test_a_report(supervisor):
    ours, channel = supervisor
    channel.report(Health(("a",), ("b", "c")), 7, 5)
    expected = {"dead": ["a"], "unready": ["b", "c"], "finished": 7, "failed": 5}
    assert json.loads(ours.recv(1000)) == expected


def test_a_supervisor_that_does_not_read(supervisor):
    """The worker goes on: no report waits."""
    _, channel = supervisor

    def report():
        for _ in range(10_000):
            channel.report(Health(), 0, 0)

    aside(report).result(BOUND)


def test_what_tasks_start_does_not_inherit_it(supervisor):
    """Otherwise a program that a task has started could keep the socket open."""
    _, channel = supervisor
    assert not os.get_inheritable(channel._socket.fileno())
