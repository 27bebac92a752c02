"""A long task with all that a life has: progress, an end before its time, a second chance."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import Discard
from collective.taskqueue.errors import RetryLater
from plone import api
from Products.Five.browser import BrowserView


class Export(BrowserView):
    """List all items of a folder: takes its time, and says how far it has come."""

    def __call__(self):
        paths = []
        brains = api.content.find(self.context)
        for brain in brains:
            taskqueue.checkpoint()
            paths.append(brain.getPath())
            taskqueue.progress(len(paths), len(brains), brain.getPath())
        return "\n".join(paths)


def queue_export(folder):
    """Export a folder once, however often it is asked for before the task runs."""
    path = taskqueue.path(folder)
    return taskqueue.add(
        folder,
        view="@@demo-export",
        key=f"export {path}",
        description=f"Export {path}",
        max_attempts=5,
        timeout=600,
    )


class Import(BrowserView):
    """Read what another system has put into a file here, as soon as it is complete."""

    def __call__(self):
        lines = self.context.data.decode("utf-8").splitlines()
        if not lines or lines[-1] != "end":
            raise RetryLater(60, "the file is not complete yet")
        if len(lines) == 1:
            raise Discard("the file is empty, and no other attempt changes that")
        return f"{len(lines) - 1} lines"


def queue_index(folder):
    """Index a folder after each change, never twice at a time, and not for the past."""
    return taskqueue.add(
        folder,
        view="@@demo-export",
        key=f"index {taskqueue.path(folder)}",
        on_conflict="after_running",
    )
