"""The language that a task runs in: the one of the request that queued it."""

from __future__ import annotations

from collective.taskqueue.interfaces import ITaskQueueLayer
from plone.i18n.interfaces import ILanguageUtility
from plone.i18n.interfaces import INegotiateLanguage
from typing import Any
from zope.component import adapter
from zope.component import getSiteManager
from zope.component import getUtility
from zope.interface import implementer
from zope.interface import Interface
from zope.interface import providedBy
import re


#: Name of Plone's language cookie.
LANGUAGE_COOKIE = "I18N_LANGUAGE"

_CODE = re.compile(r"[A-Za-z]{1,8}([-_][A-Za-z0-9]{1,8})*")


def current_language(request: Any) -> str | None:
    """Return the language that was negotiated for a request; None if none was.

    Outside of a site none is: then it is the one that its cookie asks for.
    """
    for value in (request.other.get("LANGUAGE"), request.cookies.get(LANGUAGE_COOKIE)):
        if isinstance(value, str) and len(value) < 100 and _CODE.fullmatch(value):
            return "".join(value)
    return None


@implementer(INegotiateLanguage)
@adapter(Interface, ITaskQueueLayer)
class TaskLanguage:
    """What is negotiated for a task: what was for the request that queued it.

    Whatever the site goes by, such as the path, the content or a cookie: it is for the same
    person. A task that asks for another one by `set_language` gets it. If no language was
    negotiated, or the site of the task does not have it, the site decides.
    """

    def __init__(self, site: Any, request: Any) -> None:
        found = _as_for_others(site, request)
        self.language = found.language
        self.default_language = found.default_language
        self.language_list = list(found.language_list)
        wanted = _wanted(request)
        if wanted is not None and wanted != self.language:
            rest = [language for language in self.language_list if language != wanted]
            self.language_list = [self.language, *rest]
            self.language = wanted


def _as_for_others(site: Any, request: Any) -> Any:
    """Negotiate as for a request that is not that of a task."""
    kind = providedBy(request) - ITaskQueueLayer
    adapters = getSiteManager().adapters
    return adapters.lookup((providedBy(site), kind), INegotiateLanguage)(site, request)


def _wanted(request: Any) -> str | None:
    # Looked up on the object itself: a request looks up unknown attributes in its form.
    attempt = request.__dict__.get("attempt")
    origin = None if attempt is None else attempt.task.origin
    if origin is None or "set_language" in request.form:
        return None
    languages = getUtility(ILanguageUtility).getSupportedLanguages()
    return origin.language if origin.language in languages else None
