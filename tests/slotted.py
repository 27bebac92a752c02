"""Workers that are lost or frozen, and tasks whose slots tell what they have committed."""

from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.publisher.slot import find
from collective.taskqueue.publisher.slot import Reference
from collective.taskqueue.publisher.slot import Slots
from contextlib import contextmanager
from persistent.mapping import PersistentMapping
from zope.component import getGlobalSiteManager
import transaction


def calls(portal):
    transaction.begin()
    return getattr(portal, "calls", 0)


def add(url, **options):
    task_id = taskqueue.add(url, queue="slots", **options)
    transaction.commit()
    return task_id


def reserve(queue, portal):
    slots = Slots(portal._p_jar.db()).take(1)
    (lease,) = queue.storage.reserve("lost", timeout=0, lease=30.0, slots=slots)
    return lease


def run(queue, lease):
    """What a worker does before it reports the outcome: it may be killed then, or frozen."""
    attempt = Attempt(lease, queue.storage, retry_max_count=10)
    attempt.slot = lease.slot
    return publish(attempt)


def take_place(portal, lease):
    """Commit another object at the object id of the slot, as a database may after a restart."""
    oid = bytes.fromhex(Reference.parse(lease.slot).slot.oid)
    with portal._p_jar.db().transaction() as connection:
        connection._add(PersistentMapping(), oid)


@contextmanager
def subscriber(function, event):
    """Call the function for each event of the publisher."""
    registry = getGlobalSiteManager()
    registry.registerHandler(function, (event,))
    try:
        yield
    finally:
        registry.unregisterHandler(function, (event,))


def found(portal, lease):
    return find(portal._p_jar.db(), Reference.parse(lease.slot), lease.task)
