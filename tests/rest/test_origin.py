"""CSRF: no page of another site adds or changes tasks through the browser of a user."""

from plone.rest.cors import CORSPolicy
from plone.rest.interfaces import ICORSPolicy
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from rest.conftest import Client
from rest.conftest import HOOK
from urllib.parse import quote
from zope.component import getGlobalSiteManager
from zope.interface import Interface
from zope.publisher.interfaces.browser import IDefaultBrowserLayer
import pytest
import transaction


@pytest.fixture
def virtual_hosting(site):
    manage_addVirtualHostMonster(site["app"])
    transaction.commit()


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8080", 201),
        ("https://localhost:8080", 403),
        ("https://evil.example.org", 403),
        ("null", 403),
    ],
)
def test_pages_of_other_sites(adder, queue, origin, status):
    """CSRF: a browser says on whose behalf it asks."""
    answer = adder.post("@tasks", {"url": HOOK}, Origin=origin)
    assert answer.status == status
    # What a form can send: no JSON, and an address that makes it a request of the interface.
    path = f"/plone/++api++/@tasks?url={HOOK}"
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
    assert adder("POST", path, body=b"a=b", Origin=origin, **kind).status == status
    assert len(queue) == (2 if status == 201 else 0)


@pytest.mark.parametrize(
    ("relation", "status"),
    [("same-origin", 201), ("none", 201), ("same-site", 403), ("cross-site", 403)],
)
def test_what_the_browser_says_of_a_page(adder, relation, status):
    """It knows better than a comparison of addresses."""
    origin = "https://www.example.org" if status == 201 else "http://localhost:8080"
    headers = {"Origin": origin, "Sec-Fetch-Site": relation}
    assert adder.post("@tasks", {"url": HOOK}, **headers).status == status


@pytest.mark.parametrize(
    ("allowed", "credentials", "auth", "status"),
    [
        ("https://friend.example.org", True, "cookie", 201),
        ("https://friend.example.org", False, "cookie", 403),
        ("https://friend.example.org", False, "header", 201),
        ("https://other.example.org", True, "cookie", 403),
        ("*", False, "cookie", 403),
    ],
)
def test_a_policy_of_the_site(site, portal, adder, queue, allowed, credentials, auth, status):
    """CORS: a site may trust the pages of another one, with or without its cookies."""
    body = {"allow_origin": [allowed], "allow_credentials": credentials, "expose_headers": []}
    policy = type("Policy", (CORSPolicy,), body)
    registry = getGlobalSiteManager()
    arguments = (policy, (Interface, IDefaultBrowserLayer), ICORSPolicy)
    registry.registerAdapter(*arguments)
    headers = {"Origin": "https://friend.example.org"}
    client = adder
    if auth == "cookie":
        client = Client()
        response = site["request"].response
        portal.acl_users.session._setupSession("adder", response)
        headers["Cookie"] = f"__ac={quote(response.cookies['__ac']['value'])}"
    try:
        assert client.post("@tasks", {"url": HOOK}, **headers).status == status
    finally:
        registry.unregisterAdapter(*arguments)
    assert len(queue) == (status == 201)


#: Paths that make the site look as if it was at the host of the page.
DECEITS = [
    "/VirtualHostBase/https/evil.example.org:443/plone/VirtualHostRoot/@tasks",
    "/VirtualHostBase/https/evil.example.org/plone/VirtualHostRoot/@tasks",
    "/VirtualHostBase/https/evil.example.org:443/plone/VirtualHostRoot/_vh_cms/++api++/@tasks",
    "/%56irtualHostBase/https/evil.example.org:443/plone/VirtualHostRoot/@tasks",
    "/./VirtualHostBase/https/evil.example.org:443/plone/VirtualHostRoot/@tasks",
]


@pytest.mark.parametrize("path", DECEITS)
@pytest.mark.parametrize("host", ["localhost:8080", "www.example.org", ""])
def test_a_page_that_makes_this_site_look_like_its_own(adder, queue, virtual_hosting, path, host):
    """A browser that tells the origin alone: what counts is where it has sent the request."""
    headers = {"Origin": "https://evil.example.org", "Host": host}
    assert adder.post(path, {"url": "/plone/@@view"}, **headers).error == (403, "Forbidden", None)
    assert adder("POST", f"{path}?url=/plone/@@view", body=b"a=b", **headers).status == 403
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("public", "host", "origin", "status"),
    [
        ("https/www.example.org:443", "www.example.org", "https://www.example.org", 201),
        ("https/www.example.org:443", "www.example.org:443", "https://www.example.org", 201),
        ("https/www.example.org:443", "WWW.example.org", "https://www.example.org", 201),
        ("https/www.example.org:8443", "www.example.org:8443", "https://www.example.org:8443", 201),
        ("http/www.example.org:80", "www.example.org:80", "http://www.example.org", 201),
        ("http/[::1]:8080", "[::1]:8080", "http://[::1]:8080", 201),
        ("https/www.example.org:443", "www.example.org", "https://www.example.org:8443", 403),
        ("https/www.example.org:443", "www.example.org", "https://example.org", 403),
        ("https/www.example.org:443", "backend:8080", "https://www.example.org", 403),
        ("https/www.example.org:443", "backend:8080", "https://evil.example.org", 403),
    ],
)
def test_behind_a_proxy(adder, virtual_hosting, public, host, origin, status):
    """One that keeps the Host; where it does not, a browser has to say more."""
    path = f"/VirtualHostBase/{public}/plone/VirtualHostRoot/@tasks"
    fields = {"url": "/plone/@@view"}
    assert adder.post(path, fields, Origin=origin, Host=host).status == status
    more = {"Origin": origin, "Host": host, "Sec-Fetch-Site": "same-origin"}
    assert adder.post(path, fields, **more).status == 201
    assert adder.post(path, fields, Host=host).status == 201


ODD = [
    "[",
    "http://[",
    "http://",
    "https://[::1",
    "http://localhost:99999",
    "http://localhost:8080:80",
    "http://localhost:8080/",
    "http://localhost:8080@evil.example.org",
    "http://user@localhost:8080",
    "http://localhost:8080, http://evil.example.org",
    "ftp://localhost:8080",
    "file://",
    "localhost:8080:8080",
    "\xff\xfe",
    "x" * 9000,
]


@pytest.mark.parametrize("origin", ODD)
def test_an_odd_origin_is_another_one(adder, queue, origin):
    """An odd origin is refused, and causes no error."""
    assert adder.post("@tasks", {"url": "/plone/@@view"}, Origin=origin).status == 403
    assert len(queue) == 0


@pytest.mark.parametrize("host", [*ODD, "a, b", "::1", "x:80:80", "example.org:99999", " "])
def test_an_odd_host_is_no_error(adder, host):
    """It is that of no page; a client that is no browser is answered as ever."""
    fields = {"url": "/plone/@@view"}
    assert adder.post("@tasks", fields, Host=host, Origin="http://localhost:8080").status == 403
    assert adder.post("@tasks", fields, Host=host).status == 201


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "@tasks/1"),
        ("DELETE", "@tasks/1/response"),
        ("POST", "@tasks/1/retry"),
        ("POST", "@tasks/1/run"),
        ("POST", "@taskqueues/default/pause"),
        ("POST", "@taskqueues/default/purge"),
        ("DELETE", "@taskqueues/default/tasks"),
    ],
)
def test_requests_that_may_change_something(manager, method, path):
    """Their origin is checked before everything else."""
    answer = manager(method, path, Origin="https://evil.example.org")
    assert answer.error == (403, "Forbidden", None)
