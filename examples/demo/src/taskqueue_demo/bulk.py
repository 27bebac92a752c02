"""A bulk operation for a page that asks by JavaScript: answered at once, followed by its url."""

from collective.taskqueue import taskqueue
from plone import api
from plone.protect import CheckAuthenticator
from plone.restapi.deserializer import json_body
from plone.restapi.services import Service
from Products.Five.browser import BrowserView
from zExceptions import BadRequest


class QueueTags(Service):
    """Tag all pages of the site, later; tell the client where to ask how it is going."""

    def reply(self):
        CheckAuthenticator(self.request)
        tag = tag_of(json_body(self.request))
        task_id = taskqueue.add(
            self.context,
            view="@@demo-tag",
            params={"tag": tag},
            description=f"Tag all pages with {tag}",
        )
        return taskqueue.accepted(task_id)


class Tag(BrowserView):
    """Tag the pages, one after the other, and say how far it has come.

    Who may edit the site may not edit each page of it, and code of a package is not asked.
    """

    def __call__(self):
        tag = tag_of(self.request.form)
        brains = api.content.find(self.context, portal_type="Document")
        tagged = 0
        for number, brain in enumerate(brains, 1):
            item = brain.getObject()
            if api.user.has_permission("Modify portal content", obj=item):
                item.setSubject(sorted({*item.Subject(), tag}))
                item.reindexObject(idxs=["Subject"])
                tagged += 1
            taskqueue.progress(number, len(brains), brain.Title)
        return f"tagged {tagged} pages"


def tag_of(fields):
    """Return the tag that the client has sent; both the service and the task check it."""
    tag = fields.get("tag")
    if not isinstance(tag, str) or not 0 < len(tag.strip()) <= 100:
        raise BadRequest("a tag has 1 to 100 characters")
    return tag
