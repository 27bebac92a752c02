"""The page with the buttons, and what it shows: the newest tasks of the current user."""

from AccessControl import getSecurityManager
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.pasplugin.identity import identity_of
from collective.taskqueue.task import FINISHED
from plone.protect import CheckAuthenticator
from plone.protect import PostOnly
from Products.Five.browser import BrowserView
from zExceptions import BadRequest
from zope.component import getUtility
import json


#: Tasks of each state to show: those that run next, and those that ended last.
SHOWN = 200


class Page(BrowserView):
    """Forms and a table; `static/page.js` fills the table with what `Tasks` says."""


class Button(BrowserView):
    """What a form of the page posts to: `queue` tasks, and show the page again."""

    def __call__(self):
        # What comes by GET is in logs and histories, the token included.
        PostOnly(self.request)
        # Queuing writes nothing into the database, so Plone's own check does not see it.
        CheckAuthenticator(self.request)
        self.queue()
        self.request.response.redirect(f"{self.context.absolute_url()}/@@taskqueue-demo")
        return ""

    def queue(self):
        raise NotImplementedError


def number_of(request, name, most):
    """Return the field of a form as a number from 1 to `most`, whatever a browser has checked."""
    text = request.form.get(name)
    if not isinstance(text, str) or not (text.isascii() and text.isdecimal()):
        raise BadRequest(f"{name} is no number")
    return min(max(int(text[:9]), 1), most)


class Tasks(BrowserView):
    """The tasks of the current user, and how many there are of each state, as JSON.

    Queues belong to the process, and other sites have a user of the same id: a person is the
    id together with the user folder. The task that changed last comes last.
    """

    def __call__(self):
        queue = getUtility(ITaskQueue, name="default")
        person = identity_of(getSecurityManager().getUser())
        # Without a person, a list would be that of all persons.
        counts = {} if person is None else queue.counts(person)
        tasks = [summary(status) for status in newest(queue, person, counts)]
        self.request.response.setHeader("Content-Type", "application/json")
        self.request.response.setHeader("Cache-Control", "no-store")
        return json.dumps({"counts": counts, "tasks": tasks})


def newest(queue, person, counts):
    """Return what is known about the tasks of a person: of each state a page."""
    found = {}
    for state, number in counts.items():
        start = max(0, number - SHOWN) if state in FINISHED else 0
        for status in queue.tasks(state, person, start, SHOWN):
            found[status.id] = complete(queue, status)
    return sorted(found.values(), key=lambda status: status.changes[-1][1])


def complete(queue, status):
    """Return a status together with attempts and response, which a list leaves out."""
    try:
        return queue.status(status.id)
    except UnknownTask:
        # Its record was removed just now.
        return status


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
    """Return how it went, in one line; empty until the task has finished."""
    if status.status is None or status.reason:
        return status.reason
    words = status.body.decode("utf-8", "replace").strip()
    return f"{status.status} {words}"
