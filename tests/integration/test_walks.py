"""The walks of docs/explanation/walks.rst are taken: functions are called in that order."""

from collective.taskqueue import startup
from collective.taskqueue import taskqueue
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.webhook.client import WebHooks
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from services import RedisServer
from zope.component import getGlobalSiteManager
import pytest
import re
import sys
import threading
import transaction


PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "walks.rst"
PACKAGE = "collective.taskqueue."

#: Seconds that a test waits at most; only a test that fails waits that long.
BOUND = 60.0


def walk(name):
    """Return the functions that the page names, in its order."""
    text = PAGE.read_text(encoding="utf-8").partition(f".. walk: {name}\n")[2]
    text = text.partition(".. walk: ")[0]
    return re.findall(r"(?m)^\d+\. ``([\w.]+)``", text)


@contextmanager
def traced():
    """Yield the functions of the package that are called in the block, in that order."""
    calls = []

    def note(frame, event, argument):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(PACKAGE):
            calls.append(f"{module.removeprefix(PACKAGE)}.{frame.f_code.co_qualname}")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def assert_in_order(names, calls):
    rest = iter(calls)
    missing = [name for name in names if name not in rest]
    assert names
    assert missing == [], [name for name in missing if name not in calls]


@pytest.fixture
def shared(functional, tmp_path):
    """A queue on a Redis server."""
    server = RedisServer(tmp_path).start()
    settings = QueueSettings(queue="walks", type="redis", unix_socket_path=server.socket)
    queue = TaskQueue(settings, RedisStorage(settings))
    registry = getGlobalSiteManager()
    registry.registerUtility(queue, ITaskQueue, name="walks")
    yield queue
    registry.unregisterUtility(queue, ITaskQueue, name="walks")
    queue.storage.close()
    server.stop()


def test_from_add_to_the_queue(shared, functional):
    portal = functional["portal"]
    portal.title = "So that the transaction writes something"
    with traced() as calls:
        taskqueue.add(portal, view="@@sitemap.xml.gz", queue="walks")
        transaction.commit()
    assert_in_order(walk("add"), calls)


def test_from_the_queue_to_the_result(shared, functional, view):
    view("walk", lambda context, request: "done")
    portal = functional["portal"]
    task_id = taskqueue.add(portal, view="@@walk", queue="walks")
    transaction.commit()
    done = threading.Event()
    with traced() as calls:
        consumer = Consumer(
            shared.storage,
            publish,
            ServerSettings(),
            lambda state, _: state in "succeeded failed" and done.set(),
        )
        consumer.start()
        try:
            assert done.wait(BOUND)
        finally:
            consumer.stop()
    assert taskqueue.status(task_id, queue="walks").attempts
    assert_in_order(walk("consume"), calls)


def test_a_web_hook(queue, receiver, monkeypatch):
    settings = QueueSettings(allow_hosts=f"127.0.0.1:{receiver}", secret="whsec_" + "c2VjcmV0" * 4)
    monkeypatch.setattr(queue, "settings", settings)
    task_id = taskqueue.add(f"http://127.0.0.1:{receiver}/hook")
    transaction.commit()
    consumer = Consumer(
        queue.storage, partial(startup._perform, settings, WebHooks(settings)), ServerSettings()
    )
    with traced() as calls:
        consumer.step()
    consumer.stop()
    assert taskqueue.status(task_id).state == SUCCEEDED
    assert_in_order(walk("hook"), calls)


def test_a_task_over_its_timeout(queue, view):
    def work(context, request):
        # Without a call: if `note` were interrupted, Python would turn the profile off.
        while True:
            pass

    task_id = taskqueue.add(view("work", work), timeout=0.2)
    transaction.commit()
    with traced() as calls:
        consumer = Consumer(queue.storage, publish, ServerSettings())
        consumer.step()
        consumer.stop()
    assert taskqueue.status(task_id).reason.startswith("TaskTimeout")
    assert_in_order(walk("timeout"), calls)
