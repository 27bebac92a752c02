"""Detects requests that a browser sends on behalf of a page of another site."""

from __future__ import annotations

from collective.taskqueue.services.refusal import Refusal
from plone.rest.interfaces import ICORSPolicy
from Products.CMFCore.interfaces import ISiteRoot
from zope.component import queryMultiAdapter
from zope.publisher.interfaces.browser import IBrowserRequest
import re


_ORIGIN = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/?#@:,\[\]]+)(?::(\d{1,5}))?")

#: Ports that an origin and a Host header leave out.
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def refuse_other_sites(context: ISiteRoot, request: IBrowserRequest) -> None:
    """Raise a `Refusal` if a browser sends this on behalf of a page of another site.

    Adding a task writes nothing into the database, so the CSRF check of Plone does not see it.
    Called for every request that may change anything.
    """
    origin = request.getHeader("Origin")
    # The browser's own verdict counts, also where a proxy sets another Host; older browsers send
    # only the origin.
    relation = request.getHeader("Sec-Fetch-Site")
    if relation in ("same-origin", "none"):
        return
    if relation is None and (not origin or _is_own(request, origin)):
        return
    policy = queryMultiAdapter((context, request), ICORSPolicy)
    allowed = policy is not None and policy.process_simple_request()
    # A policy without credentials does not allow requests that carry our cookies.
    if not allowed or not (policy.allow_credentials or request._auth):
        raise Refusal(403, "A page of another site may not do this.")


def _is_own(request: IBrowserRequest, origin: str) -> bool:
    """Return whether this is the origin of the host that the client has addressed.

    The Host header names that host. SERVER_URL does not count: a path with VirtualHostBase in
    it makes any host the own one, and a page of that host can send such a path.
    """
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return False
    scheme = found[1].lower()
    environ = request.environ
    # Only a proxy knows of TLS that ends at the proxy, and tells it in the path.
    if scheme not in (environ.get("wsgi.url_scheme"), request["SERVER_URL"].partition(":")[0]):
        return False
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    theirs, ours = _authority(found[2], scheme), _authority(host, scheme)
    return theirs is not None and theirs == ours


def _authority(text: str, scheme: str) -> tuple[str, str] | None:
    """Return host and port; None for anything else, such as two hosts."""
    found = _AUTHORITY.fullmatch(text.lower())
    return found and (found[1], found[2] or _DEFAULT_PORTS[scheme])
