"""The language that a task runs in: that of the request that queued it."""

from __future__ import annotations

from collective.taskqueue.interfaces import ITaskQueueLayer
from functools import lru_cache
from plone.i18n.interfaces import ILanguageUtility
from plone.i18n.interfaces import INegotiateLanguage
from Products.CMFCore.interfaces import ISiteRoot
from zope.component import adapter
from zope.component import getSiteManager
from zope.component import getUtility
from zope.interface import Declaration
from zope.interface import implementer
from zope.interface import Interface
from zope.interface import providedBy
from zope.interface.interface import InterfaceClass
from zope.publisher.interfaces.browser import IBrowserRequest
import re


#: Name of Plone's language cookie.
LANGUAGE_COOKIE = "I18N_LANGUAGE"

_CODE = re.compile(r"[A-Za-z]{1,8}([-_][A-Za-z0-9]{1,8})*")


def current_language(request: IBrowserRequest) -> str | None:
    """Return the language that was negotiated for a request; None if none was.

    Outside of a site none is negotiated: then it is the language of the request's cookie.
    """
    for value in (request.other.get("LANGUAGE"), request.cookies.get(LANGUAGE_COOKIE)):
        if isinstance(value, str) and len(value) < 100 and _CODE.fullmatch(value):
            return "".join(value)
    return None


@implementer(INegotiateLanguage)
@adapter(Interface, ITaskQueueLayer)
class TaskLanguage:
    """Negotiates for a task the language of the request that queued it.

    However the site negotiates, such as by path, content or cookie: the task is for the same
    user. A task that asks for another language by `set_language` gets it. If no language was
    negotiated, or the site of the task does not have it, the site decides.
    """

    def __init__(self, site: ISiteRoot, request: IBrowserRequest) -> None:
        wanted = _wanted(request)
        if wanted is None:
            found = _as_for_others(site, request)
            self.language = found.language
            self.default_language = found.default_language
            self.language_list = list(found.language_list)
        else:
            # The usual negotiation is skipped: it takes long.
            self.language = wanted
            self.default_language = getUtility(ILanguageUtility).getDefaultLanguage()
            self.language_list = []


def _as_for_others(site: ISiteRoot, request: IBrowserRequest) -> INegotiateLanguage:
    """Negotiate as for a request that is not from a task."""
    kind = _without_layer(*providedBy(request).__bases__)
    adapters = getSiteManager().adapters
    # An adapter for a kind of site would have been preferred to that of tasks, which is for all.
    return adapters.lookup((Interface, kind), INegotiateLanguage)(site, request)


# Cached: one declaration for all requests of a kind, because registries cache lookups by it.
@lru_cache(maxsize=100)
def _without_layer(*interfaces: InterfaceClass) -> Declaration:
    return Declaration(*interfaces) - ITaskQueueLayer


def _wanted(request: IBrowserRequest) -> str | None:
    # In `__dict__`, because a request looks up unknown attributes in its form.
    attempt = request.__dict__.get("attempt")
    origin = None if attempt is None else attempt.task.origin
    if origin is None or "set_language" in request.form:
        return None
    languages = getUtility(ILanguageUtility).getSupportedLanguages()
    return origin.language if origin.language in languages else None
