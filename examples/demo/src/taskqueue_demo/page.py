"""The page with the buttons, and what it shows: the newest tasks of the current user."""

from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.task import FINISHED
from plone import api
from plone.protect import CheckAuthenticator
from Products.Five.browser import BrowserView
from zope.component import getUtility
import json


#: Tasks of each state to show: those that run next, and those that ended last.
SHOWN = 500


class Page(BrowserView):
    """Forms and a table; `static/page.js` fills the table with what `Tasks` says."""


class Button(BrowserView):
    """What a form of the page posts to: `queue` tasks, and show the page again."""

    def __call__(self):
        # Queuing writes nothing into the database, so Plone's own check does not see it.
        CheckAuthenticator(self.request)
        self.queue()
        self.request.response.redirect(f"{self.context.absolute_url()}/@@taskqueue-demo")
        return ""

    def queue(self):
        raise NotImplementedError


class Tasks(BrowserView):
    """How full the queue is, and the tasks of the current user, as JSON.

    The task that changed last comes last.
    """

    def __call__(self):
        queue = getUtility(ITaskQueue, name="default")
        tasks = [summary(status) for status in self.mine(queue)]
        self.request.response.setHeader("Content-Type", "application/json")
        self.request.response.setHeader("Cache-Control", "no-store")
        return json.dumps({"counts": queue.counts(), "tasks": tasks})

    def mine(self, queue):
        user = api.user.get_current().getId()
        found = {}
        for state, number in queue.counts().items():
            start = max(0, number - SHOWN) if state in FINISHED else 0
            for status in queue.tasks(state, start=start, size=SHOWN):
                if status.task.user and status.task.user.id == user:
                    found[status.id] = status
        return sorted(found.values(), key=lambda status: status.changes[-1][1])


def summary(status):
    """Return what people want to know about a task, as JSON can tell it."""
    return {
        "id": status.id,
        "description": status.task.description,
        "state": status.state,
        "changes": status.changes,
        "attempts": len(status.attempts),
        "elapsed": status.elapsed,
        "outcome": outcome(status),
    }


def outcome(status):
    """Return how it went, in one line; empty as long as nobody knows."""
    if status.status is None or status.reason:
        return status.reason
    words = status.body.decode("utf-8", "replace").strip()
    return f"{status.status} {words}"
