"""What systemd is told, and what it is not."""

from collective.taskqueue.worker.notifier import forget
from collective.taskqueue.worker.notifier import Notifier
from contextlib import closing
import os
import pytest
import socket
import tempfile
import uuid


@pytest.fixture(params=["file", "abstract"])
def systemd(request):
    """The address of a socket as systemd writes it, and the socket."""
    folder = tempfile.mkdtemp()
    name = f"{folder}/notify" if request.param == "file" else f"@{uuid.uuid4()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(name if name[0] == "/" else f"\0{name[1:]}")
        receiver.settimeout(10)
        yield name, receiver


def test_messages(systemd):
    name, receiver = systemd
    Notifier({"NOTIFY_SOCKET": name}).send("READY=1", "STATUS=ready")
    assert receiver.recv(1000) == b"READY=1\nSTATUS=ready"


def test_without_systemd():
    notifier = Notifier({})
    notifier.send("READY=1")
    assert notifier.watchdog is None


def test_a_socket_that_is_gone(caplog, tmp_path):
    """Nothing is raised: tasks are more important."""
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")
    assert "worker: systemd was not told READY=1" in caplog.text


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog(environ, seconds):
    assert Notifier(environ).watchdog == seconds


def test_forget():
    environ = {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    forget(environ)
    assert environ == {"PATH": "/bin"}
