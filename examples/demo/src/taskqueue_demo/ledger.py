"""A ledger in the database: it says of each task that was queued how often it has run."""

from BTrees.OIBTree import OIBTree
from collective.taskqueue import taskqueue
from collective.taskqueue.errors import Discard
from Products.Five.browser import BrowserView
from taskqueue_demo.page import Button
from taskqueue_demo.page import number_of
from uuid import uuid4
from zope.annotation.interfaces import IAnnotations
import json
import time


LEDGER = "taskqueue_demo.ledger"

#: Milliseconds that a task may be told to take.
LONGEST = 10_000


class QueueEntries(Button):
    """Queue tasks, and note each of them with a 0.

    The same transaction does both: a task has a note if and only if it is queued.
    """

    def queue(self):
        milliseconds = number_of(self.request, "milliseconds", LONGEST)
        ledger = IAnnotations(self.context).setdefault(LEDGER, OIBTree())
        for _ in range(number_of(self.request, "count", 1000)):
            name = uuid4().hex
            ledger[name] = 0
            taskqueue.add(
                self.context,
                view="@@demo-count-run",
                params={"name": name, "milliseconds": milliseconds},
                description=f"Entry {name}",
            )


class CountRun(BrowserView):
    """Work for a while, and add 1 to what the ledger says of this task."""

    def __call__(self):
        name = self.request.form["name"]
        ledger = IAnnotations(self.context).get(LEDGER, {})
        if name not in ledger:
            raise Discard("the ledger does not have this task")
        time.sleep(number_of(self.request, "milliseconds", LONGEST) / 1000)
        ledger[name] += 1
        return f"run {ledger[name]}"


class Ledger(BrowserView):
    """The ledger, as JSON."""

    def __call__(self):
        self.request.response.setHeader("Content-Type", "application/json")
        self.request.response.setHeader("Cache-Control", "no-store")
        return json.dumps(dict(IAnnotations(self.context).get(LEDGER, {})))
