"""Web hooks that are queued and run against a receiver of their own."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import Task
from collective.taskqueue.webhook.client import WebHooks
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from receiver import BOUND
from receiver import Receiver
from receiver import RELEASE
from receiver import say
from uuid import uuid4
import pytest
import socket
import threading


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
            return storage.admin.get(task.id)
        thread = threading.Thread(target=consumer.step)
        thread.start()
        return storage, task, thread

    return run


@pytest.fixture(autouse=True)
def _released():
    RELEASE.clear()
    yield
    RELEASE.set()


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
