"""Whether a browser asks on behalf of a page of another site."""

from __future__ import annotations

from collective.taskqueue.services.refusal import Refusal
from plone.rest.interfaces import ICORSPolicy
from typing import Any
from zope.component import queryMultiAdapter
import re


_ORIGIN = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/?#@:,\[\]]+)(?::(\d{1,5}))?")

#: Ports that an origin and a Host header leave out.
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def refuse_other_sites(context: Any, request: Any) -> None:
    """Raise a `Refusal` if a browser sends this on behalf of a page of another site.

    Adding a task writes nothing into the database, so the check of Plone does not see it.
    Called for every request that may change anything.
    """
    origin = request.getHeader("Origin")
    # The browser knows best, also where a proxy says another Host; older ones tell the origin
    # alone.
    relation = request.getHeader("Sec-Fetch-Site")
    if relation in ("same-origin", "none"):
        return
    if relation is None and (not origin or _is_own(request, origin)):
        return
    policy = queryMultiAdapter((context, request), ICORSPolicy)
    allowed = policy is not None and policy.process_simple_request()
    # A policy that wants no cookies of ours does not mean requests that carry them.
    if not allowed or not (policy.allow_credentials or request._auth):
        raise Refusal(403, "A page of another site may not do this.")


def _is_own(request: Any, origin: str) -> bool:
    """Whether it is the origin of the host that the client spoke to.

    That is what the Host header says. SERVER_URL is not asked for it: a path with
    VirtualHostBase in it makes any host the own one, and a page of that host can send one.
    """
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return False
    scheme = found[1].lower()
    environ = request.environ
    # Only a proxy knows of the encryption that ends there, and tells it in the path.
    if scheme not in (environ.get("wsgi.url_scheme"), request["SERVER_URL"].partition(":")[0]):
        return False
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    theirs, ours = _authority(found[2], scheme), _authority(host, scheme)
    return theirs is not None and theirs == ours


def _authority(text: str, scheme: str) -> tuple[str, str] | None:
    """Host and port; None for anything else, such as two of them."""
    found = _AUTHORITY.fullmatch(text.lower())
    return found and (found[1], found[2] or _DEFAULT_PORTS[scheme])
