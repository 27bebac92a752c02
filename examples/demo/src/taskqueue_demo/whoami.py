"""A task runs as the person who queued it, at the address where they queued it."""

from collective.taskqueue import taskqueue
from plone import api
from Products.Five.browser import BrowserView
from taskqueue_demo.page import Button


class QueueWhoAmI(Button):
    def queue(self):
        taskqueue.add(self.context, view="@@demo-whoami", description="Who am I?")


class WhoAmI(BrowserView):
    def __call__(self):
        return f"{api.user.get_current().getId()} at {self.context.absolute_url()}"
