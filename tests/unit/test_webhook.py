"""Calls of web hooks to a real server on the loopback interface that misbehaves on demand."""

from collections.abc import Callable
from collective.taskqueue import webhook
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer import Consumer
from collective.taskqueue.signing import verify
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import Task
from collective.taskqueue.webhook import WebHooks
from contextlib import ExitStack
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from types import SimpleNamespace
from urllib3.exceptions import HTTPError
from uuid import uuid4
import pytest
import socket
import ssl
import subprocess
import threading
import time


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

#: Whatever is waited for takes a moment; only a failure takes this long.
BOUND = 20.0


@dataclass
class Receiver:
    """A server that records calls and answers as a test says."""

    calls: list = field(default_factory=list)
    answer: Callable = None
    port: int = 0
    server: ThreadingHTTPServer | None = None
    released: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)
    connections: set = field(default_factory=set)

    def url(self, path="/hook"):
        return f"http://127.0.0.1:{self.port}{path}"


def say(status, body=b"", **headers):
    """An answer with a status, a body and headers."""

    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


@pytest.fixture
def receiver():
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            """The test looks at the calls."""

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            receiver.connections.add(self.client_address)
            receiver.calls.append((self.command, self.path, self.headers, body))
            receiver.arrived.set()
            receiver.answer(self)

        do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_POST

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.server, receiver.port = server, server.server_port
    receiver.answer = say(200, b"thanks")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.released.set()
    server.shutdown()
    server.server_close()
    thread.join(BOUND)


@pytest.fixture
def run(receiver):
    """Queue and run one web hook; return its status."""
    hooks, storage = None, None

    def run(path="/hook", url=None, allow=None, secret="", wait=True, **fields):
        nonlocal hooks, storage
        settings = QueueSettings(
            allow_hosts=f"127.0.0.1:{receiver.port}" if allow is None else allow, secret=secret
        )
        if hooks is None or secret or allow is not None:
            hooks, storage = WebHooks(settings), LocalStorage(settings)
        consumer = Consumer(storage, hooks.call, ServerSettings(lease=3.0))
        fields = {"method": "POST", "timeout": BOUND, "url": url or receiver.url(path), **fields}
        task = Task(id=str(uuid4()), queue="default", **fields)
        storage.stage(task.id, [task])
        storage.promote(task.id)
        if wait:
            assert consumer.step() == 1
            consumer.stop()
            return storage.get(task.id)
        thread = threading.Thread(target=consumer.step)
        thread.start()
        return storage, task, thread

    return run


def test_the_call(run, receiver):
    """Body and content type arrive as they were given, the rest is ours (N07, N42)."""
    body = bytes(range(256))
    kind = 'multipart/form-data; boundary="x y"; charset=latin-1'
    status = run(payload=body, headers=(("Content-Type", kind),), max_attempts=5)
    assert (status.state, status.status, status.body) == ("succeeded", 200, b"thanks")
    ((method, path, headers, received),) = receiver.calls
    assert (method, path, received) == ("POST", "/hook", body)
    assert headers["Content-Type"] == kind
    assert headers["X-Task-Id"] == status.id
    assert (headers["X-Task-Attempt"], headers["X-Task-Max-Attempts"]) == ("1", "5")
    assert headers["User-Agent"] == "collective.taskqueue"
    assert "webhook-signature" not in headers
    assert "Cookie" not in headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(run, receiver, method):
    """N05: as given, with the query string."""
    assert run("/a%20b?c=d", method=method).state == "succeeded"
    assert receiver.calls[0][:2] == (method, "/a%20b?c=d")


def test_connections_are_reused(run, receiver):
    """Two tasks, one connection."""
    run()
    run()
    assert len(receiver.calls) == 2
    assert len(receiver.connections) == 1


def test_signature(run, receiver):
    """The receiver can tell who sent it; the secret itself stays here."""
    status = run(secret=SECRET, payload=b"{}")
    headers = {name.lower(): value for name, value in receiver.calls[0][2].items()}
    assert verify(SECRET, headers, b"{}", time.time())
    assert headers["webhook-id"] == status.id
    assert SECRET not in str(headers)


@pytest.mark.parametrize(
    ("code", "state", "word"),
    [
        (200, "succeeded", ""),
        (201, "succeeded", ""),
        (299, "succeeded", ""),
        (400, "failed", "status 400"),
        (404, "failed", "status 404"),
        (410, "failed", "gone"),
        (408, "scheduled", "status 408"),
        (425, "scheduled", "status 425"),
        (429, "scheduled", "status 429"),
        (500, "scheduled", "status 500"),
        (503, "scheduled", "status 503"),
        (304, "failed", "304"),
    ],
)
def test_outcomes(run, receiver, code, state, word):
    """N35, N36, N37, N38, U31: what succeeds, what fails, what is tried again."""
    receiver.answer = say(code)
    status = run(max_attempts=3)
    assert status.state == state
    assert word in status.reason
    assert status.status == code


def test_retry_after(run, receiver):
    """The other side says when."""
    receiver.answer = say(503, Retry_After="1000")
    status = run(max_attempts=3)
    assert status.due == pytest.approx(time.time() + 1000, abs=BOUND)


@pytest.mark.parametrize("asked", ["1000000", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_is_no_place_to_hide(run, receiver, asked):
    """N38: no pause is longer than the queue allows, whoever asks for it."""
    receiver.answer = say(503, Retry_After=asked)
    status = run(max_attempts=3, max_backoff=100.0)
    assert status.state == "scheduled"
    assert status.due == pytest.approx(time.time() + 100, abs=BOUND)


def _hops(number, code=307):
    def answer(handler):
        left = number - int(handler.path.rpartition("/")[2])
        where = f"/hop/{number - left + 1}"
        say(code, Location=where)(handler) if left else say(200)(handler)

    return answer


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirects_keep_method_and_body(run, receiver, code):
    """D60, N43: a POST does not become a GET without its body."""
    receiver.answer = _hops(5, code)
    status = run("/hop/0", payload=b"x", headers=(("Authorization", "s"),))
    assert status.state == "succeeded"
    assert [call[0] for call in receiver.calls] == ["POST"] * 6
    assert {call[3] for call in receiver.calls} == {b"x"}
    assert {call[2]["Authorization"] for call in receiver.calls} == {"s"}


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/grün?ä=ö".encode(), "/gr%C3%BCn?%C3%A4=%C3%B6"),
        (b"/gr\xfcn", "/gr%FCn"),
        (b"a b#c", "/a%20b"),
        (b"?x=%2F", "/hook?x=%2F"),
    ],
)
def test_where_a_redirect_leads(run, receiver, location, path):
    """N43: the bytes that the other side has sent, as a browser would."""

    def answer(handler):
        if handler.path == "/hook":
            handler.wfile.write(b"HTTP/1.1 307 There\r\nLocation: " + location + b"\r\n")
            handler.wfile.write(b"Content-Length: 0\r\n\r\n")
        else:
            say(200)(handler)

    receiver.answer = answer
    assert run().state == "succeeded"
    assert [call[1] for call in receiver.calls] == ["/hook", path]


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints", "199 x"])
def test_an_interim_response_is_no_answer(run, receiver, interim, number):
    """N37: what counts comes after it; on this connection, and not for the next call."""

    def answer(handler):
        for _ in range(number):
            handler.wfile.write(f"HTTP/1.1 {interim}\r\nLink: </a>\r\n\r\n".encode())
        status = 200 if handler.path == "/good" else 500
        say(status, handler.path.encode())(handler)

    receiver.answer = answer
    for path, status in (("/good", 200), ("/bad", 500), ("/good", 200)):
        found = run(path, max_attempts=1)
        assert (found.status, found.body) == (status, path.encode())
    assert len(receiver.connections) == 1


def test_another_protocol_is_nobodys(run, receiver):
    """What it says would be taken for the answer to the next call."""

    def answer(handler):
        if handler.path == "/switch":
            handler.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
        else:
            say(200)(handler)

    receiver.answer = answer
    assert run("/switch", max_attempts=1).status == 101
    assert run().status == 200
    assert len(receiver.connections) == 2


def test_one_redirect_too_many(run, receiver):
    """N43: five are followed, the sixth fails the task."""
    receiver.answer = _hops(6)
    status = run("/hop/0", max_attempts=3)
    assert (status.state, len(receiver.calls)) == ("failed", 6)
    assert "5 redirects" in status.reason


def test_see_other_becomes_a_get(run, receiver):
    """303 says so."""
    receiver.answer = _hops(1, 303)
    run("/hop/0", payload=b"x", headers=(("Content-Type", "text/plain"),))
    method, _, headers, body = receiver.calls[1]
    assert (method, body, headers["Content-Type"]) == ("GET", b"", None)


def test_see_other_leaves_a_head_what_it_is(run, receiver):
    """Who asked for no body gets none (RFC 9110, 15.4.4)."""
    receiver.answer = _hops(1, 303)
    assert run("/hop/0", method="HEAD").state == "succeeded"
    assert [call[0] for call in receiver.calls] == ["HEAD", "HEAD"]


def test_secrets_are_not_given_to_another_origin(run, receiver):
    """D24: neither the caller's headers nor the signature."""
    other = f"http://localhost:{receiver.port}/other"
    receiver.answer = lambda handler: (
        say(307, Location=other) if handler.path == "/hook" else say(200)
    )(handler)
    headers = (("Authorization", "s"), ("X-Api-Key", "s"), ("Content-Type", "text/plain"))
    allow = f"127.0.0.1:{receiver.port} localhost:{receiver.port}"
    status = run(secret=SECRET, allow=allow, headers=headers, payload=b"x")
    assert status.state == "succeeded"
    received = receiver.calls[1][2]
    assert received["Content-Type"] == "text/plain"
    for name in ("Authorization", "X-Api-Key", "webhook-signature"):
        assert received[name] is None


@pytest.mark.parametrize("where", ["http://10.0.0.1/", "http://[::1]/", "file:///etc/passwd"])
def test_a_redirect_into_private_space_is_refused(run, receiver, where):
    """N43: every hop is checked."""
    receiver.answer = say(307, Location=where)
    status = run(max_attempts=3)
    assert status.state == "failed"
    assert status.reason.startswith("refused: ")
    assert len(receiver.calls) == 1


def test_a_refused_address_gets_no_packet(run, receiver):
    """Without allow_hosts this server is out of reach."""
    status = run(allow="", max_attempts=3)
    assert (status.state, receiver.calls, receiver.connections) == ("failed", [], set())
    assert "refused" in status.reason


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


RELEASE = threading.Event()


@pytest.fixture(autouse=True)
def _released():
    RELEASE.clear()
    yield
    RELEASE.set()


@pytest.mark.parametrize("answer", [_dribble, _dribble_headers, _silence, _unframed, _interim])
def test_the_deadline_is_a_total_one(run, receiver, answer):
    """N44, O17: byte after byte does not keep the line open, and what was cut is no success."""
    receiver.answer = answer
    status = run(timeout=0.5, max_attempts=3)
    assert status.state == "scheduled"
    assert "timeout" in status.reason
    assert status.attempts[0].seconds < BOUND / 2


def test_an_endless_body_is_cut_at_the_cap(run, receiver):
    """Bounded memory, one attempt."""

    def answer(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while not RELEASE.is_set():
            handler.wfile.write(b"x" * 65536)

    receiver.answer = answer
    status = run()
    assert status.state == "succeeded"
    assert (len(status.body), status.truncated) == (64 * 1024, True)


@pytest.mark.parametrize(("number", "length"), [(90, 4000), (1, 60000), (90, 1000)])
def test_headers_are_cut_at_a_cap(run, receiver, number, length):
    """Bounded memory for each record; what is asked for behind all of them is still heard."""

    def answer(handler):
        handler.send_response(503)
        for name in range(number):
            handler.send_header(f"X-{name}", "x" * length)
        handler.send_header("Retry-After", "50")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    receiver.answer = answer
    status = run(max_attempts=2)
    assert sum(len(name) + len(value) for name, value in status.headers) <= 16 * 1024
    assert dict(status.headers)["Retry-After"] == "50"
    assert status.truncated
    assert status.due == pytest.approx(time.time() + 50, abs=BOUND)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    ],
)
def test_garbage_costs_one_attempt(run, receiver, garbage):
    """A reset, noise, half an answer."""

    def answer(handler):
        handler.wfile.write(garbage)
        handler.close_connection = True

    receiver.answer = answer
    status = run(max_attempts=3)
    assert status.state == "scheduled"
    assert len(status.attempts) == 1
    receiver.answer = say(200)
    assert run().state == "succeeded"


def test_a_compressed_body_is_kept_as_it_is(run, receiver):
    """A bomb does not explode here."""
    receiver.answer = say(200, b"\x1f\x8b whatever", Content_Encoding="gzip")
    status = run()
    assert (status.state, status.body) == ("succeeded", b"\x1f\x8b whatever")
    assert receiver.calls[0][2]["Accept-Encoding"] == "identity"


def test_nobody_listens(run, receiver):
    """H10, N37, U40: tried again."""
    status = run(url="http://127.0.0.1:9/", allow="127.0.0.1", max_attempts=2)
    assert (status.state, status.status) == ("scheduled", None)


def test_cancel_while_running(run, receiver):
    """H15, H24: the call is dropped, and a DELETE is sent to the same url."""

    def answer(handler):
        if handler.command == "DELETE":
            say(204)(handler)
        else:
            RELEASE.wait(BOUND)

    receiver.answer = answer
    storage, task, thread = run("/job", wait=False)
    assert receiver.arrived.wait(BOUND)
    assert storage.cancel(task.id) == "running"
    thread.join(BOUND)
    assert not thread.is_alive()
    assert storage.get(task.id).state == "cancelled"
    (_, (method, path, headers, _)) = receiver.calls
    assert (method, path, headers["X-Task-Id"]) == ("DELETE", "/job", task.id)


# what goes wrong on the way


def test_a_connection_that_was_closed_is_opened_again(run, receiver):
    """It waited in the pool; that is nobody's failure and costs no attempt."""
    closed = threading.Semaphore(0)

    def answer(handler):
        say(200)(handler)
        handler.close_connection = True
        finish = handler.finish

        def finished():
            finish()
            handler.connection.shutdown(socket.SHUT_RDWR)
            closed.release()

        handler.finish = finished

    receiver.answer = answer
    for _ in range(3):
        assert run().state == "succeeded"
        assert closed.acquire(timeout=BOUND)
    assert len(receiver.connections) == 3


def test_a_call_that_is_made_twice_can_be_told(run, receiver):
    """N50: if the answer is lost the call is made once more, under the same id."""

    def answer(handler):
        if handler.headers["X-Task-Attempt"] == "1":
            _hang_up(handler)
        else:
            say(200)(handler)

    receiver.answer = answer
    storage, task, thread = run(wait=False, max_attempts=2, min_backoff=0.0)
    thread.join(BOUND)
    hooks = WebHooks(QueueSettings(allow_hosts=f"127.0.0.1:{receiver.port}"))
    consumer = Consumer(storage, hooks.call, ServerSettings())
    assert consumer.step(timeout=BOUND) == 1
    consumer.stop()
    assert storage.get(task.id).state == "succeeded"
    told = [(call[2]["X-Task-Id"], call[2]["X-Task-Attempt"]) for call in receiver.calls]
    assert told == [(task.id, "1"), (task.id, "2")]


def test_a_name_is_resolved_for_each_connection(run, receiver, monkeypatch):
    """T14: who spreads the load by names, or moves to another address, is found there."""
    now = ["127.0.0.1"]
    original = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        return original(now[0] if host == "hook.example.org" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    receiver.answer = say(200, Connection="close")
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
        assert storage.get(task.id).status == 204
    assert len(receiver.calls) == 1


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"", "RemoteDisconnected: Remote end closed connection without response"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "BadStatusLine: HTTP/1.1 abc OK"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
            "IncompleteRead: IncompleteRead(1 bytes read, 8 more expected)",
        ),
    ],
)
def test_the_reason_is_the_cause(run, receiver, garbage, reason):
    """And not what the library has wrapped around it."""

    def answer(handler):
        handler.wfile.write(garbage)
        handler.close_connection = True

    receiver.answer = answer
    assert run().reason == reason


def test_the_reason_if_nobody_listens(run, receiver):
    """H10, U40."""
    status = run(url=f"http://127.0.0.1:{free_port()}/", allow="127.0.0.1")
    assert status.reason == "ConnectionRefusedError: [Errno 111] Connection refused"


@pytest.mark.parametrize("error", [BrokenPipeError(32, "broken"), ConnectionResetError(104, "no")])
def test_the_reason_if_the_connection_breaks_at_once(run, receiver, monkeypatch, error):
    """Also if the library takes it for something that may happen while a request is sent."""

    def connect(sock, address):
        raise error

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert run().reason == f"{type(error).__name__}: {error}"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_no_proxy_of_the_environment_is_used(run, receiver, monkeypatch, name):
    """It would connect to where the guard does not look."""
    monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert run().state == "succeeded"
    assert receiver.calls[0][1] == "/hook"


def test_headers_are_utf_8(run, receiver):
    """As in a task of Zope; a character that Latin-1 has not is no failure."""
    assert run(headers=(("X-A", "ä€"),)).state == "succeeded"
    assert receiver.calls[0][2]["X-A"].encode("latin-1").decode() == "ä€"


def test_fifty_at_once(receiver, caplog):
    """All of them wait side by side; nothing is thrown away, and nobody warned."""
    everybody = threading.Barrier(50, timeout=BOUND)

    def answer(handler):
        everybody.wait()
        say(200)(handler)

    receiver.answer = answer
    settings = QueueSettings(allow_hosts=f"127.0.0.1:{receiver.port}")
    hooks, storage = WebHooks(settings), LocalStorage(settings)
    server = ServerSettings(concurrent_limit=50)
    tasks = [
        Task(id=str(n), queue="default", url=receiver.url(), method="POST", timeout=BOUND)
        for n in range(50)
    ]
    consumers = [Consumer(storage, hooks.call, server) for _ in tasks]
    storage.stage("batch", tasks)
    storage.promote("batch")
    threads = [threading.Thread(target=consumer.step) for consumer in consumers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    for consumer in consumers:
        consumer.stop()
    assert storage.counts()["succeeded"] == 50
    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == []


# TLS


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
    """N43, T13: two tasks, one connection, here too."""
    url = tls(own="127.0.0.1", trusted="127.0.0.1")
    assert run(url=url).state == run(url=url).state == "succeeded"
    assert (len(receiver.calls), len(receiver.connections)) == (2, 1)


def test_the_wrong_authority(run, receiver, tls):
    """N43: whoever signed this is not trusted: no request is sent."""
    url = tls(own="127.0.0.1", trusted="127.0.0.2")
    status = run(url=url, max_attempts=3)
    assert (status.state, receiver.calls) == ("scheduled", [])
    assert status.reason.startswith("SSLCertVerificationError: ")


def test_the_wrong_name(run, receiver, tls):
    """N43: a certificate that is trusted, but somebody else's."""
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


def test_the_deadline_is_one_for_all_addresses(receiver, monkeypatch):
    """A name with many addresses that do not answer takes no longer than one."""
    waits, now = [], [1000.0]
    monkeypatch.setattr(webhook, "time", SimpleNamespace(monotonic=lambda: now[0]))
    settings = QueueSettings(allow_hosts="many.example.org")
    found = [(2, 1, 6, "", (f"192.0.2.{n}", 80)) for n in range(9)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

    def connect(sock, address):
        waits.append(sock.gettimeout())
        now[0] += 4.0
        raise TimeoutError

    monkeypatch.setattr(socket.socket, "connect", connect)
    hooks, line = WebHooks(settings), webhook._Line(10.0)
    with pytest.raises((TimeoutError, HTTPError)):
        hooks._request("GET", "http://many.example.org/", b"", {}, line)
    assert waits == [10.0, 6.0, 2.0]


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


@pytest.mark.parametrize(("place", "moment"), [(socket, "getaddrinfo"), (socket.socket, "connect")])
def test_a_call_that_is_cut_before_it_is_made_is_not_made(receiver, monkeypatch, place, moment):
    """Also if it waited for a name, which cannot be cut, or there was nothing to shut yet."""
    original = getattr(place, moment)
    hooks = WebHooks(QueueSettings(allow_hosts=f"127.0.0.1:{receiver.port}"))
    line = webhook._Line(BOUND)

    def cut(*args, **kwargs):
        line.cut()
        return original(*args, **kwargs)

    monkeypatch.setattr(place, moment, cut)
    with pytest.raises((TimeoutError, HTTPError)):
        hooks._request("GET", receiver.url(), b"", {}, line)
    assert receiver.calls == []


# whose connection is cut


class Lines:
    """Calls of one queue of web hooks, each in its own thread, with a line to cut it by."""

    def __init__(self, allow="127.0.0.1"):
        self.hooks = WebHooks(QueueSettings(allow_hosts=allow))
        self.threads = []

    def call(self, url):
        line, ends = webhook._Line(BOUND), []
        attempt = SimpleNamespace(
            task=Task(id=str(uuid4()), queue="default", url=url, method="POST", timeout=BOUND),
            number=1,
        )

        def call():
            try:
                ends.append(webhook._read(self.hooks._follow(attempt, line), line, 0.0, 0.0).status)
            except Exception as exc:
                ends.append(exc)
            finally:
                line.hang_up()

        thread = threading.Thread(target=call)
        thread.start()
        self.threads.append(thread)
        return line, ends, thread


@pytest.fixture
def lines():
    lines = Lines()
    yield lines
    RELEASE.set()
    for thread in lines.threads:
        thread.join(BOUND)


@pytest.fixture
def silent():
    """A server that accepts a connection and says nothing; that it has is an event."""
    server = socket.create_server(("127.0.0.1", 0))
    accepted = threading.Event()

    def serve():
        with suppress(OSError):
            sock, _ = server.accept()
            with sock:
                accepted.set()
                RELEASE.wait(BOUND)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1], accepted
    RELEASE.set()
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(BOUND)


def test_a_cut_shuts_nobody_elses_connection(lines, receiver, silent):
    """It was used for the hop before, and is another task's by now."""
    port, accepted = silent
    waiting = threading.Event()

    def answer(handler):
        if handler.path == "/a":
            say(307, Location=f"https://127.0.0.1:{port}/")(handler)
        else:
            waiting.set()
            RELEASE.wait(BOUND)
            say(200)(handler)

    receiver.answer = answer
    first, ends, thread = lines.call(receiver.url("/a"))
    assert accepted.wait(BOUND)
    _, others, other = lines.call(receiver.url("/b"))
    assert waiting.wait(BOUND)
    first.cut()
    thread.join(BOUND)
    assert isinstance(ends[0], TimeoutError | HTTPError)
    RELEASE.set()
    other.join(BOUND)
    assert others == [200]


def test_a_cut_after_the_end_shuts_nobody_elses_connection(lines, receiver):
    """The response was read, and the connection given back."""
    receiver.answer = say(200, b"x")
    first, ends, thread = lines.call(receiver.url())
    thread.join(BOUND)
    assert ends == [200]
    waiting = threading.Event()

    def answer(handler):
        waiting.set()
        RELEASE.wait(BOUND)
        say(200)(handler)

    receiver.answer = answer
    _, others, other = lines.call(receiver.url())
    assert waiting.wait(BOUND)
    assert len(receiver.connections) == 1
    first.cut()
    RELEASE.set()
    other.join(BOUND)
    assert others == [200]


def test_a_handshake_is_cut(lines, silent):
    """It does not wait for its deadline."""
    port, accepted = silent
    line, ends, thread = lines.call(f"https://127.0.0.1:{port}/")
    assert accepted.wait(BOUND)
    line.cut()
    thread.join(BOUND / 2)
    assert ends
    assert isinstance(ends[0], OSError | HTTPError)


def test_who_was_told_nothing_is_told_of_no_end(run, silent):
    """H15, H24: cancelled while it shakes hands, there is nothing that a DELETE could end."""
    port, accepted = silent
    storage, task, thread = run(url=f"https://127.0.0.1:{port}/", allow="127.0.0.1", wait=False)
    assert accepted.wait(BOUND)
    storage.cancel(task.id)
    # Who accepts one connection only would let a DELETE wait for its whole time.
    thread.join(webhook.DELETE_TIMEOUT / 2)
    assert not thread.is_alive()
    assert storage.get(task.id).state == "cancelled"


def test_a_connect_is_cut(lines):
    """Nobody accepts, and the queue of those who wait is full."""
    with socket.socket() as server, ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        full = False
        while not full:
            client = waiting.enter_context(socket.socket())
            client.settimeout(0.2)
            try:
                client.connect(server.getsockname())
            except TimeoutError:
                full = True
        line, ends, thread = lines.call(f"http://127.0.0.1:{server.getsockname()[1]}/")
        deadline = time.monotonic() + BOUND / 2
        while not ends and time.monotonic() < deadline:
            # Again and again, as the watchdog does: it may not have begun.
            line.cut()
            thread.join(0.05)
        assert ends
        assert isinstance(ends[0], OSError | HTTPError)


# what the other side is told, and what it may say


@pytest.fixture
def cancelled(run, receiver):
    """Cancel a call while the receiver thinks about it; return the task's id when it is over."""

    def cancel(post, delete, **fields):
        def answer(handler):
            if handler.command == "DELETE":
                delete(handler)
            else:
                RELEASE.wait(BOUND)
                post(handler)

        receiver.answer = answer
        storage, task, thread = run("/job", wait=False, **fields)
        assert receiver.arrived.wait(BOUND)
        assert storage.cancel(task.id) == "running"
        RELEASE.set()
        thread.join(BOUND)
        assert not thread.is_alive()
        assert storage.get(task.id).state == "cancelled"
        return task.id

    return cancel


def _hang_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", [_hang_up, say(500), say(200)])
def test_a_call_that_ends_by_itself_when_it_was_cancelled(cancelled, receiver, monkeypatch, end):
    """H15: the DELETE is sent all the same."""
    monkeypatch.setattr(webhook, "REPORT_INTERVAL", 0.0)
    cancelled(end, say(204))
    assert [call[0] for call in receiver.calls] == ["POST", "DELETE"]


def test_a_call_that_was_led_astray_when_it_was_cancelled(cancelled, receiver):
    """H15: the other side knows of it, wherever it wanted to send it on to."""
    cancelled(say(307, Location="http://10.0.0.1/"), say(204))
    assert [call[0] for call in receiver.calls] == ["POST", "DELETE"]


def test_the_delete_has_a_total_deadline(run, receiver, monkeypatch):
    """Byte after byte does not hold the thread."""
    monkeypatch.setattr(webhook, "DELETE_TIMEOUT", 0.5)

    def answer(handler):
        if handler.command != "DELETE":
            RELEASE.wait(BOUND)
            return
        # One long line: the library counts the lines.
        handler.wfile.write(b"HTTP/1.1 204 No Content\r\nX-A: ")
        while not RELEASE.wait(0.02):
            handler.wfile.write(b"x")

    receiver.answer = answer
    storage, task, thread = run("/job", wait=False)
    assert receiver.arrived.wait(BOUND)
    storage.cancel(task.id)
    thread.join(BOUND / 2)
    assert not thread.is_alive()
    assert storage.get(task.id).state == "cancelled"


def test_the_delete_has_the_headers_of_the_call(cancelled, receiver):
    """H15: else who asks for a password refuses it; but it has no body to describe."""
    headers = (("Authorization", "s"), ("Content-Type", "text/plain"), ("Webhook-Id", "mine"))
    task_id = cancelled(_hang_up, say(204), secret=SECRET, headers=headers, payload=b"x")
    method, path, received, body = receiver.calls[-1]
    assert (method, path, body) == ("DELETE", "/job", b"")
    assert (received["Authorization"], received["Content-Type"]) == ("s", None)
    assert received.get_all("Webhook-Id") == [task_id]
    assert verify(SECRET, {k.lower(): v for k, v in received.items()}, b"", time.time())


def test_no_header_is_sent_twice(run, receiver):
    """The caller's agent wins, and no signature but ours is sent."""
    names = ("user-agent", "x-task-id", "Webhook-Id", "Webhook-Signature", "WEBHOOK-TIMESTAMP")
    status = run(secret=SECRET, headers=tuple((name, "mine") for name in names), payload=b"x")
    received = receiver.calls[0][2]
    lower = [name.lower() for name in received]
    assert sorted(lower) == sorted(set(lower))
    assert (received["User-Agent"], received["X-Task-Id"]) == ("mine", status.id)
    assert verify(SECRET, {k.lower(): v for k, v in received.items()}, b"x", time.time())


def test_without_a_secret_the_signature_is_the_callers(run, receiver):
    """Who signs by himself may."""
    run(headers=(("Webhook-Signature", "mine"),))
    assert receiver.calls[0][2]["webhook-signature"] == "mine"


def test_each_hop_is_signed(run, receiver):
    """303 sends no body any more: the signature is one of nothing."""
    receiver.answer = _hops(1, 303)
    headers = (("Content-Type", "text/plain"), ("Content-Encoding", "gzip"), ("X-A", "a"))
    run("/hop/0", secret=SECRET, payload=b"x", headers=headers)
    method, _, received, body = receiver.calls[1]
    assert (method, body, received["X-A"]) == ("GET", b"", "a")
    assert (received["Content-Type"], received["Content-Encoding"]) == (None, None)
    assert verify(SECRET, {k.lower(): v for k, v in received.items()}, b"", time.time())


def test_a_redirect_to_what_is_no_url_is_refused(run, receiver):
    """At once: it will be none the next time either."""
    receiver.answer = say(302, Location="http://[::1")
    status = run(max_attempts=3)
    assert (status.state, len(receiver.calls)) == ("failed", 1)
    assert status.reason.startswith("refused: ")


def test_a_reason_is_short_and_one_line(run, receiver):
    """Whatever the other side says."""

    def answer(handler):
        handler.wfile.write(b"\x1b[2K\rtask 1: fine\x00" + b"z" * 60000 + b"\r\n\r\n")
        handler.close_connection = True

    receiver.answer = answer
    status = run()
    assert status.reason.isprintable()
    assert len(status.reason) <= 500
    assert "task 1: fine" in status.reason


def test_no_line_of_the_log_is_forged(cancelled, caplog):
    """By what the DELETE is answered."""

    def answer(handler):
        handler.wfile.write(b"\x1b[2K\rtask 1: fine\r\n")
        handler.close_connection = True

    cancelled(_hang_up, answer)
    (message,) = [r.getMessage() for r in caplog.records if "DELETE failed" in r.getMessage()]
    assert message.isprintable()


def test_where_a_name_leads_is_in_the_log_only(run, caplog):
    """Who may queue a web hook may not map our network with it."""
    status = run(url="http://localhost/", allow="")
    assert status.reason == "refused: localhost is at no public address"
    (message,) = [r.getMessage() for r in caplog.records if "localhost is at" in r.getMessage()][:1]
    assert message.startswith(f"task {status.id}: localhost is at ")
    assert message.endswith(", refused")
