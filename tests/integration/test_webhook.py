"""Web hooks next to tasks of Zope: the database is none of their business."""

from collective.taskqueue import startup
from collective.taskqueue import taskqueue
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.webhook.client import WebHooks
from functools import partial
from ZODB.DB import DB
import pytest
import threading
import transaction


#: Seconds that a test waits at most; only a test that fails waits that long.
BOUND = 30.0


@pytest.mark.parametrize("kind", ["web hook", "task of Zope"])
def test_a_web_hook_opens_no_connection(queue, functional, receiver, monkeypatch, kind):
    """A consumer that runs only web hooks holds none; one that runs a task of Zope does."""
    opened = []
    original = DB.open

    def count(self, *args, **kwargs):
        opened.append(self)
        return original(self, *args, **kwargs)

    url = f"http://127.0.0.1:{receiver}/hook"
    hooks = WebHooks(QueueSettings(allow_hosts=f"127.0.0.1:{receiver}"))
    monkeypatch.setattr(queue, "settings", QueueSettings(allow_hosts=f"127.0.0.1:{receiver}"))
    task_id = taskqueue.add(url if kind == "web hook" else "/plone/@@plone")
    transaction.commit()
    consumer = Consumer(
        queue.storage,
        partial(startup._perform, queue.settings, hooks),
        ServerSettings(),
        ready=partial(startup._reached, functional["app"]._p_jar.db()),
    )
    monkeypatch.setattr(DB, "open", count)
    thread = threading.Thread(target=consumer.step)
    thread.start()
    thread.join(BOUND)
    consumer.stop()
    assert taskqueue.status(task_id).finished
    assert bool(opened) == (kind != "web hook")
    if kind == "web hook":
        assert taskqueue.status(task_id).status == 204
