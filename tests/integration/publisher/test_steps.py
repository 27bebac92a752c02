"""What the real Zope heeds in a path is what `address` forbids."""

from collective.taskqueue.publisher.address import forbidden_step
from OFS.Folder import Folder
from Products.SiteAccess.VirtualHostMonster import manage_addVirtualHostMonster
from urllib.parse import unquote
import pytest
import transaction


EVIL = "https/evil.example:443"

#: Paths below the root, and whether they change the public urls of what they lead to.
PATHS = [
    (f"/VirtualHostBase/{EVIL}/plone/VirtualHostRoot/@@look", True),
    (f"/%56irtualHostBase/{EVIL}/plone/@@look", True),
    (f"//VirtualHostBase/{EVIL}/plone/@@look", True),
    (f"/./VirtualHostBase/{EVIL}/plone/@@look", True),
    (f"/plone/../VirtualHostBase/{EVIL}/plone/@@look", True),
    (f"/plone/%2e%2e/VirtualHostBase/{EVIL}/plone/@@look", True),
    (f"/VirtualHostBase%2f{EVIL}%2fplone/@@look", True),
    ("/plone/VirtualHostRoot/@@look", True),
    ("/plone/VirtualHostRoot/_vh_cms/@@look", True),
    (f"/plone?VirtualHostBase/{EVIL}/VirtualHostRoot/@@look:method=1", False),
    (f"/?VirtualHostBase/{EVIL}/plone/VirtualHostRoot/@@look:method=1", True),
    (f"/?:action=VirtualHostBase/{EVIL}/plone/VirtualHostRoot/@@look", True),
    ("/plone/@@look", False),
    ("/plone/./@@look", False),
    ("/plone/VirtualHostRoot/../@@look", False),
    ("/virtualhostbase/plone/@@look", False),
    (f"/plone/@@look?path=/VirtualHostBase/{EVIL}", False),
]


@pytest.fixture
def looked(functional, view):
    manage_addVirtualHostMonster(functional["app"])
    functional["app"]._setObject("virtualhostbase", Folder("virtualhostbase"))
    transaction.commit()
    urls = []
    view("look", lambda context, request: urls.append(context.absolute_url()))
    return urls


@pytest.mark.parametrize(("url", "heeded"), PATHS)
def test_what_zope_heeds_is_forbidden(looked, http, url, heeded):
    path, mark, query = url.partition("?")
    http(f"{unquote(path)}{mark}{query}")
    plain = "http://localhost:8080/plone"
    assert all(found != plain for found in looked) == heeded or not looked
    if heeded:
        assert looked, "the path leads nowhere, and proves nothing"
        assert forbidden_step(url) is not None
    elif looked:
        assert forbidden_step(url) is None
