"""The requests of one call: one connection each, to a checked address, cut from another thread."""

from __future__ import annotations

from collective.taskqueue.webhook.guard import Guard
from contextlib import closing
from contextlib import ExitStack
from contextlib import suppress
from http.client import HTTPConnection
from http.client import HTTPResponse
from http.client import HTTPSConnection
from http.client import IncompleteRead
from urllib.parse import quote
import logging
import re
import socket
import ssl
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Characters of a path and its query that are sent as they are, besides letters and digits.
_UNQUOTED = "!$%&'()*+,-./:;=?@_~"


class Transport:
    """Sends the requests of one call, and ends them when their common time is up.

    :param guard: decides which url and which addresses may be called.
    :param tls: verifies the certificates of receivers.
    :param timeout: seconds for all requests together; None is no limit. DNS lookups count, but
        a running one is not interrupted.

    A socket waits that long at most for its next bytes. A response that drips is ended by
    another thread, which calls `cut`.
    """

    def __init__(self, guard: Guard, tls: ssl.SSLContext, timeout: float | None) -> None:
        self._guard = guard
        self._tls = tls
        self._deadline = None if timeout is None else time.monotonic() + timeout
        #: What the request has opened. `cut` uses only the handle, and `_gate` guards the handle.
        self._opened = ExitStack()
        self._gate = threading.Lock()
        self._handle: socket.socket | None = None
        self.was_cut = False
        #: The remote server may know of the call: a request was sent, or is about to be.
        self.was_used = False

    def request(
        self, method: str, url: str, body: bytes, headers: dict[str, bytes]
    ) -> HTTPResponse:
        """Send a request over a connection of its own; return the response, its body unread.

        Raises `Refused`, `TimeoutError` if the time is up or `cut` was called, and `OSError` or
        `HTTPException` for all other failures. Close the connection by `close`.
        """
        scheme, host, port = self._guard.check_url(url)
        sock = self._connect(host, port)
        connection = HTTPConnection(host, port)
        if scheme == "https":
            sock = self._encrypt(sock, host)
            connection = HTTPSConnection(host, port, context=self._tls)
        self._opened.enter_context(closing(connection))
        connection.response_class = _FinalResponse
        connection.sock = sock
        sock.settimeout(self.rest())
        self.was_used = True
        # A server may answer, and close the connection, before it has read the whole request.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, _path(url), body or None, headers)
        return self._opened.enter_context(closing(connection.getresponse()))

    def _connect(self, host: str, port: int) -> socket.socket:
        self.rest()
        error = OSError("no address")
        for address in self._guard.addresses(host, port):
            rest = self.rest()
            family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
            try:
                sock = self._opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
                sock.settimeout(rest)
                # Of its own: TLS and the library close the socket when they like.
                handle = sock.dup()
                with self._gate:
                    self._handle = handle
                # `cut` before there was a handle, or before the socket was connected, shut
                # down nothing: so ask before and after.
                self.rest()
                sock.connect(address)
                self.rest()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as exc:
                error = exc
                self.close()
            else:
                return sock
        raise error

    def _encrypt(self, sock: socket.socket, host: str) -> ssl.SSLSocket:
        wrapped = self._opened.enter_context(
            self._tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        )
        wrapped.settimeout(self.rest())
        wrapped.do_handshake()
        return wrapped

    def read(self, response: HTTPResponse, limit: int) -> bytes:
        """Return the body of a response, up to one byte more than `limit`.

        Raises like `request`, and `IncompleteRead` if the connection ended before the body.
        """
        body = response.read(limit + 1)
        # What was cut may look like a body that ends with its connection.
        self.rest()
        if response.length and len(body) <= limit:
            raise IncompleteRead(body, response.length)
        return body

    def rest(self) -> float | None:
        """Return the seconds left; raises `TimeoutError` if there are none, or after `cut`."""
        if self.was_cut or self.late():
            raise TimeoutError
        return None if self._deadline is None else self._deadline - time.monotonic()

    def late(self) -> bool:
        """Return whether the time is up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def cut(self) -> None:
        """End the call now; may be called by any thread, at any time, and more than once."""
        # Under the lock: once closed, the number of the handle may be that of another socket.
        with self._gate:
            self.was_cut = True
            if self._handle is None:
                return
            try:
                self._handle.shutdown(socket.SHUT_RDWR)
            except OSError as exc:
                logger.debug("a connection was closed before it could be cut (%s)", exc)

    def close(self) -> None:
        """Close the connection; after that `cut` shuts down nothing."""
        with self._gate:
            if self._handle is not None:
                self._handle.close()
                self._handle = None
        self._opened.close()


class _FinalResponse(HTTPResponse):
    """A response that skips interim responses; the library itself skips only status 100."""

    def begin(self) -> None:
        super().begin()
        while 101 < self.status < 200:
            # Reset, as if nothing had been read yet.
            self.headers = None  # type: ignore[assignment]
            super().begin()


def _path(url: str) -> str:
    """Return path and query of a url, as they are sent."""
    path = re.sub(r"^[^/?#]*//[^/?#]*", "", url.partition("#")[0])
    return quote(path if path.startswith("/") else f"/{path}", safe=_UNQUOTED)
