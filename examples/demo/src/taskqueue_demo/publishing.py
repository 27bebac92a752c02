"""Publish a folder with all that is in it: each item is a task of its own."""

from collective.taskqueue import taskqueue
from plone import api
from Products.CMFCore.interfaces import IFolderish
from Products.Five.browser import BrowserView
from taskqueue_demo.page import Button
from zope.container.interfaces import INameChooser


class QueueTree(Button):
    """Create a private tree, and queue its publication in the same transaction.

    If the tree cannot be saved, there is no task; once the task runs, the tree is there.
    """

    def queue(self):
        name = INameChooser(self.context).chooseName("news", self.context)
        tree = api.content.create(self.context, "Folder", id=name, title="Notices")
        for topic in ("sports", "weather"):
            folder = api.content.create(tree, "Folder", id=topic, title=topic.title())
            for number in ("1", "2"):
                api.content.create(folder, "Document", id=number, title=f"Report {number}")
        queue_publication(tree)


class Publish(BrowserView):
    """Publish the context, and queue the same for each of its items.

    A task may run more than once, if its process is lost: so it looks before it leaps.
    """

    def __call__(self):
        if api.content.get_state(self.context) != "published":
            api.content.transition(self.context, transition="publish")
        if IFolderish.providedBy(self.context):
            for item in self.context.objectValues():
                queue_publication(item)
        return f"published {self.context.absolute_url()}"


def queue_publication(item):
    description = f"Publish {taskqueue.path(item)}"
    taskqueue.add(item, view="@@demo-publish", description=description)
