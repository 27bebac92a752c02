"""The code of docs/how-to/webhooks.rst, sender and receiver."""

from collective.taskqueue import taskqueue
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.webhook.client import WebHooks
from collective.taskqueue.webhook.signing import verify
from http.server import BaseHTTPRequestHandler
from http.server import HTTPServer
import json
import pytest
import threading
import time
import transaction


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

#: Seconds that a test waits at most; only a test that fails waits that long.
BOUND = 30.0


def announce(url, title):
    return taskqueue.add(
        url,
        payload=json.dumps({"title": title}),
        headers={"Content-Type": "application/json"},
        description=f"Announce {title}",
    )


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to what was signed with the secret, and 401 to anything else."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        signed = verify(SECRET, headers, body, time.time())
        self.send_response(204 if signed else 401)
        self.end_headers()


@pytest.fixture
def port():
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(BOUND)


@pytest.mark.parametrize(("secret", "status"), [(SECRET, 204), ("", 401)])
def test_a_signed_web_hook(queue, port, monkeypatch, secret, status):
    """It is accepted by a receiver that verifies, and only because it is signed."""
    settings = QueueSettings(allow_hosts=f"127.0.0.1:{port}", secret=secret)
    monkeypatch.setattr(queue, "settings", settings)
    task_id = announce(f"http://127.0.0.1:{port}/hook", "Möhren")
    transaction.commit()
    consumer = Consumer(queue.storage, WebHooks(settings).call, ServerSettings())
    consumer.step()
    consumer.stop()
    assert taskqueue.status(task_id).status == status
