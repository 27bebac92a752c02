"""Answers orchestrators over HTTP: is this worker alive, and is it ready?

From what the process knows about itself: an answer never waits for a storage or a task.
"""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.health import Health
from collective.taskqueue.worker.options import WorkerOptions
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
import logging
import socket
import threading


logger = logging.getLogger("collective.taskqueue")

#: Seconds after which a client that sends nothing is dropped.
TIMEOUT = 5.0


def serve_probes(options: WorkerOptions, health: Callable[[], Health]) -> None:
    """Answer probes in a thread, if the options name a port. Raises `WorkerError`.

    `health` is called for each request, in a thread of its own.
    """
    if options.probe_port is None:
        return
    host, port = options.probe_host, options.probe_port
    try:
        server = _server(host, port, health)
    except OSError as exc:
        message = f"probes cannot be answered at {host} port {port}: {exc.strerror or exc}"
        raise WorkerError(f"{message}; choose another --probe-port", Exit.CONFIGURATION) from exc
    threading.Thread(target=server.serve_forever, name="taskqueue-probe", daemon=True).start()
    logger.info("worker: answers probes at %s port %d", host, port)


def _server(host: str, port: int, health: Callable[[], Health]) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    class Handler(_Handler):
        ask = staticmethod(health)

    return Server((host, port), Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT
    #: No versions of Python and its library.
    server_version = "taskqueue"
    sys_version = ""
    ask: Callable[[], Health]

    def do_GET(self) -> None:
        """Answer with 200 and ok, or 503 and what is wrong, a line for each."""
        health = self.ask()
        if self.path == "/live":
            wrong = health.dead
        elif self.path == "/ready":
            wrong = (*health.dead, *health.unready)
        else:
            self.send_error(404)
            return
        body = "".join(f"{line}\n" for line in wrong or ("ok",)).encode()
        self.send_response(503 if wrong else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log requests for those who look for them: orchestrators ask every few seconds."""
        logger.debug("probe: %s", format % args)
