"""A call that is cancelled: the receiver is told so with a DELETE."""

from collective.taskqueue.webhook import client
from collective.taskqueue.webhook.signing import verify
from receiver import BOUND
from receiver import hang_up
from receiver import RELEASE
from receiver import say
from receiver import SECRET
import pytest
import time


def test_cancel_while_running(run, receiver):
    """H15, H24: the call is dropped, and a DELETE is sent to the same url."""

    def answer(handler):
        if handler.command == "DELETE":
            say(204)(handler)
        else:
            RELEASE.wait(BOUND)

    receiver.answer = answer
    storage, task, thread = run("/job", wait=False)
    assert receiver.arrived.wait(BOUND)
    assert storage.admin.cancel(task.id) == "running"
    thread.join(BOUND)
    assert not thread.is_alive()
    assert storage.admin.get(task.id).state == "cancelled"
    (_, (method, path, headers, _)) = receiver.calls
    assert (method, path, headers["X-Task-Id"]) == ("DELETE", "/job", task.id)


def test_who_was_told_nothing_is_told_of_no_end(run, silent):
    """H15, H24: cancelled while it shakes hands, there is nothing that a DELETE could end."""
    port, accepted = silent
    storage, task, thread = run(url=f"https://127.0.0.1:{port}/", allow="127.0.0.1", wait=False)
    assert accepted.wait(BOUND)
    storage.admin.cancel(task.id)
    # Who accepts one connection only would let a DELETE wait for its whole time.
    thread.join(client.DELETE_TIMEOUT / 2)
    assert not thread.is_alive()
    assert storage.admin.get(task.id).state == "cancelled"


# what the other side is told, and what it may say


@pytest.fixture
def cancelled(run, receiver):
    """Cancel a call while the receiver thinks about it; return the task's id when it is over."""

    def cancel(post, delete, **fields):
        def answer(handler):
            if handler.command == "DELETE":
                delete(handler)
            else:
                RELEASE.wait(BOUND)
                post(handler)

        receiver.answer = answer
        storage, task, thread = run("/job", wait=False, **fields)
        assert receiver.arrived.wait(BOUND)
        assert storage.admin.cancel(task.id) == "running"
        RELEASE.set()
        thread.join(BOUND)
        assert not thread.is_alive()
        assert storage.admin.get(task.id).state == "cancelled"
        return task.id

    return cancel


@pytest.mark.parametrize("end", [hang_up, say(500), say(200)])
def test_a_call_that_ends_by_itself_when_it_was_cancelled(cancelled, receiver, monkeypatch, end):
    """H15: the DELETE is sent all the same."""
    monkeypatch.setattr(client, "REPORT_INTERVAL", 0.0)
    cancelled(end, say(204))
    assert [call[0] for call in receiver.calls] == ["POST", "DELETE"]


def test_a_call_that_was_led_astray_when_it_was_cancelled(cancelled, receiver):
    """H15: the other side knows of it, wherever it wanted to send it on to."""
    cancelled(say(307, Location="http://10.0.0.1/"), say(204))
    assert [call[0] for call in receiver.calls] == ["POST", "DELETE"]


def test_the_delete_has_a_total_deadline(run, receiver, monkeypatch):
    """Byte after byte does not hold the thread."""
    monkeypatch.setattr(client, "DELETE_TIMEOUT", 0.5)

    def answer(handler):
        if handler.command != "DELETE":
            RELEASE.wait(BOUND)
            return
        # One long line: the library counts the lines.
        handler.wfile.write(b"HTTP/1.1 204 No Content\r\nX-A: ")
        while not RELEASE.wait(0.02):
            handler.wfile.write(b"x")

    receiver.answer = answer
    storage, task, thread = run("/job", wait=False)
    assert receiver.arrived.wait(BOUND)
    storage.admin.cancel(task.id)
    thread.join(BOUND / 2)
    assert not thread.is_alive()
    assert storage.admin.get(task.id).state == "cancelled"


def test_the_delete_has_the_headers_of_the_call(cancelled, receiver):
    """H15: else who asks for a password refuses it; but it has no body to describe."""
    headers = (("Authorization", "s"), ("Content-Type", "text/plain"), ("Webhook-Id", "mine"))
    task_id = cancelled(hang_up, say(204), secret=SECRET, headers=headers, payload=b"x")
    method, path, received, body = receiver.calls[-1]
    assert (method, path, body) == ("DELETE", "/job", b"")
    assert (received["Authorization"], received["Content-Type"]) == ("s", None)
    assert received.get_all("Webhook-Id") == [task_id]
    assert verify(SECRET, {k.lower(): v for k, v in received.items()}, b"", time.time())


def test_no_line_of_the_log_is_forged(cancelled, caplog):
    """By what the DELETE is answered."""

    def answer(handler):
        handler.wfile.write(b"\x1b[2K\rtask 1: fine\r\n")
        handler.close_connection = True

    cancelled(hang_up, answer)
    (message,) = [r.getMessage() for r in caplog.records if "DELETE failed" in r.getMessage()]
    assert message.isprintable()
