"""A task has failed: the user who queued it gets a letter."""

from AccessControl import getSecurityManager
from collective.taskqueue import taskqueue
from collective.taskqueue.errors import Discard
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskFailed
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.pasplugin.identity import identity_of
from collective.taskqueue.task import Task
from plone import api
from Products.Five.browser import BrowserView
from uuid import uuid4
from zope.component import adapter
from zope.component import getUtility


LETTER = "@@demo-failure-letter"


@adapter(ITaskFailed)
def queue_failure_letter(event):
    """Queue a letter to the person whose task has failed, as a task of that person.

    A letter that fails is not reported by another one.
    """
    failed = event.status.task
    site = failed.user and failed.user.folder.removesuffix("/acl_users")
    if site and LETTER not in failed.url:
        url = f"{site}/{LETTER}?task={event.status.id}"
        letter = Task(id=str(uuid4()), queue=failed.queue, url=url, user=failed.user)
        getUtility(ITaskQueue, name=failed.queue).put(letter)


class FailureLetter(BrowserView):
    """Tell a user which task has failed, and why.

    A user who may add tasks may add this one with any id, so it tells of the user's own tasks only.
    """

    def __call__(self):
        status = own_failure(self.request.form["task"])
        user = api.user.get_current()
        address = user.getProperty("email")
        if not address:
            return f"{user.getId()} has no mail address"
        api.portal.send_email(
            recipient=address,
            subject=f"Failed: {status.task.description or status.task.url}",
            body=f"It was tried {len(status.attempts)} times. {status.reason}",
        )
        return f"told {address}"


def own_failure(task_id):
    """Return what is known about a failed task of the current user."""
    person = identity_of(getSecurityManager().getUser())
    try:
        status = taskqueue.status(task_id)
    except UnknownTask:
        status = None
    if status is None or status.state != "failed" or status.task.user != person or person is None:
        raise Discard("the current user has no failed task of this id")
    return status
