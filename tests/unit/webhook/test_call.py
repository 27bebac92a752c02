"""What a call of a web hook says, and over which connection."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.task import Task
from collective.taskqueue.webhook.client import WebHooks
from collective.taskqueue.webhook.signing import verify
from receiver import BOUND
from receiver import hang_up
from receiver import say
from receiver import SECRET
import pytest
import threading
import time


def test_the_call(run, receiver):
    """Body and content type arrive as they were given, the rest is ours (N07, N42)."""
    body = bytes(range(256))
    kind = 'multipart/form-data; boundary="x y"; charset=latin-1'
    status = run(payload=body, headers=(("Content-Type", kind),), max_attempts=5)
    assert (status.state, status.status, status.body) == ("succeeded", 200, b"thanks")
    ((method, path, headers, received),) = receiver.calls
    assert (method, path, received) == ("POST", "/hook", body)
    assert headers["Content-Type"] == kind
    assert headers["X-Task-Id"] == status.id
    assert (headers["X-Task-Attempt"], headers["X-Task-Max-Attempts"]) == ("1", "5")
    assert headers["User-Agent"] == "collective.taskqueue"
    assert "webhook-signature" not in headers
    assert "Cookie" not in headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(run, receiver, method):
    """N05: as given, with the query string."""
    assert run("/a%20b?c=d", method=method).state == "succeeded"
    assert receiver.calls[0][:2] == (method, "/a%20b?c=d")


def test_each_call_has_a_connection_of_its_own(run, receiver):
    """No call meets a connection that the receiver has closed meanwhile."""
    for _ in range(3):
        assert run().state == "succeeded"
    assert [call[2]["Connection"] for call in receiver.calls] == ["close"] * 3
    assert len(receiver.connections) == 3


def test_no_connection_stays_open(run, receiver):
    """Neither that of a redirect, nor that of a body which is too long to be read."""
    ended = threading.Semaphore(0)

    def answer(handler):
        finish = handler.finish

        def finished():
            # The receiver waits for the end of the connection, and would do so for ever.
            handler.connection.settimeout(BOUND)
            if not handler.connection.recv(1):
                ended.release()
            finish()

        handler.finish = finished
        handler.close_connection = True
        say(307, Location="/end")(handler) if handler.path == "/hook" else say(200)(handler)

    receiver.answer = answer
    assert run().state == "succeeded"
    assert ended.acquire(timeout=BOUND)
    assert ended.acquire(timeout=BOUND)


def test_signature(run, receiver):
    """The receiver can tell who sent it; the secret itself stays here."""
    status = run(secret=SECRET, payload=b"{}")
    headers = {name.lower(): value for name, value in receiver.calls[0][2].items()}
    assert verify(SECRET, headers, b"{}", time.time())
    assert headers["webhook-id"] == status.id
    assert SECRET not in str(headers)


# what goes wrong on the way


def test_a_call_that_is_made_twice_can_be_told(run, receiver):
    """N50: if the answer is lost the call is made once more, under the same id."""

    def answer(handler):
        if handler.headers["X-Task-Attempt"] == "1":
            hang_up(handler)
        else:
            say(200)(handler)

    receiver.answer = answer
    storage, task, thread = run(wait=False, max_attempts=2, min_backoff=0.0)
    thread.join(BOUND)
    hooks = WebHooks(QueueSettings(allow_hosts=f"127.0.0.1:{receiver.port}"))
    consumer = Consumer(storage, hooks.call, ServerSettings())
    assert consumer.step(timeout=BOUND) == 1
    consumer.stop()
    assert storage.admin.get(task.id).state == "succeeded"
    told = [(call[2]["X-Task-Id"], call[2]["X-Task-Attempt"]) for call in receiver.calls]
    assert told == [(task.id, "1"), (task.id, "2")]


def test_headers_are_utf_8(run, receiver):
    """As in a task of Zope; a character that Latin-1 has not is no failure."""
    assert run(headers=(("X-A", "ä€"),)).state == "succeeded"
    assert receiver.calls[0][2]["X-A"].encode("latin-1").decode() == "ä€"


def test_fifty_at_once(receiver, caplog):
    """All calls wait side by side; nothing is thrown away, and no warning is logged."""
    everybody = threading.Barrier(50, timeout=BOUND)

    def answer(handler):
        everybody.wait()
        say(200)(handler)

    receiver.answer = answer
    settings = QueueSettings(allow_hosts=f"127.0.0.1:{receiver.port}")
    hooks, storage = WebHooks(settings), LocalStorage(settings)
    server = ServerSettings(concurrent_limit=50)
    tasks = [
        Task(id=str(n), queue="default", url=receiver.url(), method="POST", timeout=BOUND)
        for n in range(50)
    ]
    consumers = [Consumer(storage, hooks.call, server) for _ in tasks]
    storage.stage("batch", tasks)
    storage.promote("batch")
    threads = [threading.Thread(target=consumer.step) for consumer in consumers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    for consumer in consumers:
        consumer.stop()
    assert storage.admin.counts()["succeeded"] == 50
    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == []


def test_no_header_is_sent_twice(run, receiver):
    """The caller's agent wins, and no signature but ours is sent."""
    names = ("user-agent", "x-task-id", "Webhook-Id", "Webhook-Signature", "WEBHOOK-TIMESTAMP")
    status = run(secret=SECRET, headers=tuple((name, "mine") for name in names), payload=b"x")
    received = receiver.calls[0][2]
    lower = [name.lower() for name in received]
    assert sorted(lower) == sorted(set(lower))
    assert (received["User-Agent"], received["X-Task-Id"]) == ("mine", status.id)
    assert verify(SECRET, {k.lower(): v for k, v in received.items()}, b"x", time.time())


def test_without_a_secret_the_signature_is_the_callers(run, receiver):
    """Who signs by himself may."""
    run(headers=(("Webhook-Signature", "mine"),))
    assert receiver.calls[0][2]["webhook-signature"] == "mine"


@pytest.mark.parametrize(
    "name",
    ["webhook_signature", "Webhook_Signature", "WEBHOOK-signature", "webhook_id", "webhook_x"],
)
def test_signatures_of_the_caller_in_any_spelling(run, receiver, name):
    """A receiver behind WSGI or CGI takes an underscore for a dash."""
    run(secret=SECRET, headers=((name, "mine"),), payload=b"x")
    assert "mine" not in receiver.calls[0][2].values()
    names = [each.lower().replace("_", "-") for each in receiver.calls[0][2]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["x_task_id", "X_Task-Id", "user_agent", "Accept_Encoding"])
def test_one_header_of_each_name_in_any_spelling(run, receiver, name):
    """Two would be the choice of who reads them."""
    run(headers=((name, "mine"),))
    names = [each.lower().replace("_", "-") for each in receiver.calls[0][2]]
    assert len(names) == len(set(names))
    assert ("mine" in receiver.calls[0][2].values()) is ("task" not in name.lower())


@pytest.mark.parametrize("name", ["Connection", "Transfer-Encoding", "transfer_encoding"])
def test_the_connection_is_not_the_callers(run, receiver, name):
    """Neither how long it stays open nor how the body is framed."""
    run(headers=((name, "mine"),), payload=b"x")
    ((_, _, received, body),) = receiver.calls
    assert "mine" not in received.values()
    assert (received["Content-Length"], body) == ("1", b"x")


def test_the_host_is_the_callers(run, receiver):
    """One address may serve many names."""
    run(headers=(("host", "example.org"),))
    assert receiver.calls[0][2].get_all("Host") == ["example.org"]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("?a=b", "/?a=b"),
        ("", "/"),
        ("/a?b#c", "/a?b"),
        ("/a//b", "/a//b"),
        ('/a"b|c?d=[e]&f=100%', "/a%22b%7Cc?d=%5Be%5D&f=100%"),
    ],
)
def test_the_path_that_is_sent(run, receiver, path, sent):
    """Only what no path may contain is quoted."""
    assert run(path).state == "succeeded"
    assert receiver.calls[0][1] == sent
