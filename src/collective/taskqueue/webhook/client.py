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
from collective.taskqueue.webhook.transport import Transport
from dataclasses import replace
from http.client import HTTPResponse
from urllib.parse import quote
from urllib.parse import urljoin
import logging
import ssl
import threading
import time


logger = logging.getLogger("collective.taskqueue")

USER_AGENT = "collective.taskqueue"

#: Redirects that are followed; the next one fails the task.
MAX_HOPS = 5

#: Headers that are also sent to another origin after a redirect; all others may be secrets.
PUBLIC_HEADERS = frozenset({"content-type", "content-encoding", "user-agent"})

#: Headers of which the library would send a second one if they were spelled with an underscore.
LIBRARY_HEADERS = frozenset({"accept-encoding", "content-length", "host"})

#: Headers about one connection, which are not the caller's to choose.
CONNECTION_HEADERS = frozenset({"connection", "transfer-encoding"})

#: Seconds that the DELETE of a cancelled call may take.
DELETE_TIMEOUT = 10.0

_ASCII = "".join(map(chr, range(33, 127)))

Headers = tuple[tuple[str, str], ...]


class WebHooks:
    """Calls the web hooks of one queue, each over a connection of its own."""

    def __init__(self, settings: QueueSettings) -> None:
        self._secrets = settings.secret.split()
        self._guard = Guard(settings.allow_hosts.split())
        # One context for all connections: a new one would read all authorities again.
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])

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
        task = attempt.task
        transport = Transport(self._guard, self._tls, task.timeout)
        try:
            with attempt.cut_by(transport.cut):
                response = self._follow(attempt, transport)
                body = transport.read(response, MAX_BODY)
            outcome = _answered(response, body, started, task.max_backoff)
        except Refused as exc:
            if exc.detail:
                logger.warning("task %s: %s, refused", task.id, exc.detail)
            reason = clean(without_queries(f"refused: {exc}"))
            outcome = Outcome(None, reason, verdict="discard")
        except Exception as exc:
            # Invalid data from the server can make the library raise any exception.
            outcome = Outcome(None, _reason(exc))
            if transport.was_cut or transport.late():
                outcome = Outcome(None, f"timeout: it took more than {task.timeout:g} s")
        finally:
            transport.close()
        # Ask also if the call ended before the watchdog looked. Not after a quick success: the
        # round trip is not worth it.
        ok = outcome.status is not None and 200 <= outcome.status < 300
        quick = 0 <= time.time() - started < REPORT_INTERVAL
        if (transport.was_cut or not (ok and quick)) and attempt.cancelled(fresh=True):
            if transport.was_used:
                self._revoke(attempt)
            return Outcome(None, "cancelled while running", verdict="discard")
        return outcome

    def _follow(self, attempt: Attempt, transport: Transport) -> HTTPResponse:
        """Make the call, follow its redirects, and return the last response, its body unread."""
        task = attempt.task
        url, method, body, own, trusted = task.url, task.method, task.payload, task.headers, True
        for _ in range(MAX_HOPS + 1):
            headers = self._headers(attempt, own, body, trusted)
            response = transport.request(method, url, body, headers)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            transport.close()
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

    def _headers(
        self, attempt: Attempt, own: Headers, body: bytes, trusted: bool = True
    ) -> dict[str, bytes]:
        """Return the headers of one hop: ours, the caller's, and those of the task if trusted."""
        task = attempt.task
        signed = self._secrets and trusted
        pairs = [("User-Agent", USER_AGENT), *own]
        pairs = [pair for pair in pairs if _key(pair[0]) not in CONNECTION_HEADERS]
        if signed:
            pairs = [pair for pair in pairs if not _key(pair[0]).startswith("webhook-")]
            pairs += sign(self._secrets, task.id, int(time.time()), body).items()
        if trusted:
            pairs += [
                ("X-Task-Id", task.id),
                ("X-Task-Attempt", str(attempt.number)),
                ("X-Task-Max-Attempts", str(task.max_attempts)),
            ]
        pairs.append(("Connection", "close"))
        # One of each name, however spelled: with two, the receiver would choose one.
        found = {_key(name): (name, value) for name, value in pairs}
        return {
            key if key in LIBRARY_HEADERS else name: value.encode()
            for key, (name, value) in found.items()
        }

    def _revoke(self, attempt: Attempt) -> None:
        """Tell the remote server that the call was cancelled: send DELETE to the same url."""
        task = attempt.task
        transport = Transport(self._guard, self._tls, DELETE_TIMEOUT)
        # The watchdog is off by now: bound the time of a response that drips.
        timer = threading.Timer(DELETE_TIMEOUT, transport.cut)
        timer.daemon = True
        try:
            timer.start()
            headers = self._headers(attempt, _bodiless(task.headers), b"")
            response = transport.request("DELETE", task.url, b"", headers)
            logger.info("task %s: cancelled, DELETE answered %s", task.id, response.status)
        except Exception as exc:
            logger.warning("task %s: cancelled, but DELETE failed (%s)", task.id, _reason(exc))
        finally:
            timer.cancel()
            transport.close()


def _target(url: str, location: str) -> str:
    try:
        # The bytes of the header, in whatever encoding, become the bytes of the url.
        return urljoin(url, quote(location.encode("latin-1"), safe=_ASCII))
    except ValueError:
        # The message of `urljoin` quotes a part of the location: do not chain it.
        raise Refused(f"a redirect to {shown_url(location)}, which is no url") from None


def _bodiless(headers: Headers) -> Headers:
    return tuple(pair for pair in headers if not _key(pair[0]).startswith("content-"))


def _key(name: str) -> str:
    # WSGI, CGI and many proxies do not distinguish an underscore from a dash.
    return name.lower().replace("_", "-")


def _reason(exc: BaseException) -> str:
    return clean(without_queries(f"{type(exc).__name__}: {exc}"))


def _answered(response: HTTPResponse, body: bytes, now: float, longest: float) -> Outcome:
    """Return the outcome of a call that was answered; `longest` is the longest pause in seconds."""
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
        body=kept(body),
        truncated=cut or len(body) > MAX_BODY,
        retry_after=retry_after(response.headers.items(), now, longest),
    )
