"""Where a view's redirect leads: on, as after a form, or to a page to log in or to confirm."""

from __future__ import annotations

from Acquisition import aq_base
from collections.abc import Collection
from collections.abc import Iterator
from plone.registry.interfaces import IRegistry
from Products.CMFCore.interfaces import ISiteRoot
from urllib.parse import unquote
from urllib.parse import urlsplit
from zope.component import queryUtility
from zope.component.hooks import getSite


#: Last steps of the urls at which a user has to log in, or to confirm what a form does.
#: Plone sends users that are logged in to `insufficient-privileges`.
PAGES = {
    "confirm-action",
    "failsafe_login",
    "failsafe_login_form",
    "insufficient-privileges",
    "login",
    "login_form",
    "require_login",
}

_VIEW_PREFIXES = ("@@", "++view++")


def login_pages() -> frozenset[str]:
    """Return urls and ids of the login pages that the current site has configured."""
    return frozenset(_configured(getSite()))


def leads_to_login(location: str, configured: Collection[str] = ()) -> bool:
    """Return whether a redirect leads to a page to log in, or to confirm what a form does.

    `configured` is what `login_pages` returned while the task ran.
    """
    page = _page(location)
    return page in PAGES or page in configured or _without_query(location) in configured


def _configured(site: ISiteRoot) -> Iterator[str]:
    registry = queryUtility(IRegistry)
    external = registry.get("plone.external_login_url") if registry is not None else None
    if external:
        yield _without_query(external)
    plugins = getattr(getattr(site, "acl_users", None), "objectValues", tuple)
    for plugin in plugins():
        path = getattr(aq_base(plugin), "login_path", None)
        if isinstance(path, str) and path:
            yield _page(path)


def _page(location: str) -> str:
    try:
        path = urlsplit(location).path
    except ValueError:
        return ""
    name = unquote(path).rstrip("/").rpartition("/")[2]
    for prefix in _VIEW_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _without_query(url: str) -> str:
    return url.partition("#")[0].partition("?")[0].rstrip("/")
