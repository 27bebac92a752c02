"""However slowly the receiver answers, a call ends in time."""

from collective.taskqueue.webhook import transport
from collective.taskqueue.webhook.guard import Guard
from collective.taskqueue.webhook.transport import Transport
from receiver import BOUND
from receiver import RELEASE
from types import SimpleNamespace
import pytest
import socket
import ssl


def _dribble(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not RELEASE.wait(0.02):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def _dribble_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not RELEASE.wait(0.02):
        handler.wfile.write(b"X-A: b\r\n")
        handler.wfile.flush()


def _silence(handler):
    RELEASE.wait(BOUND)


def _unframed(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    while not RELEASE.wait(0.02):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def _interim(handler):
    while not RELEASE.wait(0.001):
        handler.wfile.write(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        handler.wfile.flush()


@pytest.mark.parametrize("answer", [_dribble, _dribble_headers, _silence, _unframed, _interim])
def test_the_deadline_is_a_total_one(run, receiver, answer):
    """N44, O17: byte after byte does not keep the line open, and what was cut is no success."""
    receiver.answer = answer
    status = run(timeout=0.5, max_attempts=3)
    assert status.state == "scheduled"
    assert "timeout" in status.reason
    assert status.attempts[0].seconds < BOUND / 2


def test_the_deadline_is_one_for_all_addresses(receiver, monkeypatch):
    """A name with many addresses that do not answer takes no longer than one."""
    waits, now = [], [1000.0]
    monkeypatch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: now[0]))
    found = [(2, 1, 6, "", (f"192.0.2.{n}", 80)) for n in range(9)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

    def connect(sock, address):
        waits.append(sock.gettimeout())
        now[0] += 4.0
        raise TimeoutError

    monkeypatch.setattr(socket.socket, "connect", connect)
    call = Transport(Guard(["many.example.org"]), ssl.create_default_context(), 10.0)
    with pytest.raises(TimeoutError):
        call.request("GET", "http://many.example.org/", b"", {})
    assert waits == [10.0, 6.0, 2.0]
