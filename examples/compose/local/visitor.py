"""Somebody who queues tasks over HTTP, at both web servers, all the time."""

from http.client import HTTPException
from show import Site
from threading import Event
from threading import Lock
from threading import Thread
import json
import re


#: Milliseconds that a task takes.
MILLISECONDS = 200

#: Seconds over which the requests are spread, about as long as all restarts together take.
SPAN = 50.0


class Visitor:
    """Queues one task after the other until there are `total` of them.

    A web server that does not accept a connection is left out, as the proxy does it.
    """

    def __init__(self, sites: list[Site], total: int) -> None:
        self.total = total
        #: Tasks whose request was answered, and requests without an answer.
        self.queued = self.unanswered = 0
        self.error: Exception | None = None
        self._sites = sites
        self._lock = Lock()
        self._hurry = Event()
        self._over = Event()
        _, page = sites[0].call("@@taskqueue-demo")
        self._token = re.search(r'name="_authenticator" value="([^"]+)"', page)[1]
        self._thread = Thread(target=self._visit)

    def start(self) -> None:
        """Begin to queue tasks, in a thread of its own."""
        self._thread.start()

    def hurry(self) -> None:
        """Queue what is left without a pause, and return when that is done."""
        self._hurry.set()
        self._thread.join()
        if self.error is not None:
            raise RuntimeError(f"the visitor: {self.error}") from self.error

    def leave(self) -> None:
        """Queue no more tasks."""
        self._over.set()
        self._hurry.set()
        if self._thread.is_alive():
            self._thread.join()

    def queue(self, number: int, milliseconds: int = MILLISECONDS) -> None:
        """Queue tasks by one request."""
        fields = {
            "count": number,
            "milliseconds": milliseconds,
            "_authenticator": self._token,
        }
        with self._lock:
            if self._post(fields):
                self.queued += number

    def ledger(self) -> dict[str, int]:
        """Return of each task how often it has run, as the database says."""
        status, body = self._sites[0].call("@@demo-ledger")
        if status != 200:
            raise RuntimeError(f"@@demo-ledger answered with status {status}: {body}")
        return json.loads(body)

    def _visit(self) -> None:
        try:
            while self.queued < self.total and not self._over.is_set():
                self.queue(1)
                self._hurry.wait(SPAN / self.total)
        except Exception as exc:  # raised again by the main thread
            self.error = exc

    def _post(self, fields: dict[str, object]) -> bool:
        self._sites.append(self._sites.pop(0))
        for site in self._sites:
            try:
                status, body = site.call("@@demo-queue-entries", fields)
            except ConnectionRefusedError:
                continue
            except (OSError, HTTPException):
                self.unanswered += 1
                return False
            if status != 302:
                raise RuntimeError(f"{site.url} answered with status {status}: {body[:500]}")
            return True
        raise RuntimeError("no web server accepts a connection")
