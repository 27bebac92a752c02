"""Web hooks over TLS: who is trusted, and how long a handshake takes."""

from contextlib import suppress
from receiver import BOUND
from receiver import RELEASE
import pytest
import socket
import ssl
import subprocess
import threading


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Make a certificate that signs itself, for an address; return its path and its key's."""
    folder = tmp_path_factory.mktemp("certificates")

    def make(address):
        paths = folder / f"{address}.pem", folder / f"{address}.key"
        if not paths[0].exists():
            command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
            more = ["-addext", f"subjectAltName=IP:{address}"]
            files = ["-out", str(paths[0]), "-keyout", str(paths[1])]
            subprocess.run(
                [*command.split(), *more, *files], check=True, timeout=60, capture_output=True
            )
        return paths

    return make


@pytest.fixture
def tls(receiver, certificate, monkeypatch):
    """Let the receiver speak TLS, and these certificates be trusted."""

    def start(own, trusted):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate(own))
        server = receiver.server
        get_request = server.get_request

        def get():
            sock, address = get_request()
            return context.wrap_socket(sock, server_side=True), address

        server.get_request = get
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate(trusted)[0]))
        return f"https://127.0.0.1:{receiver.port}/hook"

    return start


def test_tls(run, receiver, tls):
    """N43, T13: the receiver is verified, and called."""
    url = tls(own="127.0.0.1", trusted="127.0.0.1")
    status = run(url=url)
    assert (status.state, status.body) == ("succeeded", b"thanks")
    assert receiver.calls[0][2]["Host"] == f"127.0.0.1:{receiver.port}"


def test_the_wrong_authority(run, receiver, tls):
    """N43: the authority that signed the certificate is not trusted: no request is sent."""
    url = tls(own="127.0.0.1", trusted="127.0.0.2")
    status = run(url=url, max_attempts=3)
    assert (status.state, receiver.calls) == ("scheduled", [])
    assert status.reason.startswith("SSLCertVerificationError: ")


def test_the_wrong_name(run, receiver, tls):
    """N43: a certificate that is trusted, but belongs to another server."""
    url = tls(own="127.0.0.2", trusted="127.0.0.2")
    status = run(url=url, max_attempts=3)
    assert (status.state, receiver.calls) == ("scheduled", [])
    assert "certificate is not valid for '127.0.0.1'" in status.reason


@pytest.fixture
def mute():
    """The port of a server that accepts connections, and dribbles what is no handshake."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        try:
            sock, _ = server.accept()
            with sock:
                # The header of a record of TLS that is announced to be long.
                sock.sendall(b"\x16\x03\x03\x3f\xff")
                while not RELEASE.wait(0.02):
                    sock.sendall(b"\x02")
        except OSError:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    RELEASE.set()
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(BOUND)


def test_the_deadline_of_a_handshake(run, mute):
    """N44: byte after byte does not keep it going."""
    status = run(url=f"https://127.0.0.1:{mute}/", allow="127.0.0.1", timeout=0.5, max_attempts=2)
    assert status.state == "scheduled"
    assert status.reason == "timeout: it took more than 0.5 s"
    assert status.attempts[0].seconds < BOUND / 2
