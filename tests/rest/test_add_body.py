"""``POST /@tasks``: whose the body is, and that Zope reads nothing of it."""

from collective.taskqueue.services import envelope
from Products.Five.browser import BrowserView
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from rest.conftest import HOOK
from rest.conftest import task_of
from ZODB.POSException import ConflictError
from zope.component import getGlobalSiteManager
from zope.interface import Interface
from zope.publisher.interfaces.browser import IBrowserRequest
from ZPublisher.HTTPRequest import HTTPRequest
import json
import pytest
import transaction


@pytest.mark.parametrize("url", ["/plone/@@view", HOOK])
def test_the_envelope_is_not_the_payload(adder, queue, url):
    """What the client has posted to us is not posted on."""
    task = task_of(queue, adder.post("@tasks", {"url": url, "method": "POST"}))
    assert task.payload == b""


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (bytes(range(256)), "application/octet-stream"),
        ("a=ä&b=%E4".encode("latin-1"), "application/x-www-form-urlencoded; charset=latin-1"),
        (
            b'--x y\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x y--\r\n',
            'multipart/form-data; boundary="x y"',
        ),
        (b'{"url": "/not-this-one"}', "application/json; charset=utf-8"),
    ],
)
def test_the_raw_body(adder, queue, body, kind):
    """N07, U19, U27: with ?url= the body of the request is that of the task, byte by byte."""
    answer = adder("POST", f"@tasks?url={HOOK}", body=body, **{"Content-Type": kind})
    task = task_of(queue, answer)
    assert (task.url, task.payload) == (HOOK, body)
    assert dict(task.headers) == {"Content-Type": kind}


def test_the_raw_form(adder, queue, other_queue):
    """N02, N05, N06, N08, N09, T15: the fields of the query, and headers passed through."""
    query = "&method=PUT&timeout=7.5&max_attempts=3&queue=hooks&description=D&delay=5&key=k"
    headers = {
        "Task-Passthrough-Foo-Bar": "Bär".encode().decode("latin-1"),
        "task-passthrough-authorization": "Bearer theirs",
        "Cookie": "mine=1",
        "X-Other": "no",
    }
    task = task_of(other_queue, adder("POST", f"@tasks?url={HOOK}%3Fa%3Db{query}", **headers))
    assert (task.url, task.method, task.timeout) == (f"{HOOK}?a=b", "PUT", 7.5)
    assert (task.max_attempts, task.description) == (3, "D")
    assert task.due == pytest.approx(task.created + 5)
    assert dict(task.headers) == {"Foo-Bar": "Bär", "Authorization": "Bearer theirs"}
    answer = adder("POST", f"@tasks?url={HOOK}", body=b"a=b")
    kind = dict(task_of(queue, answer).headers)["Content-Type"]
    assert kind == "application/x-www-form-urlencoded"


def test_what_is_passed_through_stays_where_it_belongs(adder, queue):
    """It is a header of the task, not of every task that is added with it."""
    headers = {"Task-Passthrough-Prefer": "minimal"}
    task = task_of(queue, adder("POST", "@tasks?url=/plone/@@view", **headers))
    assert dict(task.headers)["Prefer"] == "minimal"
    assert "Task-Passthrough-Prefer" not in dict(task.headers)


@pytest.fixture
def virtual_hosting(site):
    manage_addVirtualHostMonster(site["app"])
    transaction.commit()


#: What Zope would read, and refuse or take for something else.
READ_BY_ZOPE = [
    (b"a:int=foo", "application/x-www-form-urlencoded"),
    (b":method=foo", "application/x-www-form-urlencoded"),
    (b"a=1", "application/x-www-form-urlencoded; charset=nope"),
    (b"%ff=1", "application/x-www-form-urlencoded"),
    (b"x" * 1000, "multipart/form-data"),
    (b"--x\r\nContent-Disposition: form-data; name=a", "multipart/form-data; boundary=x"),
    (b"<order/>", "text/xml"),
    (b"<methodCall><methodName>a</methodName></methodCall>", "text/xml; charset=utf-8"),
    (b"\xff\r\n\0=:int", "application/xml"),
    (b"a,b\r\n", "text/csv"),
]


@pytest.mark.parametrize(("body", "kind"), READ_BY_ZOPE)
@pytest.mark.parametrize(
    "root",
    [
        "@tasks",
        "@tasks/",
        "++api++/@tasks",
        "/VirtualHostBase/https/www.example.net:443/plone/VirtualHostRoot/@tasks",
        "/VirtualHostBase/http/www.example.net:80/plone/VirtualHostRoot/_vh_cms/++api++/@tasks",
    ],
)
def test_a_body_is_not_read_by_zope(adder, queue, virtual_hosting, root, body, kind):
    """N07: a body that looks like any of these is the task's, byte by byte; so is its type."""
    answer = adder("POST", f"{root}?url={HOOK}", body=body, **{"Content-Type": kind})
    task = task_of(queue, answer)
    assert (task.payload, task.headers) == (body, (("Content-Type", kind),))


@pytest.mark.parametrize(("body", "kind"), READ_BY_ZOPE)
def test_what_is_no_json_is_said_to_be_none(adder, queue, body, kind):
    """H03: without a url in the query, a body that is no JSON is refused, with any type."""
    answer = adder("POST", "@tasks", body=body, **{"Content-Type": kind, "SOAPAction": "x"})
    assert answer.error == (400, "BadRequest", "body")
    assert queue.tasks() == []


def test_json_by_another_name(adder, queue):
    """The type of the envelope is not asked for, as little as by plone.restapi."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = adder("POST", "@tasks", {"url": HOOK, "payload": "x"}, **kind)
    assert task_of(queue, answer).payload == b"x"


def test_a_body_outlives_a_conflict(adder, queue, monkeypatch):
    """C32, N07: the request is made again, and Zope reads nothing of it then either."""
    stage, failures = queue.storage.stage, [ConflictError()]

    def stage_later(*args, **kwargs):
        if failures:
            raise failures.pop()
        return stage(*args, **kwargs)

    monkeypatch.setattr(queue.storage, "stage", stage_later)
    monkeypatch.setattr(HTTPRequest, "retry_max_count", 3)
    monkeypatch.setattr(HTTPRequest, "delay_retry", lambda request: None)
    kind = {"Content-Type": "text/xml"}
    task = task_of(queue, adder("POST", f"@tasks?url={HOOK}", body=b"<a/>", **kind))
    assert (failures, task.payload) == ([], b"<a/>")
    assert len(queue.tasks()) == 1


class Theirs(BrowserView):
    """A page of another add-on that has the name of our service."""

    __roles__ = None

    def __call__(self):
        return json.dumps([self.request.form, self.request.get("BODY").decode()])


@pytest.fixture
def theirs():
    registry = getGlobalSiteManager()
    for name in ("@tasks", "other"):
        registry.registerAdapter(Theirs, (Interface, IBrowserRequest), Interface, name)
    yield
    for name in ("@tasks", "other"):
        registry.unregisterAdapter(Theirs, (Interface, IBrowserRequest), Interface, name)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"b:int=2&c=%C3%A4", "application/x-www-form-urlencoded"),
        (b"b:int=x", "application/x-www-form-urlencoded"),
        (b'{"b": 2}', "application/json"),
    ],
)
def test_others_of_that_name_get_what_zope_reads(adder, theirs, body, kind):
    """They are answered as under any other name."""
    headers = {"Content-Type": kind, "Accept": "text/html"}
    ours, other = (
        adder("POST", f"{name}?a:int=1", body=body, **headers) for name in ("@tasks", "other")
    )
    assert ours.status == other.status == (500 if b"x" in body else 200)
    assert ours.status == 500 or ours.json == other.json


def test_a_passed_header_cannot_change_the_framing(adder):
    """D23: neither length nor host nor type."""
    for name in ("Host", "Content-Length", "Transfer-Encoding", "Content-Type", "Connection"):
        answer = adder("POST", f"@tasks?url={HOOK}", **{f"Task-Passthrough-{name}": "x"})
        assert answer.error == (400, "BadRequest", "headers"), name


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"text"', b"5", b"null", b"\xff", b"[" * 500, b'{"a": 1e'[:-1]]
)
def test_a_body_that_is_no_json_object(adder, body):
    """H03: never a 500."""
    answer = adder("POST", "@tasks", body=body, **{"Content-Type": "application/json"})
    assert answer.error == (400, "BadRequest", "body")


def test_too_much(adder, queue, other_queue, monkeypatch):
    """413: of the queue that is meant, and of any before it is read."""
    answer = adder.post("@tasks", {"url": HOOK, "payload": "x" * 101, "queue": "hooks"})
    assert answer.error == (413, "PayloadTooLarge", "payload")
    answer = adder("POST", f"@tasks?url={HOOK}&queue=hooks", body=b"x" * 101)
    assert answer.error == (413, "PayloadTooLarge", "payload")
    assert adder.post("@tasks", {"url": HOOK, "payload": "x" * 101}).status == 201
    limit = queue.settings.max_payload * envelope.ESCAPED + envelope.ENVELOPE
    answer = adder("POST", "@tasks", body=b" " * (limit + 1), **{"Content-Type": "text/plain"})
    assert answer.error == (413, "PayloadTooLarge", "payload")


def test_as_much_as_a_queue_takes(adder, queue):
    """However it is written in JSON."""
    payload = "\x01" * queue.settings.max_payload
    assert task_of(queue, adder.post("@tasks", {"url": HOOK, "payload": payload})).payload
