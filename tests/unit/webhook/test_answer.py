"""What becomes of a task by what the receiver answers, or does not."""

from collective.taskqueue.consumer.response import MAX_BODY
from ports import free_port
from receiver import BOUND
from receiver import RELEASE
from receiver import say
import logging
import pytest
import socket
import time


@pytest.mark.parametrize(
    ("code", "state", "word"),
    [
        (200, "succeeded", ""),
        (201, "succeeded", ""),
        (299, "succeeded", ""),
        (400, "failed", "status 400"),
        (404, "failed", "status 404"),
        (410, "failed", "gone"),
        (408, "scheduled", "status 408"),
        (425, "scheduled", "status 425"),
        (429, "scheduled", "status 429"),
        (500, "scheduled", "status 500"),
        (503, "scheduled", "status 503"),
        (304, "failed", "304"),
    ],
)
def test_outcomes(run, receiver, code, state, word):
    """N35, N36, N37, N38, U31: what succeeds, what fails, what is tried again."""
    receiver.answer = say(code)
    status = run(max_attempts=3)
    assert status.state == state
    assert word in status.reason
    assert status.status == code


def test_retry_after(run, receiver):
    """The other side says when."""
    receiver.answer = say(503, Retry_After="1000")
    status = run(max_attempts=3)
    assert status.due == pytest.approx(time.time() + 1000, abs=BOUND)


@pytest.mark.parametrize("asked", ["1000000", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_is_no_place_to_hide(run, receiver, asked):
    """N38: no pause is longer than the queue allows, even if the server asks for a longer one."""
    receiver.answer = say(503, Retry_After=asked)
    status = run(max_attempts=3, max_backoff=100.0)
    assert status.state == "scheduled"
    assert status.due == pytest.approx(time.time() + 100, abs=BOUND)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints", "199 x"])
def test_an_interim_response_is_no_answer(run, receiver, interim, number):
    """N37: what counts comes after it, on the same connection."""

    def answer(handler):
        for _ in range(number):
            handler.wfile.write(f"HTTP/1.1 {interim}\r\nLink: </a>\r\n\r\n".encode())
        status = 200 if handler.path == "/good" else 500
        say(status, handler.path.encode())(handler)

    receiver.answer = answer
    for path, status in (("/good", 200), ("/bad", 500), ("/good", 200)):
        found = run(path, max_attempts=1)
        assert (found.status, found.body) == (status, path.encode())
    assert len(receiver.calls) == len(receiver.connections) == 3


def test_another_protocol_is_no_answer(run, receiver):
    """No call has asked for it, and what is said in it is not read."""

    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
        RELEASE.wait(BOUND)

    receiver.answer = answer
    status = run(max_attempts=1)
    assert (status.state, status.status, status.body) == ("failed", 101, b"")


def test_an_endless_body_is_cut_at_the_cap(run, receiver):
    """Bounded memory, one attempt."""

    def answer(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while not RELEASE.is_set():
            handler.wfile.write(b"x" * 65536)

    receiver.answer = answer
    status = run()
    assert status.state == "succeeded"
    assert (len(status.body), status.truncated) == (64 * 1024, True)


@pytest.mark.parametrize(("number", "length"), [(90, 4000), (1, 60000), (90, 1000)])
def test_headers_are_cut_at_a_cap(run, receiver, number, length):
    """Bounded memory for each record; what is asked for behind all of them is still heard."""

    def answer(handler):
        handler.send_response(503)
        for name in range(number):
            handler.send_header(f"X-{name}", "x" * length)
        handler.send_header("Retry-After", "50")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    receiver.answer = answer
    status = run(max_attempts=2)
    assert sum(len(name) + len(value) for name, value in status.headers) <= 16 * 1024
    assert dict(status.headers)["Retry-After"] == "50"
    assert status.truncated
    assert status.due == pytest.approx(time.time() + 50, abs=BOUND)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    ],
)
def test_garbage_costs_one_attempt(run, receiver, garbage):
    """A reset, noise, half an answer."""

    def answer(handler):
        handler.wfile.write(garbage)
        handler.close_connection = True

    receiver.answer = answer
    status = run(max_attempts=3)
    assert status.state == "scheduled"
    assert len(status.attempts) == 1
    receiver.answer = say(200)
    assert run().state == "succeeded"


def test_a_compressed_body_is_kept_as_it_is(run, receiver):
    """A bomb does not explode here."""
    receiver.answer = say(200, b"\x1f\x8b whatever", Content_Encoding="gzip")
    status = run()
    assert (status.state, status.body) == ("succeeded", b"\x1f\x8b whatever")
    assert receiver.calls[0][2]["Accept-Encoding"] == "identity"


def test_no_server_listens(run, receiver):
    """H10, N37, U40: tried again."""
    status = run(url="http://127.0.0.1:9/", allow="127.0.0.1", max_attempts=2)
    assert (status.state, status.status) == ("scheduled", None)


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"", "RemoteDisconnected: Remote end closed connection without response"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "BadStatusLine: HTTP/1.1 abc OK"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
            "IncompleteRead: IncompleteRead(1 bytes read, 8 more expected)",
        ),
    ],
)
def test_the_reason_is_the_cause(run, receiver, garbage, reason):
    """And not what the library has wrapped around it."""

    def answer(handler):
        handler.wfile.write(garbage)
        handler.close_connection = True

    receiver.answer = answer
    assert run().reason == reason


def test_the_reason_if_no_server_listens(run, receiver):
    """H10, U40."""
    status = run(url=f"http://127.0.0.1:{free_port()}/", allow="127.0.0.1")
    assert status.reason == "ConnectionRefusedError: [Errno 111] Connection refused"


@pytest.mark.parametrize("error", [BrokenPipeError(32, "broken"), ConnectionResetError(104, "no")])
def test_the_reason_if_the_connection_breaks_at_once(run, receiver, monkeypatch, error):
    """Also if the library takes it for something that may happen while a request is sent."""

    def connect(sock, address):
        raise error

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert run().reason == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("error", [BrokenPipeError(32, "broken"), ConnectionResetError(104, "no")])
def test_an_answer_before_the_whole_body_was_sent(run, receiver, monkeypatch, error):
    """A server may refuse what is too long without reading it; its answer is heard."""
    receiver.answer = say(413)
    original = socket.socket.sendall

    def sendall(sock, data):
        original(sock, data)
        if data == b"too long":
            raise error

    monkeypatch.setattr(socket.socket, "sendall", sendall)
    status = run(payload=b"too long", max_attempts=2)
    assert (status.state, status.status) == ("failed", 413)


def test_a_reason_is_short_and_one_line(run, receiver):
    """With any answer of the other server."""

    def answer(handler):
        handler.wfile.write(b"\x1b[2K\rtask 1: fine\x00" + b"z" * 60000 + b"\r\n\r\n")
        handler.close_connection = True

    receiver.answer = answer
    status = run()
    assert status.reason.isprintable()
    assert len(status.reason) <= 500
    assert "task 1: fine" in status.reason


@pytest.mark.parametrize("character", ["ä", "€", "😀"])
def test_a_long_text_is_cut_before_a_character(run, receiver, character):
    receiver.answer = say(200, b"x" * (MAX_BODY - 1) + character.encode() * 2)
    status = run()
    assert status.body == b"x" * (MAX_BODY - 1)
    assert status.truncated


def test_the_access_line_has_no_values(run, receiver, caplog):
    """As for a task of Zope."""
    caplog.set_level(logging.INFO, "collective.taskqueue.access")
    run("/hook?key=s3cret&a=1")
    assert receiver.calls[0][1] == "/hook?key=s3cret&a=1"
    (message,) = [r.getMessage() for r in caplog.records if r.name.endswith(".access")]
    assert f'"POST {receiver.url("/hook")}?key&a" 200 ' in message


@pytest.mark.parametrize("location", ["http://[/?key=s3cret", "http://ho st/?key=s3cret"])
def test_reasons_have_no_values(run, receiver, caplog, location):
    """Neither of the url nor of where it leads."""
    receiver.answer = say(302, Location=location)
    status = run("/hook?key=s3cret")
    assert status.state == "failed"
    assert "s3cret" not in status.reason
    assert "s3cret" not in caplog.text
