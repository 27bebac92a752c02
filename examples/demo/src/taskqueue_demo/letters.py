"""A newsletter: one task for each letter, so that one bad address stops no other letter."""

from collective.taskqueue import taskqueue
from collective.taskqueue.errors import Discard
from plone import api
from Products.Five.browser import BrowserView
from taskqueue_demo.page import Button
from taskqueue_demo.page import number_of


#: Whom a letter may be sent to: who may add tasks chooses the parameters of a task.
READERS = {f"reader-{number:03}@example.org" for number in range(1, 1001)}


class QueueLetters(Button):
    """Queue one letter for each reader; the browser does not wait until they are sent."""

    def queue(self):
        for number in range(1, number_of(self.request, "count", len(READERS)) + 1):
            taskqueue.add(
                self.context,
                view="@@demo-send-letter",
                params={"to": f"reader-{number:03}@example.org"},
                description=f"Letter to reader {number}",
            )


class SendLetter(BrowserView):
    """Send one letter. It leaves when the task commits, as any mail in Plone does."""

    def __call__(self):
        to = self.request.form["to"]
        if to not in READERS:
            raise Discard("this is no address of a reader")
        api.portal.send_email(recipient=to, subject="The news", body="There are no news.")
        return f"sent to {to}"
