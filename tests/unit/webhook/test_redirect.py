"""Where a redirect leads, and what is sent there."""

from collective.taskqueue.webhook.signing import verify
from receiver import hops
from receiver import say
from receiver import SECRET
import pytest
import time


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirects_keep_method_and_body(run, receiver, code):
    """D60, N43: a POST does not become a GET without its body."""
    receiver.answer = hops(5, code)
    status = run("/hop/0", payload=b"x", headers=(("Authorization", "s"),))
    assert status.state == "succeeded"
    assert [call[0] for call in receiver.calls] == ["POST"] * 6
    assert {call[3] for call in receiver.calls} == {b"x"}
    assert {call[2]["Authorization"] for call in receiver.calls} == {"s"}


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/grün?ä=ö".encode(), "/gr%C3%BCn?%C3%A4=%C3%B6"),
        (b"/gr\xfcn", "/gr%FCn"),
        (b"a b#c", "/a%20b"),
        (b"?x=%2F", "/hook?x=%2F"),
    ],
)
def test_where_a_redirect_leads(run, receiver, location, path):
    """N43: the bytes that the other side has sent, as a browser would."""

    def answer(handler):
        if handler.path == "/hook":
            handler.wfile.write(b"HTTP/1.1 307 There\r\nLocation: " + location + b"\r\n")
            handler.wfile.write(b"Content-Length: 0\r\n\r\n")
        else:
            say(200)(handler)

    receiver.answer = answer
    assert run().state == "succeeded"
    assert [call[1] for call in receiver.calls] == ["/hook", path]


def test_one_redirect_too_many(run, receiver):
    """N43: five are followed, the sixth fails the task."""
    receiver.answer = hops(6)
    status = run("/hop/0", max_attempts=3)
    assert (status.state, len(receiver.calls)) == ("failed", 6)
    assert "5 redirects" in status.reason


def test_see_other_becomes_a_get(run, receiver):
    """303 says so."""
    receiver.answer = hops(1, 303)
    run("/hop/0", payload=b"x", headers=(("Content-Type", "text/plain"),))
    method, _, headers, body = receiver.calls[1]
    assert (method, body, headers["Content-Type"]) == ("GET", b"", None)


def test_see_other_leaves_a_head_what_it_is(run, receiver):
    """Who asked for no body gets none (RFC 9110, 15.4.4)."""
    receiver.answer = hops(1, 303)
    assert run("/hop/0", method="HEAD").state == "succeeded"
    assert [call[0] for call in receiver.calls] == ["HEAD", "HEAD"]


def test_secrets_are_not_given_to_another_origin(run, receiver):
    """D24: neither the caller's headers nor the signature."""
    other = f"http://localhost:{receiver.port}/other"
    receiver.answer = lambda handler: (
        say(307, Location=other) if handler.path == "/hook" else say(200)
    )(handler)
    headers = (("Authorization", "s"), ("X-Api-Key", "s"), ("Content-Type", "text/plain"))
    allow = f"127.0.0.1:{receiver.port} localhost:{receiver.port}"
    status = run(secret=SECRET, allow=allow, headers=headers, payload=b"x")
    assert status.state == "succeeded"
    received = receiver.calls[1][2]
    assert received["Content-Type"] == "text/plain"
    for name in ("Authorization", "X-Api-Key", "webhook-signature"):
        assert received[name] is None


@pytest.mark.parametrize("where", ["http://10.0.0.1/", "http://[::1]/", "file:///etc/passwd"])
def test_a_redirect_into_private_space_is_refused(run, receiver, where):
    """N43: every hop is checked."""
    receiver.answer = say(307, Location=where)
    status = run(max_attempts=3)
    assert status.state == "failed"
    assert status.reason.startswith("refused: ")
    assert len(receiver.calls) == 1


def test_each_hop_is_signed(run, receiver):
    """303 sends no body any more: the signature is one of nothing."""
    receiver.answer = hops(1, 303)
    headers = (("Content-Type", "text/plain"), ("Content-Encoding", "gzip"), ("X-A", "a"))
    run("/hop/0", secret=SECRET, payload=b"x", headers=headers)
    method, _, received, body = receiver.calls[1]
    assert (method, body, received["X-A"]) == ("GET", b"", "a")
    assert (received["Content-Type"], received["Content-Encoding"]) == (None, None)
    assert verify(SECRET, {k.lower(): v for k, v in received.items()}, b"", time.time())


def test_a_redirect_to_what_is_no_url_is_refused(run, receiver):
    """At once: it will be none the next time either."""
    receiver.answer = say(302, Location="http://[::1")
    status = run(max_attempts=3)
    assert (status.state, len(receiver.calls)) == ("failed", 1)
    assert status.reason.startswith("refused: ")
