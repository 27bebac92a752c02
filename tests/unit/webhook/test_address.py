"""Which addresses are connected to, and what is told of them."""

from ports import free_port
from receiver import BOUND
import pytest
import socket


def test_a_refused_address_gets_no_packet(run, receiver):
    """Without allow_hosts this server is out of reach."""
    status = run(allow="", max_attempts=3)
    assert (status.state, receiver.calls, receiver.connections) == ("failed", [], set())
    assert "refused" in status.reason


def test_a_name_is_resolved_for_each_connection(run, receiver, monkeypatch):
    """T14: who spreads the load by names, or moves to another address, is found there."""
    now = ["127.0.0.1"]
    original = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        return original(now[0] if host == "hook.example.org" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with socket.create_server(("127.0.0.2", receiver.port)) as other:
        other.settimeout(BOUND)
        url = f"http://hook.example.org:{receiver.port}/"
        assert run(url=url, allow="hook.example.org").state == "succeeded"
        now[0] = "127.0.0.2"
        storage, task, thread = run(url=url, wait=False, max_attempts=1)
        sock, _ = other.accept()
        with sock:
            assert sock.recv(4096)
            sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        thread.join(BOUND)
        assert storage.admin.get(task.id).status == 204
    assert len(receiver.calls) == 1


def test_the_next_address_is_tried(run, receiver, monkeypatch):
    """One refuses, of another kind this machine has none; the third is the receiver's."""
    original = socket.socket

    def socket_of(family=socket.AF_INET, *args, **kwargs):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return original(family, *args, **kwargs)

    hosts = [("::1", receiver.port, 0, 0), ("127.0.0.3", receiver.port)]
    found = [(0, 1, 6, "", address) for address in (*hosts, ("127.0.0.1", receiver.port))]
    url = f"http://many.example.org:{receiver.port}/"
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        patched.setattr(socket, "socket", socket_of)
        assert run(url=url, allow="many.example.org").state == "succeeded"
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_no_proxy_of_the_environment_is_used(run, receiver, monkeypatch, name):
    """It would connect to where the guard does not look."""
    monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert run().state == "succeeded"
    assert receiver.calls[0][1] == "/hook"


def test_a_resolver_that_changes_its_answer(run, receiver, monkeypatch):
    """D15: what was checked is connected to, and nothing that is resolved a moment later."""
    answers, connected = ["8.8.8.8"], []

    def getaddrinfo(host, port, *args, **kwargs):
        address = answers.pop(0) if answers else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(sock, address):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect)
    status = run(url="http://rebind.example.org/", allow="", max_attempts=3)
    assert (status.state, connected) == ("scheduled", [("8.8.8.8", 80)])
    status = run(url="http://rebind.example.org/", max_attempts=3)
    assert status.reason == "refused: rebind.example.org is at no public address"
    assert connected == [("8.8.8.8", 80)]


def test_where_a_name_leads_is_in_the_log_only(run, caplog):
    """Who may queue a web hook may not map our network with it."""
    status = run(url="http://localhost/", allow="")
    assert status.reason == "refused: localhost is at no public address"
    (message,) = [r.getMessage() for r in caplog.records if "localhost is at" in r.getMessage()][:1]
    assert message.startswith(f"task {status.id}: localhost is at ")
    assert message.endswith(", refused")
