"""A bulk operation for a page that asks by JavaScript: answered at once, followed by its url."""

from collective.taskqueue import taskqueue
from plone import api
from plone.protect import CheckAuthenticator
from plone.restapi.deserializer import json_body
from plone.restapi.services import Service
from Products.Five.browser import BrowserView


class QueueTags(Service):
    """Tag all pages of the site, later; tell the client where to ask how it is going."""

    def reply(self):
        CheckAuthenticator(self.request)
        tag = str(json_body(self.request).get("tag", ""))
        site = "/".join(self.context.getPhysicalPath())
        task_id = taskqueue.add(
            f"{site}/@@demo-tag",
            params={"tag": tag},
            payload=None,
            description=f"Tag all pages with {tag}",
        )
        return taskqueue.accepted(task_id)


class Tag(BrowserView):
    """Tag the pages, one after the other, and say how far it has come."""

    def __call__(self):
        tag = self.request.form["tag"]
        brains = api.content.find(self.context, portal_type="Document")
        for number, brain in enumerate(brains, 1):
            item = brain.getObject()
            item.setSubject(sorted({*item.Subject(), tag}))
            item.reindexObject(idxs=["Subject"])
            taskqueue.progress(number, len(brains), brain.Title)
        return f"tagged {len(brains)} pages"
