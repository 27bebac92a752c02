"""Subscribers for the duration of a test, and what they are told."""

from collective.taskqueue import taskqueue
from collective.taskqueue.consumer import events
from collective.taskqueue.interfaces import ITaskEvent
from zope.component import getGlobalSiteManager
import pytest
import transaction


#: Seconds after which a test fails; only a failure takes this long.
PATIENCE = 60.0


@pytest.fixture
def subscribe(functional):
    """Register a subscriber for the duration of a test."""
    registry = getGlobalSiteManager()
    handlers = []

    def register(handler, kind=ITaskEvent):
        registry.registerHandler(handler, (kind,))
        handlers.append((handler, (kind,)))

    yield register
    assert events.flush(PATIENCE)
    for handler, required in handlers:
        registry.unregisterHandler(handler, required)


class Told(list):
    """All events, once they are told."""

    def flushed(self):
        assert events.flush(PATIENCE)
        return self

    def of(self, task_id):
        return [type(event) for event in self.flushed() if event.status.id == task_id]


@pytest.fixture
def told(subscribe):
    told = Told()
    subscribe(told.append)
    return told


@pytest.fixture
def url(view):
    return view("work", lambda context, request: "done")


def add(url, **options):
    task_id = taskqueue.add(url, queue="default", **options)
    transaction.commit()
    return task_id


def raising(error):
    def function(*args):
        raise error

    return function
