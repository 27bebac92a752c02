"""The page of a request that needs a queue whose storage is unavailable: 503.

The error is raised by a view, or by the commit of what the view has written: then the answer of
the view is void. A page of its own, because that of Plone may render what an outage breaks.
"""

from __future__ import annotations

from collective.taskqueue.services.refusal import begin_anew
from html import escape
from Products.Five.browser import BrowserView
from zope.i18n import translate
from zope.i18nmessageid import Message
from zope.i18nmessageid import MessageFactory
import json


_ = MessageFactory("collective.taskqueue")

TITLE = _("unavailable_title", default="Please try again in a moment")
TEXT = _(
    "unavailable_text",
    default="This needs the queue of tasks, which does not answer at the moment."
    " Nothing was changed.",
)
HINT = _("unavailable_hint", default="If it lasts, tell the administrators of this site.")

PAGE = """\
<!DOCTYPE html>
<html lang="{language}">
  <head><meta charset="utf-8"><title>{title}</title></head>
  <body><main id="content"><h1>{title}</h1><p>{text}</p><p>{hint}</p></main></body>
</html>
"""


class UnavailablePage(BrowserView):
    """Answers 503 and when to retry, for a person or for a program."""

    def __call__(self) -> str:
        response = self.request.response
        begin_anew(response)
        accept = self.request.getHeader("Accept", "") or ""
        if "json" in accept and "text/html" not in accept:
            response.setHeader("Content-Type", "application/json")
            return json.dumps({"error_type": "StorageUnavailable", "message": self._said(TEXT)})
        response.setHeader("Content-Type", "text/html; charset=utf-8")
        said = {name: escape(self._said(text)) for name, text in _TEXTS.items()}
        return PAGE.format(language=escape(self._language()), **said)

    def _said(self, text: Message) -> str:
        return str(translate(text, context=self.request))

    def _language(self) -> str:
        return str(self.request.get("LANGUAGE") or "en")


_TEXTS = {"title": TITLE, "text": TEXT, "hint": HINT}
