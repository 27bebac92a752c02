"""Nobody watches a queue: whoever queued a task that fails gets a letter."""

from collective.taskqueue import taskqueue
from collective.taskqueue.interfaces import ITaskFailed
from plone import api
from Products.Five.browser import BrowserView
from zope.component import adapter


@adapter(ITaskFailed)
def queue_failure_letter(event):
    """Queue a letter to the person whose task has failed.

    The letter is nobody's task, so that it is not the next one to be reported.
    """
    user = event.status.task.user
    site = user and user.folder.removesuffix("/acl_users")
    if site:
        taskqueue.add(f"{site}/@@demo-failure-letter", params={"task": event.status.id})


class FailureLetter(BrowserView):
    """Tell somebody which of their tasks has failed, and why."""

    def __call__(self):
        status = taskqueue.status(self.request.form["task"])
        user = api.user.get(status.task.user.id)
        address = user and user.getProperty("email")
        if not address:
            return f"{status.task.user.id} has no mail address"
        api.portal.send_email(
            recipient=address,
            subject=f"Failed: {status.task.description or status.task.url}",
            body=f"It was tried {len(status.attempts)} times. {status.reason}",
        )
        return f"told {address}"
