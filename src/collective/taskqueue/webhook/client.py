"""One task as one HTTP call to somebody else's server."""

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

#: Headers that are given to another origin after a redirect; all others may be secrets.
PUBLIC_HEADERS = frozenset({"content-type", "content-encoding", "user-agent"})

#: Headers of which the library would send one more, were they spelled with an underscore.
LIBRARY_HEADERS = frozenset({"accept-encoding", "transfer-encoding", "user-agent"})

#: Seconds that the DELETE of a cancelled call may take.
DELETE_TIMEOUT = 10.0

#: Connections kept open to one host: no more than there are threads, and seldom as many.
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
            # One for all connections: each of its own would read all authorities again.
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

        Raises nothing. The whole call, redirects and body included, is over when the
        timeout of the task is, or when it is cancelled; only the lookup of a name is waited for.
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
            # Also what garbage from the other side makes of the library.
            outcome = Outcome(None, _reason(exc))
            if line.was_cut or line.late():
                outcome = Outcome(None, f"timeout: it took more than {attempt.task.timeout:g} s")
        finally:
            line.hang_up()
        # Also if it has ended before the watchdog looked. A quick success is worth no question.
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
                # For good: who led us away also decides whether we come back.
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
        """What one hop is told: ours, the caller's, and who sent it if it may know."""
        task = attempt.task
        signed = self._secrets and trusted
        # Sent as UTF-8; the library takes text for Latin-1.
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
        # One of each, however spelled: two would be the choice of who reads them.
        return dict({_key(name): (name, value) for name, value in pairs}.values())

    def _revoke(self, attempt: Attempt) -> None:
        """Tell the other side that the call was cancelled: a DELETE of the same url."""
        task = attempt.task
        line = _Line(DELETE_TIMEOUT)
        # Nobody watches any more; byte after byte must not hold the thread.
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
    """The connection of one call: its time limit, and a way to cut it from outside."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._gate = threading.Lock()
        self._wire: socket.socket | None = None
        self.response: BaseHTTPResponse | None = None
        self.was_cut = False
        #: The other side may know of the call: something was sent, or nearly so.
        self.was_used = False

    def rest(self) -> float | None:
        """Seconds that are left; raises `TimeoutError` if none are, or the line was cut."""
        if self.was_cut or self.late():
            raise TimeoutError
        return None if self._deadline is None else self._deadline - time.monotonic()

    def late(self) -> bool:
        """Whether the time is up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def hold(self, wire: socket.socket | None) -> None:
        """From now on `cut` ends this; raises `TimeoutError` if it is too late for that."""
        with self._gate:
            self._wire = wire
        # It may have been cut before there was anything to cut.
        self.rest()

    def let_go(self) -> None:
        """From now on `cut` ends nothing: the connection is closed, or somebody else's."""
        with self._gate:
            self._wire = None

    def cut(self) -> None:
        """End the call now; called by the watchdog or a timer in their own threads."""
        # Shut within the gate: once let go of, the connection may be another task's.
        with self._gate:
            self.was_cut = True
            if self._wire is None:
                return
            try:
                # Beneath TLS: its own shutdown would pull the rug from under the reader.
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
    """A pool whose connections belong to one call at a time."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.leave()
        super()._put_conn(conn)  # type: ignore[misc]


class _Final(HTTPResponse):
    """A response that is no interim one: what comes before it is read over.

    Else it would be taken for the answer, and the answer for that of the next call.
    """

    def begin(self) -> None:
        super().begin()
        while 101 < self.status < 200:
            # As if nothing had been read yet.
            self.headers = None  # type: ignore[assignment]
            super().begin()
        # Another protocol, that of no call of ours.
        self.will_close = self.will_close or self.status == 101


class _Guarded:
    """A connection to an address that the guard has checked, and to no other."""

    guard: Guard
    response_class = _Final
    #: Whose call it makes; nobody's while it waits in the pool.
    line: _Line | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        self.line = _calling.line
        # The response may take the socket over; it is still the one to cut.
        self.line.hold(self.sock)  # type: ignore[attr-defined]
        super().request(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Send a part of the request; called by the library, first of all for its headers."""
        if self.sock is None:  # type: ignore[attr-defined]
            # As the library would do now.
            self.connect()
        if self.line is not None:
            self.line.was_used = True
        super().send(data)  # type: ignore[misc]

    def leave(self) -> None:
        """Belong to nobody's call any more; called before the next one can have it."""
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
        # The library forgives a pipe that breaks while it sends, and would go on without one.
        raise ProtocolError("no connection", error)

    def _dial(self, address: tuple[Any, ...]) -> socket.socket:
        line = _calling.line
        rest = line.rest()
        family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
        with ExitStack() as failed:
            sock = failed.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.settimeout(rest)
            # A second handle: TLS takes the socket out of the first one to shake hands.
            line.hold(self._dialled.enter_context(sock.dup()))
            sock.connect(address)
            # Before the handshake: it may have been cut when there was nothing to shut yet.
            sock.settimeout(line.rest())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            failed.pop_all()
        return sock


def _target(url: str, location: str) -> str:
    try:
        # The bytes of a header, whatever they are, become those of the url.
        return urljoin(url, quote(location.encode("latin-1"), safe=_ASCII))
    except ValueError:
        # `urljoin` quotes a part of the location in what it raises.
        raise Refused(f"a redirect to {shown_url(location)}, which is no url") from None


def _bodiless(headers: Headers) -> Headers:
    return tuple(pair for pair in headers if not _key(pair[0]).startswith("content-"))


def _spelled(name: str) -> str:
    # The library adds its own unless it finds one in its own spelling.
    return _key(name) if _key(name) in LIBRARY_HEADERS else name


def _key(name: str) -> str:
    # WSGI, CGI and many a proxy do not tell an underscore from a dash.
    return name.lower().replace("_", "-")


def _reason(exc: BaseException) -> str:
    # The library wraps what has happened, sometimes twice.
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


#: The call that the current thread makes, for the connection that makes it.
_calling = threading.local()
