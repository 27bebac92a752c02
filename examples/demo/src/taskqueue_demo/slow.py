"""Work that takes longer than anybody wants to look at a spinning wheel."""

from collective.taskqueue import taskqueue
from Products.Five.browser import BrowserView
from taskqueue_demo.page import Button
import time


STEPS = 10


class QueueWork(Button):
    """Queue the work, with the one field of the form that it needs."""

    def queue(self):
        seconds = float(self.request.form["seconds"])
        taskqueue.add(
            self.context,
            view="@@demo-work",
            params={"seconds": seconds},
            description="Slow work",
        )


class Work(BrowserView):
    """Do the work, step by step."""

    def __call__(self):
        seconds = min(float(self.request.form["seconds"]), 60.0)
        for _ in range(STEPS):
            time.sleep(seconds / STEPS)
        return f"worked for {seconds:g} s"
