"""Performs one task as one HTTP call to a remote server."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.attempt import REPORT_INTERVAL
from collective.taskqueue.consumer.response import clean
from collective.taskqueue.consumer.response import kept
from collective.taskqueue.consumer.response import MAX_BODY
from collective.taskqueue.consumer.response import recorded
from collective.taskqueue.consumer.response import retry_after
from collective.taskqueue.publisher.accesslog import log_attempt
from collective.taskqueue.publisher.accesslog import shown_url
from collective.taskqueue.publisher.accesslog import without_queries
from collective.taskqueue.task import Outcome
from collective.taskqueue.webhook.guard import Guard
from collective.taskqueue.webhook.guard import Refused
from collective.taskqueue.webhook.signing import sign
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPResponse
from typing import Any
from urllib.parse import quote
from urllib.parse import urljoin
from urllib3.connection import HTTPConnection
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.exceptions import ProtocolError
from urllib3.poolmanager import PoolManager
from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout
import logging
import socket
import ssl
import threading
import time


logger = logging.getLogger("collective.taskqueue")

USER_AGENT = "collective.taskqueue"

#: Redirects that are followed; the next one fails the task.
MAX_HOPS = 5

#: Headers that are also sent to another origin after a redirect; all others may be secrets.
PUBLIC_HEADERS = frozenset({"content-type", "content-encoding", "user-agent"})

#: Headers that urllib3 would send a second time if they were spelled with an underscore.
LIBRARY_HEADERS = frozenset({"accept-encoding", "transfer-encoding", "user-agent"})

#: Seconds that the DELETE of a cancelled call may take.
DELETE_TIMEOUT = 10.0

#: Connections kept open to one host. There are never more than threads, and seldom as many.
POOL_SIZE = 100

#: Bytes read at once.
READ_SIZE = 8192

_ASCII = "".join(map(chr, range(33, 127)))

Headers = tuple[tuple[str, str], ...]


class WebHooks:
    """Calls the web hooks of one queue; connections are reused between tasks."""

    def __init__(self, settings: QueueSettings) -> None:
        self._secrets = settings.secret.split()
        self._guard = Guard(settings.allow_hosts.split())
        self._pools = PoolManager(
            num_pools=50,
            maxsize=POOL_SIZE,
            retries=False,
            # One context for all connections: a new one would read all authorities again.
            ssl_context=ssl.create_default_context(),
        )
        guard = {"guard": self._guard}
        http = type("_HTTP", (_Guarded, HTTPConnection), guard)
        https = type("_HTTPS", (_Guarded, HTTPSConnection), guard)
        self._pools.pool_classes_by_scheme = {
            "http": type("_HTTPPool", (_Lending, HTTPConnectionPool), {"ConnectionCls": http}),
            "https": type("_HTTPSPool", (_Lending, HTTPSConnectionPool), {"ConnectionCls": https}),
        }

    def call(self, attempt: Attempt) -> Outcome:
        """Make the call and return its outcome; called by the consumer.

        Raises nothing. The timeout of the task, or its cancellation, ends the whole call,
        redirects and body included; only a running DNS lookup is waited for.
        """
        started = time.time()
        clock = time.perf_counter()
        outcome = self._outcome(attempt, started)
        seconds = time.perf_counter() - clock
        log_attempt(attempt, outcome, seconds)
        return replace(outcome, started=started, seconds=seconds)

    def _outcome(self, attempt: Attempt, started: float) -> Outcome:
        line = _Line(attempt.task.timeout)
        try:
            with attempt.cut_by(line.cut):
                response = self._follow(attempt, line)
                outcome = _read(response, line, started, attempt.task.max_backoff)
        except Refused as exc:
            if exc.detail:
                logger.warning("task %s: %s, refused", attempt.task.id, exc.detail)
            reason = clean(without_queries(f"refused: {exc}"))
            outcome = Outcome(None, reason, verdict="discard")
        except Exception as exc:
            # Invalid data from the server can make the library raise any exception.
            outcome = Outcome(None, _reason(exc))
            if line.was_cut or line.late():
                outcome = Outcome(None, f"timeout: it took more than {attempt.task.timeout:g} s")
        finally:
            line.hang_up()
        # Ask also if the call ended before the watchdog looked. Not after a quick success: the
        # round trip is not worth it.
        ok = outcome.status is not None and 200 <= outcome.status < 300
        quick = 0 <= time.time() - started < REPORT_INTERVAL
        if (line.was_cut or not (ok and quick)) and attempt.cancelled(fresh=True):
            if line.was_used:
                self._revoke(attempt)
            return Outcome(None, "cancelled while running", verdict="discard")
        return outcome

    def _follow(self, attempt: Attempt, line: _Line) -> BaseHTTPResponse:
        task = attempt.task
        url, method, body, own, trusted = task.url, task.method, task.payload, task.headers, True
        for _ in range(MAX_HOPS + 1):
            headers = self._headers(attempt, own, body, trusted)
            response = self._request(method, url, body, headers, line)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            line.hang_up()
            target = _target(url, location)
            if self._guard.check_url(target) != self._guard.check_url(url):
                # For good: the other origin also decides whether a later redirect leads back.
                trusted = False
                own = tuple(pair for pair in own if _key(pair[0]) in PUBLIC_HEADERS)
            if response.status == 303:
                method = "HEAD" if method == "HEAD" else "GET"
                body, own = b"", _bodiless(own)
            url = target
        raise Refused(f"more than {MAX_HOPS} redirects")

    def _request(
        self, method: str, url: str, body: bytes, headers: dict[str, str], line: _Line
    ) -> BaseHTTPResponse:
        scheme, host, port = self._guard.check_url(url)
        rest = line.rest()
        pool = self._pools.connection_from_host(host, port, scheme)
        target = url.split("://", 1)[1].partition("#")[0]
        slash = min((i for i in (target.find("/"), target.find("?")) if i >= 0), default=-1)
        path = target[slash:] if slash >= 0 else "/"
        _calling.line = line
        try:
            line.response = pool.urlopen(
                method,
                path if path.startswith("/") else f"/{path}",
                body=body or None,
                headers=headers,
                redirect=False,
                retries=False,
                timeout=Timeout(connect=rest, read=rest),
                preload_content=False,
                decode_content=False,
            )
        finally:
            del _calling.line
        return line.response

    def _headers(
        self, attempt: Attempt, own: Headers, body: bytes, trusted: bool = True
    ) -> dict[str, str]:
        """Return the headers of one hop: ours, the caller's, and those of the task if trusted."""
        task = attempt.task
        signed = self._secrets and trusted
        # Sent as UTF-8; the library encodes text as Latin-1.
        pairs = [("User-Agent", USER_AGENT)]
        pairs += [(_spelled(name), value.encode().decode("latin-1")) for name, value in own]
        if signed:
            pairs = [pair for pair in pairs if not _key(pair[0]).startswith("webhook-")]
            pairs += sign(self._secrets, task.id, int(time.time()), body).items()
        if trusted:
            pairs += [
                ("X-Task-Id", task.id),
                ("X-Task-Attempt", str(attempt.number)),
                ("X-Task-Max-Attempts", str(task.max_attempts)),
            ]
        # One of each name, however spelled: with two, the receiver would choose one.
        return dict({_key(name): (name, value) for name, value in pairs}.values())

    def _revoke(self, attempt: Attempt) -> None:
        """Tell the remote server that the call was cancelled: send DELETE to the same url."""
        task = attempt.task
        line = _Line(DELETE_TIMEOUT)
        # The watchdog is off by now: bound the time of a response that drips.
        timer = threading.Timer(DELETE_TIMEOUT, line.cut)
        timer.daemon = True
        try:
            timer.start()
            headers = self._headers(attempt, _bodiless(task.headers), b"")
            response = self._request("DELETE", task.url, b"", headers, line)
            logger.info("task %s: cancelled, DELETE answered %s", task.id, response.status)
        except Exception as exc:
            logger.warning("task %s: cancelled, but DELETE failed (%s)", task.id, _reason(exc))
        finally:
            timer.cancel()
            line.hang_up()


class _Line:
    """The connection of one call: its time limit, and a way to cut it from another thread."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._gate = threading.Lock()
        self._wire: socket.socket | None = None
        self.response: BaseHTTPResponse | None = None
        self.was_cut = False
        #: The remote server may know of the call: something was sent, or is about to be.
        self.was_used = False

    def rest(self) -> float | None:
        """Return the seconds left; raises `TimeoutError` if there are none, or after `cut`."""
        if self.was_cut or self.late():
            raise TimeoutError
        return None if self._deadline is None else self._deadline - time.monotonic()

    def late(self) -> bool:
        """Whether the time is up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def hold(self, wire: socket.socket | None) -> None:
        """Let `cut` end this socket; raises `TimeoutError` if cut already, or too late."""
        with self._gate:
            self._wire = wire
        # `cut` may have been called before there was a socket to shut down.
        self.rest()

    def let_go(self) -> None:
        """Let `cut` end no socket: the connection is closed, or belongs to another call."""
        with self._gate:
            self._wire = None

    def cut(self) -> None:
        """End the call now; called by the watchdog or a timer in their own threads."""
        # Shut down under the lock: after `let_go` the connection may belong to another task.
        with self._gate:
            self.was_cut = True
            if self._wire is None:
                return
            try:
                # Beneath TLS: a shutdown of TLS would remove its state while a thread reads.
                socket.socket.shutdown(self._wire, socket.SHUT_RDWR)
            except OSError as exc:
                logger.debug("a connection was closed before it could be cut (%s)", exc)

    def hang_up(self) -> None:
        """Close the connection, unless its response was read to the end."""
        response, self.response = self.response, None
        if response is not None:
            response.close()
            response.release_conn()
        self.let_go()


class _Lending:
    """A pool that detaches a connection from its call before it takes the connection back."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.leave()
        super()._put_conn(conn)  # type: ignore[misc]


class _Final(HTTPResponse):
    """A response that skips interim responses (1xx).

    Otherwise an interim response would be taken for the answer, and the answer for that of the
    next call.
    """

    def begin(self) -> None:
        super().begin()
        while 101 < self.status < 200:
            # Reset, as if nothing had been read yet.
            self.headers = None  # type: ignore[assignment]
            super().begin()
        # 101 switches to another protocol, which no call has asked for: close the connection.
        self.will_close = self.will_close or self.status == 101


class _Guarded:
    """A connection that is only made to an address that the guard has checked."""

    guard: Guard
    response_class = _Final
    #: The call that uses the connection; None while the connection is idle in the pool.
    line: _Line | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        self.line = _calling.line
        # The response may take over the socket; `cut` must end the same socket then, too.
        self.line.hold(self.sock)  # type: ignore[attr-defined]
        super().request(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Send a part of the request; the library calls this first with the headers."""
        if self.sock is None:  # type: ignore[attr-defined]
            # As the library would do now; `was_used` stays False if that fails.
            self.connect()
        if self.line is not None:
            self.line.was_used = True
        super().send(data)  # type: ignore[misc]

    def leave(self) -> None:
        """Detach the connection from its call, before the next call can get the connection."""
        line, self.line = self.line, None
        if line is not None:
            line.let_go()

    def connect(self) -> None:
        self.line = _calling.line
        with ExitStack() as self._dialled:
            super().connect()  # type: ignore[misc]
            self.line.hold(self.sock)  # type: ignore[attr-defined]

    def _new_conn(self) -> socket.socket:
        error: OSError = OSError("no address")
        for address in self.guard.addresses(self.host, self.port):  # type: ignore[attr-defined]
            try:
                return self._dial(address)
            except OSError as exc:
                error = exc
        # urllib3 ignores a `BrokenPipeError` while it sends, and would go on unconnected.
        raise ProtocolError("no connection", error)

    def _dial(self, address: tuple[Any, ...]) -> socket.socket:
        line = _calling.line
        rest = line.rest()
        family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
        with ExitStack() as failed:
            sock = failed.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.settimeout(rest)
            # A second handle for `cut`: TLS detaches the first one for its handshake.
            line.hold(self._dialled.enter_context(sock.dup()))
            sock.connect(address)
            # Before the handshake: a `cut` before the socket was connected had no effect.
            sock.settimeout(line.rest())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            failed.pop_all()
        return sock


def _target(url: str, location: str) -> str:
    try:
        # The bytes of the header, in whatever encoding, become the bytes of the url.
        return urljoin(url, quote(location.encode("latin-1"), safe=_ASCII))
    except ValueError:
        # The message of `urljoin` quotes a part of the location: do not chain it.
        raise Refused(f"a redirect to {shown_url(location)}, which is no url") from None


def _bodiless(headers: Headers) -> Headers:
    return tuple(pair for pair in headers if not _key(pair[0]).startswith("content-"))


def _spelled(name: str) -> str:
    # The library adds its own header unless it finds one in its own spelling.
    return _key(name) if _key(name) in LIBRARY_HEADERS else name


def _key(name: str) -> str:
    # WSGI, CGI and many proxies do not distinguish an underscore from a dash.
    return name.lower().replace("_", "-")


def _reason(exc: BaseException) -> str:
    # The library wraps the original exception, sometimes twice.
    while isinstance(exc, HTTPError):
        causes = [arg for arg in exc.args if isinstance(arg, BaseException)]
        if not causes:
            break
        exc = causes[-1]
    return clean(without_queries(f"{type(exc).__name__}: {exc}"))


def _read(response: BaseHTTPResponse, line: _Line, now: float, longest: float) -> Outcome:
    body = bytearray()
    while len(body) <= MAX_BODY:
        chunk = response.read(READ_SIZE)
        if not chunk:
            break
        body += chunk
    line.rest()
    headers, cut = recorded(response.headers.items())
    status = response.status
    if 200 <= status < 300:
        reason = ""
    elif 300 <= status < 400:
        reason = f"status {status}, no redirect that can be followed"
    elif status == 410:
        reason = "status 410, the web hook is gone for good"
    else:
        reason = f"status {status}"
    return Outcome(
        status=status,
        reason=reason,
        headers=headers,
        body=kept(bytes(body[: MAX_BODY + 1])),
        truncated=cut or len(body) > MAX_BODY,
        retry_after=retry_after(response.headers.items(), now, longest),
    )


#: The `_Line` of the call that the current thread makes, for its connection to pick up.
_calling = threading.local()
