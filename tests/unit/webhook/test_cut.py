"""A call that is cut ends at once, and no other one does."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.task import Task
from collective.taskqueue.webhook import client
from collective.taskqueue.webhook.client import WebHooks
from contextlib import ExitStack
from receiver import BOUND
from receiver import RELEASE
from receiver import say
from types import SimpleNamespace
from urllib3.exceptions import HTTPError
from uuid import uuid4
import pytest
import socket
import threading
import time


@pytest.mark.parametrize(("place", "moment"), [(socket, "getaddrinfo"), (socket.socket, "connect")])
def test_a_call_that_is_cut_before_it_is_made_is_not_made(receiver, monkeypatch, place, moment):
    """Also if it waited for a name, which cannot be cut, or there was nothing to shut yet."""
    original = getattr(place, moment)
    hooks = WebHooks(QueueSettings(allow_hosts=f"127.0.0.1:{receiver.port}"))
    line = client._Line(BOUND)

    def cut(*args, **kwargs):
        line.cut()
        return original(*args, **kwargs)

    monkeypatch.setattr(place, moment, cut)
    with pytest.raises((TimeoutError, HTTPError)):
        hooks._request("GET", receiver.url(), b"", {}, line)
    assert receiver.calls == []


# whose connection is cut


class Lines:
    """Calls of one queue of web hooks, each in its own thread, with a line to cut it by."""

    def __init__(self, allow="127.0.0.1"):
        self.hooks = WebHooks(QueueSettings(allow_hosts=allow))
        self.threads = []

    def call(self, url):
        line, ends = client._Line(BOUND), []
        attempt = SimpleNamespace(
            task=Task(id=str(uuid4()), queue="default", url=url, method="POST", timeout=BOUND),
            number=1,
        )

        def call():
            try:
                ends.append(client._read(self.hooks._follow(attempt, line), line, 0.0, 0.0).status)
            except Exception as exc:
                ends.append(exc)
            finally:
                line.hang_up()

        thread = threading.Thread(target=call)
        thread.start()
        self.threads.append(thread)
        return line, ends, thread


@pytest.fixture
def lines():
    lines = Lines()
    yield lines
    RELEASE.set()
    for thread in lines.threads:
        thread.join(BOUND)


def test_a_cut_shuts_nobody_elses_connection(lines, receiver, silent):
    """It was used for the hop before, and is another task's by now."""
    port, accepted = silent
    waiting = threading.Event()

    def answer(handler):
        if handler.path == "/a":
            say(307, Location=f"https://127.0.0.1:{port}/")(handler)
        else:
            waiting.set()
            RELEASE.wait(BOUND)
            say(200)(handler)

    receiver.answer = answer
    first, ends, thread = lines.call(receiver.url("/a"))
    assert accepted.wait(BOUND)
    _, others, other = lines.call(receiver.url("/b"))
    assert waiting.wait(BOUND)
    first.cut()
    thread.join(BOUND)
    assert isinstance(ends[0], TimeoutError | HTTPError)
    RELEASE.set()
    other.join(BOUND)
    assert others == [200]


def test_a_cut_after_the_end_shuts_nobody_elses_connection(lines, receiver):
    """The response was read, and the connection given back."""
    receiver.answer = say(200, b"x")
    first, ends, thread = lines.call(receiver.url())
    thread.join(BOUND)
    assert ends == [200]
    waiting = threading.Event()

    def answer(handler):
        waiting.set()
        RELEASE.wait(BOUND)
        say(200)(handler)

    receiver.answer = answer
    _, others, other = lines.call(receiver.url())
    assert waiting.wait(BOUND)
    assert len(receiver.connections) == 1
    first.cut()
    RELEASE.set()
    other.join(BOUND)
    assert others == [200]


def test_a_handshake_is_cut(lines, silent):
    """It does not wait for its deadline."""
    port, accepted = silent
    line, ends, thread = lines.call(f"https://127.0.0.1:{port}/")
    assert accepted.wait(BOUND)
    line.cut()
    thread.join(BOUND / 2)
    assert ends
    assert isinstance(ends[0], OSError | HTTPError)


def test_a_connect_is_cut(lines):
    """Nobody accepts, and the queue of those who wait is full."""
    with socket.socket() as server, ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        full = False
        while not full:
            client = waiting.enter_context(socket.socket())
            client.settimeout(0.2)
            try:
                client.connect(server.getsockname())
            except TimeoutError:
                full = True
        line, ends, thread = lines.call(f"http://127.0.0.1:{server.getsockname()[1]}/")
        deadline = time.monotonic() + BOUND / 2
        while not ends and time.monotonic() < deadline:
            # Again and again, as the watchdog does: it may not have begun.
            line.cut()
            thread.join(0.05)
        assert ends
        assert isinstance(ends[0], OSError | HTTPError)
