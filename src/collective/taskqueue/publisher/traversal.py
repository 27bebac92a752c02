"""Checks each step of a task's request: content must physically be where the url says.

Zope acquires: where `news/about` was deleted, the url of `news/about` leads to another `about`
further up. A browser follows a link soon after it was shown; a task may wait for days.
"""

from __future__ import annotations

from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from Acquisition.interfaces import IAcquirer
from collective.taskqueue.publisher.address import chooses_virtual_host
from collective.taskqueue.publisher.address import steps
from collective.taskqueue.publisher.target import uid_of
from OFS.DTMLDocument import DTMLDocument
from OFS.Image import File
from OFS.interfaces import IApplication
from OFS.interfaces import IFolder
from OFS.SimpleItem import Item
from plone.dexterity.interfaces import IDexterityContent
from plone.rest.traverse import RESTWrapper
from Products.CMFCore.interfaces import IContentish
from Products.CMFCore.interfaces import IFolderish
from Products.CMFCore.interfaces import ISiteRoot
from Products.CMFCore.utils import UniqueObject
from Products.ZCatalog.interfaces import IZCatalog
from zExceptions import BadRequest
from zExceptions import NotFound
from zope.component.interfaces import ISite
from zope.traversing.namespace import nsParse


#: Namespaces that look up attributes or items, and so may acquire. All others look up objects of
#: their own, which are not where the url says, or mark the request.
ACQUIRING_NAMESPACES = ("acquire", "attribute", "item")

#: By convention, names of what CMF and Zope keep in a site for all of its content.
TOOL_PREFIX = "portal_"
USER_FOLDER = "acl_users"


class Misplaced(NotFound):
    """The url leads to content at another place; a retry cannot change that."""


class ForeignHost(BadRequest):
    """A form field would choose the public host of the task; a retry cannot change that."""


def check_place(found: Item, holder: Item, name: str) -> None:
    """Raise `Misplaced` if `found` is content that was acquired.

    `holder` is the object that `name`, one step of the url, was looked up in. Called for each
    step while Zope traverses, because steps that a service traverses itself leave no trace.
    """
    found, holder = _unwrapped(found), _unwrapped(holder)
    # First, because this is fast, and true of nearly every step.
    if aq_base(aq_parent(aq_inner(found))) is aq_base(holder):
        return
    if holder is None or _has_own_place(name):
        return
    # A view does not acquire: it decides itself what it returns.
    if not IAcquirer.providedBy(holder) or not _is_content(found):
        return
    if _has_path_in(found, holder) or not _is_held(found):
        return
    raise Misplaced(
        f"there is no {name} at {_path(holder)} any more"
        f" ({found.getId()} was found at {_path(found)} by acquisition)"
    )


def is_object(found: Item, uid: str | None) -> bool:
    """Return whether a step leads to the content object of this UID."""
    return uid is not None and uid_of(_unwrapped(found)) == uid


def check_added_steps(path: str, original: str) -> None:
    """Raise `ForeignHost` if form fields have added steps to a path that choose the host.

    `original` is the path of the url, which was checked before.
    """
    step = chooses_virtual_host(steps(path.removeprefix(original.rstrip("/"))))
    if step is not None:
        raise ForeignHost(f"a form field adds the step {step} to the path")


def _has_own_place(name: str) -> bool:
    namespace = nsParse(name)[0] if name[:1] in ("@", "+") else ""
    return name == "." or bool(namespace and namespace not in ACQUIRING_NAMESPACES)


def _unwrapped(item: Item) -> Item:
    while isinstance(item, RESTWrapper):
        item = item.context
    return item


def _is_content(item: Item) -> bool:
    """Return whether the item is content: code, views and skins act on content instead."""
    if isinstance(item, UniqueObject) or IZCatalog.providedBy(item):
        return False
    for interface in (IContentish, IDexterityContent, IFolderish, IApplication):
        if interface.providedBy(item):
            return True
    base = aq_base(item)
    if not IFolder.providedBy(item) and not isinstance(base, (File, DTMLDocument)):
        # Any other item may be a tool in a site or in the root, but not in a folder. Scripts,
        # methods and templates are callable.
        return isinstance(base, Item) and not callable(base) and not _is_in_root(item)
    name = item.getId()
    return name != USER_FOLDER and not name.startswith(TOOL_PREFIX)


def _is_in_root(item: Item) -> bool:
    container = aq_parent(aq_inner(item))
    return any(kind.providedBy(container) for kind in (IApplication, ISite, ISiteRoot))


def _has_path_in(item: Item, holder: Item) -> bool:
    # Some containers are a new object at each lookup: compare their paths.
    parent = aq_parent(aq_inner(item))
    return parent is not None and _path(parent) == _path(holder)


def _is_held(item: Item) -> bool:
    """Return whether its container has the item; a skin layer's item only seems to be there."""
    has_object = getattr(aq_parent(aq_inner(item)), "hasObject", None)
    return has_object is None or bool(has_object(item.getId()))


def _path(item: Item) -> str:
    path = getattr(item, "getPhysicalPath", None)
    return ("/".join(path()) or "/") if path is not None else f"a {type(aq_base(item)).__name__}"
