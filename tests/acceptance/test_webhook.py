"""Web hooks of a real process: bound to the commit, and nothing of the visitor in them."""

from acceptance.instance import basic
from acceptance.instance import wait_for
from acceptance.instance import WAIT_TIMEOUT
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
import pytest
import re
import threading


SECTIONS = """\
%import collective.taskqueue
<taskqueue>
  allow_hosts 127.0.0.1:{port}
</taskqueue>
<taskqueue-server />
<taskqueue>
  queue strict
</taskqueue>
<taskqueue-server>
  queue strict
</taskqueue-server>
"""


FIFTY = """\
<taskqueue-server>
  concurrent_limit 50
</taskqueue-server>"""


@pytest.fixture
def receiver():
    """Another server; it remembers the calls that it gets."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            """The test looks at the calls."""

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.calls.append((self.path, dict(self.headers), body))
            self.send_response(201)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"thanks")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.calls = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(WAIT_TIMEOUT)


def test_web_hooks(zope, receiver):
    """N62, D15: after the commit and not without it, and only where the queue allows it."""
    url = f"http://127.0.0.1:{receiver.server_port}"
    instance = zope(SECTIONS.format(port=receiver.server_port)).start()
    visitor = {"Cookie": "__ac=secret-visitor", **basic("visitor"), "Accept-Language": "fi"}

    for then, expected in (("abort", 200), ("error", 500), ("doom", 500)):
        form = {"calls": f'[{{"url": "{url}/{then}"}}]', "then": then}
        answer = instance.request("GET", f"/@@fixture-add?{instance.query(form)}", headers=visitor)
        assert answer[0] in (200, expected), answer

    calls = [{"url": f"{url}/hook?x=y", "params": {"a": "1"}}, {"url": f"{url}/two"}]
    asked = instance.add(*calls, path="", headers=visitor)
    statuses = [instance.finished(task_id) for task_id in asked["ids"]]
    assert [(status["state"], status["status"]) for status in statuses] == [("succeeded", 201)] * 2
    assert statuses[0]["body"] == "thanks"

    (first, second) = receiver.calls
    assert (first[0], first[2], second[0]) == ("/hook?x=y", b"a=1", "/two")
    assert first[1]["X-Task-Id"] == asked["ids"][0]
    assert first[1]["X-Task-Max-Attempts"] == "36"
    for _, headers, _ in receiver.calls:
        assert "secret-visitor" not in str(headers)
        assert {"Cookie", "Authorization", "Accept-Language"}.isdisjoint(headers)
    assert instance.lines(asked["ids"][0], f'"POST {url}/hook?x" 201 ')

    # Port 80, since any other would already be refused by `add`.
    asked = instance.add({"url": "http://127.0.0.1/", "queue": "strict"}, path="")
    status = wait_for(lambda: instance.finished(asked["ids"][0]), "the refused web hook")
    assert status["state"] == "failed"
    assert status["reason"] == "refused: 127.0.0.1 is at no public address"
    assert len(status["attempts"]) == 1
    assert len(receiver.calls) == 2


#: What a process of fifty slow web hooks may take, in bytes.
MEMORY = 150 * 1024 * 1024


class Slow(BaseHTTPRequestHandler):
    """Answers no call before fifty are there."""

    def log_message(self, *args):
        """The test counts the calls."""

    def do_POST(self):
        self.server.barrier.wait(WAIT_TIMEOUT)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_fifty_at_once(zope):
    """T13: each of them waits for all the others; the process stays small."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.request_queue_size = 50
    server.barrier = threading.Barrier(50)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        sections = SECTIONS.format(port=server.server_port)
        sections = sections.replace("<taskqueue-server />", FIFTY)
        instance = zope(sections).start()
        url = f"http://127.0.0.1:{server.server_port}/slow"
        asked = instance.add(*[{"url": url, "max_attempts": 1}] * 50, path="")
        states = {instance.finished(task_id)["state"] for task_id in asked["ids"]}
        assert states == {"succeeded"}
        status = Path(f"/proc/{instance.process.pid}/status").read_text()
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
        assert int(peak) * 1024 < MEMORY
    finally:
        server.barrier.abort()
        server.shutdown()
        server.server_close()
        thread.join(WAIT_TIMEOUT)
