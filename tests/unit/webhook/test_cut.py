"""A call that is cut ends at once, at any moment, and no other call does."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import Task
from collective.taskqueue.webhook.client import WebHooks
from collective.taskqueue.webhook.guard import Guard
from collective.taskqueue.webhook.transport import Transport
from contextlib import ExitStack
from receiver import BOUND
from receiver import RELEASE
from receiver import say
from uuid import uuid4
import pytest
import socket
import ssl
import threading
import time


CUT = f"timeout: it took more than {BOUND:g} s"


class Calls:
    """Calls of one queue of web hooks, each in its own thread; `Attempt.interrupt` cuts one."""

    def __init__(self):
        settings = QueueSettings(allow_hosts="127.0.0.1")
        self.hooks, self.storage = WebHooks(settings), LocalStorage(settings)
        self.threads = []

    def attempt(self, url):
        task = Task(id=str(uuid4()), queue="default", url=url, method="POST", timeout=BOUND)
        self.storage.stage(task.id, [task])
        self.storage.promote(task.id)
        (lease,) = self.storage.reserve("test", limit=1, timeout=BOUND, lease=BOUND)
        return Attempt(lease, self.storage)

    def start(self, url):
        """Start a call; return its attempt, the list that gets its outcome, and its thread."""
        attempt, outcomes = self.attempt(url), []
        thread = threading.Thread(target=lambda: outcomes.append(self.hooks.call(attempt)))
        thread.start()
        self.threads.append(thread)
        return attempt, outcomes, thread


@pytest.fixture
def calls():
    calls = Calls()
    yield calls
    RELEASE.set()
    for thread in calls.threads:
        thread.join(BOUND)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("place", "moment"),
    [
        (socket, "getaddrinfo"),
        (socket, "socket"),
        (socket.socket, "dup"),
        (socket.socket, "connect"),
        (socket.socket, "settimeout"),
    ],
)
def test_a_call_that_is_cut_before_it_is_made_is_not_made(
    calls, receiver, monkeypatch, place, moment, when
):
    """Also if it waited for a name, which cannot be cut, or there was nothing to shut yet."""
    attempt = calls.attempt(receiver.url())
    original, caller = getattr(place, moment), threading.get_ident()

    def cut(*args, **kwargs):
        if threading.get_ident() != caller:
            return original(*args, **kwargs)
        if when == "before":
            attempt.interrupt()
        found = original(*args, **kwargs)
        attempt.interrupt()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(place, moment, cut)
        outcome = calls.hooks.call(attempt)
    assert (outcome.status, outcome.reason) == (None, CUT)
    assert receiver.calls == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("place", "moment"), [(ssl.SSLContext, "wrap_socket"), (ssl.SSLSocket, "do_handshake")]
)
def test_a_call_that_is_cut_around_its_handshake(calls, silent, monkeypatch, place, moment, when):
    """While TLS takes the socket over there is something to shut all the same."""
    port, _ = silent
    attempt = calls.attempt(f"https://127.0.0.1:{port}/")
    original = getattr(place, moment)

    def cut(*args, **kwargs):
        if when == "before":
            attempt.interrupt()
        try:
            # The silent server lets no handshake end: cut before it, or instead of it.
            return (
                None if moment == "do_handshake" and when == "after" else original(*args, **kwargs)
            )
        finally:
            attempt.interrupt()

    monkeypatch.setattr(place, moment, cut)
    started = time.monotonic()
    outcome = calls.hooks.call(attempt)
    assert (outcome.status, outcome.reason) == (None, CUT)
    assert time.monotonic() - started < BOUND / 2


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nx"])
def test_an_answer_is_cut(calls, receiver, said):
    """Before it begins, in its headers, and in its body, whose length is unknown."""
    waiting = threading.Event()

    def answer(handler):
        handler.wfile.write(said)
        waiting.set()
        RELEASE.wait(BOUND)

    receiver.answer = answer
    attempt, outcomes, thread = calls.start(receiver.url())
    assert waiting.wait(BOUND)
    attempt.interrupt()
    thread.join(BOUND / 2)
    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [(None, CUT)]


# whose connection is cut


def test_a_cut_shuts_no_other_connection(calls, receiver, silent):
    """The number of the socket of the hop before may be that of another call's by now."""
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
    first, outcomes, thread = calls.start(receiver.url("/a"))
    assert accepted.wait(BOUND)
    _, others, other = calls.start(receiver.url("/b"))
    assert waiting.wait(BOUND)
    first.interrupt()
    thread.join(BOUND)
    assert outcomes[0].reason == CUT
    RELEASE.set()
    other.join(BOUND)
    assert [outcome.status for outcome in others] == [200]


def test_a_cut_after_the_end_shuts_no_other_connection(receiver):
    """The connection was closed; the next one has the same number."""
    made = Guard(["127.0.0.1"]), ssl.create_default_context(), BOUND
    first, second = Transport(*made), Transport(*made)
    receiver.answer = say(200, b"x")
    assert first.read(first.request("GET", receiver.url(), b"", {}), 10) == b"x"
    first.close()
    response = second.request("GET", receiver.url(), b"", {})
    first.cut()
    assert second.read(response, 10) == b"x"
    assert not second.was_cut
    second.close()


def test_a_handshake_is_cut(calls, silent):
    """It does not wait for its deadline."""
    port, accepted = silent
    attempt, outcomes, thread = calls.start(f"https://127.0.0.1:{port}/")
    assert accepted.wait(BOUND)
    attempt.interrupt()
    thread.join(BOUND / 2)
    assert outcomes[0].reason == CUT


def test_a_connect_is_cut(calls):
    """The server does not accept, and its queue of waiting connections is full."""
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
        attempt, outcomes, thread = calls.start(f"http://127.0.0.1:{server.getsockname()[1]}/")
        deadline = time.monotonic() + BOUND / 2
        while not outcomes and time.monotonic() < deadline:
            # Again and again, as the watchdog does: it may not have begun.
            attempt.interrupt()
            thread.join(0.05)
        assert outcomes[0].reason == CUT
