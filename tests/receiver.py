"""A server on the loopback interface that is called by web hooks, and misbehaves on demand."""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from http.server import ThreadingHTTPServer
import socket
import threading


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

#: Seconds that a test waits at most; only a test that fails waits that long.
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


def hops(number, code=307):
    """Redirects from one /hop/N to the next, a number of times."""

    def answer(handler):
        left = number - int(handler.path.rpartition("/")[2])
        where = f"/hop/{number - left + 1}"
        say(code, Location=where)(handler) if left else say(200)(handler)

    return answer


#: What answers wait for while a test wants them to; it is set when the test is over.
RELEASE = threading.Event()


def hang_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
