"""The answers to orchestrators."""

from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.health import Health
from collective.taskqueue.worker.options import WorkerOptions
from collective.taskqueue.worker.probe import serve_probes
from contextlib import closing
from ports import free_port
from ports import LOOPBACK
import http.client
import pytest
import socket


def get(port, path):
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=30)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.mark.parametrize(
    ("health", "live", "ready"),
    [
        (Health(), (200, "ok\n"), (200, "ok\n")),
        (Health(unready=("a", "b")), (200, "ok\n"), (503, "a\nb\n")),
        (Health(dead=("c",), unready=("a",)), (503, "c\n"), (503, "c\na\n")),
    ],
)
def test_answers(health, live, ready):
    port = free_port()
    serve_probes(WorkerOptions(ini="", probe_port=port), lambda: health)
    assert get(port, "/live") == live
    assert get(port, "/ready") == ready
    assert get(port, "/live/")[0] == 404


def test_a_port_that_is_taken():
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(WorkerError, match=f"probes cannot be answered at {LOOPBACK} port"):
            serve_probes(WorkerOptions(ini="", probe_port=port), Health)


def test_no_port():
    """Without the option nothing listens."""
    serve_probes(WorkerOptions(ini=""), Health)
