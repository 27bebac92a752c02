"""What `add()` is told of a task, what it refuses, and which queue it means."""

from collective.taskqueue import taskqueue
from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.testing import task_queue
from integration.capture.conftest import headers
from integration.capture.conftest import URL
from pathlib import Path
from zope.component import getGlobalSiteManager
from zope.globalrequest import setRequest
import ast
import collective.taskqueue
import inspect
import pytest
import transaction
import uuid


def test_signature():
    """C01."""
    names = list(inspect.signature(taskqueue.add).parameters)
    assert names[:6] == ["url", "method", "params", "headers", "payload", "queue"]


def test_positional(functional):
    """C01."""
    with task_queue("q") as queue:
        taskqueue.add("/a", "POST", {"k": 1}, {"H": "v"}, b"x", "q")
        (task,) = pending(queue)
    assert (task.url, task.method, task.payload, task.queue) == ("/a?k=1", "POST", b"x", "q")
    assert headers(task)["H"] == "v"


def test_id_is_known_before_the_commit(queue):
    """C02."""
    first, second = taskqueue.add(URL), taskqueue.add(URL)
    assert uuid.UUID(first).version == uuid.UUID(second).version == 4
    assert first != second
    transaction.commit()
    assert [status.id for status in queue.tasks()] == [first, second]


def test_without_a_request(added):
    """C24."""
    setRequest(None)
    task = added()
    assert (task.headers, task.payload, task.origin) == ((), b"", None)


# url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/plone/@@view", "/plone/@@view"),
        ("//plone/@@view", "/plone/@@view"),
        ("  /plone/@@view  ", "/plone/@@view"),
        ("/", "/"),
        ("/plone/%C3%A4/@@view?a=1", "/plone/%C3%A4/@@view?a=1"),
        ("/plone/ä", "/plone/ä"),
        ("/plone/view;a=1", "/plone/view;a=1"),
        ("/plone/at:colon", "/plone/at:colon"),
        ("/plone/view?next=http://example.org", "/plone/view?next=http://example.org"),
    ],
)
def test_url(added, given, expected):
    """C05."""
    assert added(given).url == expected


@pytest.mark.parametrize(
    ("params", "query"),
    [
        (None, ""),
        ({}, ""),
        ({"b": "2"}, "?b=2"),
        ({"n": 2, "t": True, "f": False}, "?n=2&t=1&f="),
        ({"l": ["1", "2"], "u": "ä"}, "?l=1&l=2&u=%C3%A4"),
        ([("a", "1"), ("a", "2")], "?a=1&a=2"),
        ({"a": "x&y=z #+"}, "?a=x%26y%3Dz+%23%2B"),
        ({"l:list": ["1"]}, "?l%3Alist=1"),
    ],
)
def test_params(added, params, query):
    """C08, C09, D42."""
    assert added("/v", params=params).url == f"/v{query}"
    assert added("/v?a=1", params=params).url == f"/v?a=1{query.replace('?', '&')}"
    assert added("/v", "POST", params=params).url == f"/v{query}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "GET"), ("get", "GET"), ("Post", "POST"), ("PUT", "PUT"), ("delete", "DELETE")],
)
def test_method(added, given, expected):
    """C07: normalised."""
    assert added(method=given).method == expected


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": ""}, "needs a url"),
        ({"url": "   "}, "needs a url"),
        ({"url": None}, "needs a url"),
        ({"url": b"/x"}, "needs a url"),
        ({"url": "plone/view"}, "begins with /"),
        ({"url": "www.example.org/view"}, "begins with /"),
        ({"url": "?a=1"}, "begins with /"),
        ({"url": "/plone/docs#2"}, r"taskqueue\.path"),
        ({"url": "/plone/view?a=1#2"}, r"taskqueue\.path"),
        ({"url": "/plone/view#"}, r"taskqueue\.path"),
        ({"url": f"/{'x' * 65536}"}, "65537 bytes"),
        ({"params": {"x": "ä" * 30_000}}, "the url has"),
        ({"url": URL, "view": "view"}, "view is for a content object"),
        ({"url": f"/{'x' * 65536}", "method": "POST"}, "65537 bytes"),
        ({"url": "/a\r\nX-Task-User-Id: admin"}, "control characters"),
        ({"url": "/a\0"}, "control characters"),
        ({"url": "/a\n"}, "control characters"),
        ({"url": "ftp://example.org/"}, "ftp: urls cannot be queued"),
        ({"url": "javascript:alert(1)"}, "javascript: urls cannot be queued"),
        ({"url": "file:///etc/passwd"}, "file: urls cannot be queued"),
        ({"url": "/%FF"}, "no UTF-8"),
        ({"url": "/%C3%28?a=1"}, "no UTF-8"),
        ({"url": "/\udc80"}, "no UTF-8"),
        ({"url": "/a?b=\udc80"}, "no UTF-8"),
        ({"method": "BREW"}, "method must be one of"),
        ({"method": "GET /x"}, "method must be one of"),
        ({"method": ""}, "method must be one of"),
        ({"method": b"GET"}, "method must be one of"),
        ({"method": "OPTIONS"}, "method must be one of"),
        ({"headers": {"X-A": "a\r\nX-Task-User-Id: admin"}}, "control characters"),
        ({"headers": {"X-A": "a\nb"}}, "control characters"),
        ({"headers": {"X-A": "a\0"}}, "control characters"),
        ({"headers": {"X-A\r\nX-B": "a"}}, "not the name of a header"),
        ({"headers": {"X A": "a"}}, "not the name of a header"),
        ({"headers": {"X-A:": "a"}}, "not the name of a header"),
        ({"headers": {"": "a"}}, "not the name of a header"),
        ({"headers": {"Ä": "a"}}, "not the name of a header"),
        ({"headers": {b"X-A": "a"}}, "not the name of a header"),
        ({"headers": {"X-A": b"a"}}, "no text, number or boolean"),
        ({"headers": {"X-A": None}}, "no text, number or boolean"),
        ({"headers": {"X-A": ["a"]}}, "no text, number or boolean"),
        ({"headers": {"X-A": "\udc80"}}, "header X-A"),
        ({"payload": 3}, "bytes, text or None"),
        ({"payload": {"a": "1"}}, "bytes, text or None"),
        ({"payload": "\udc80"}, "surrogates"),
        ({"params": {"a": "\udc80"}}, "'a' cannot be encoded"),
        ({"params": 3}, "params"),
        ({"params": ["a"]}, "params"),
        ({"headers": [("X-A", "1")]}, "headers"),
        ({"delay": -1}, "delay"),
        ({"colour": "red"}, "unknown option 'colour'"),
    ],
)
def test_bad_input_joins_nothing(functional, arguments, message):
    """C04, C07, D14, D41, D45."""
    with pytest.raises(ValueError, match=message):
        taskqueue.add(**{"url": URL, **arguments})
    assert transaction.get()._resources == []


def test_no_url_at_all(functional):
    """C04."""
    with pytest.raises(TypeError):
        taskqueue.add()
    assert transaction.get()._resources == []


def test_nothing_is_validated_by_assert():
    """C04, D45: `python -O` changes nothing."""
    folder = Path(collective.taskqueue.__path__[0])
    found = [
        f"{path.relative_to(folder)}:{node.lineno}"
        for path in folder.rglob("*.py")
        if not {"contract", "model"} & set(path.parts)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


# queues


def test_first_queue_is_the_default(functional):
    """C21."""
    with task_queue("b") as b, task_queue("a") as a:
        taskqueue.add(URL)
        taskqueue.add(URL, queue=None)
        assert (len(pending(a)), len(pending(b))) == (2, 0)


def test_unknown_queue(queue):
    """C22: an error that names the known ones, nothing is queued anywhere."""
    with task_queue("mails"), pytest.raises(UnknownQueue, match=r"'typo' \(known: default, mails"):
        taskqueue.add(URL, queue="typo")
    assert transaction.get()._resources == []


@pytest.fixture
def no_queue(queue):
    registry = getGlobalSiteManager()
    registry.unregisterUtility(queue, ITaskQueue, name="default")
    yield
    registry.registerUtility(queue, ITaskQueue, name="default")


def test_no_queue_at_all(no_queue):
    """C23."""
    with pytest.raises(UnknownQueue, match=r"no task queue at all .*<taskqueue> section"):
        taskqueue.add(URL)
    with pytest.raises(UnknownQueue):
        taskqueue.reset()
    assert transaction.get()._resources == []


def test_reset_of_an_unknown_queue(queue):
    """C25, D26: nothing is deleted."""
    taskqueue.add(URL)
    transaction.commit()
    with pytest.raises(UnknownQueue, match="'typo'"):
        taskqueue.reset("typo")
    assert len(queue) == 1


def test_reset(queue):
    """C25, D25: one queue only, and running tasks stay."""
    with task_queue("default-2") as other:
        for name in ("default", "default", "default-2"):
            taskqueue.add(URL, queue=name)
        taskqueue.add(URL, queue="default", delay=3600)
        transaction.commit()
        queue.get("somebody")
        assert taskqueue.reset("default") == 2
        assert len(other) == 1
    counts = queue.counts()
    assert (counts["queued"], counts["scheduled"], counts["running"]) == (0, 0, 1)
