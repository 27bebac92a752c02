"""The target of a task: a path from the root of Zope, or a content object and a view on it."""

from __future__ import annotations

from Acquisition import aq_base
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.publisher.address import quoted
from collective.taskqueue.publisher.address import steps
from dataclasses import dataclass
from OFS.interfaces import IApplication
from OFS.interfaces import IItem
from plone.uuid.interfaces import IUUID
from urllib.parse import unquote
from zExceptions import NotFound
from zope.component import getGlobalSiteManager
from zope.component.hooks import getSite
from zope.interface import Declaration
from zope.interface import Interface
from zope.interface import providedBy
from zope.publisher.interfaces.browser import IBrowserRequest
from zope.publisher.interfaces.browser import IDefaultBrowserLayer
import re


_NO_VIEW = re.compile(r"[?#\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Target:
    """The parsed first argument of `add`."""

    url: str
    #: UID of the content object; None if it has none, or was given by its path.
    uid: str | None = None
    #: The quoted end of the path, after the object.
    view: str = ""


def target_of(target: str | IItem, view: str | None = None) -> Target:
    """Return the target for a url, or for a content object and a view on it.

    A brain of a catalog stands for its object. Raises `InvalidTask` for anything else, and for
    an object that has no place in the database yet. Called when a task is added.
    """
    if isinstance(target, (str, bytes, type(None))):
        if view is not None:
            raise InvalidTask("view", "view is for a content object; a url has its own path")
        return Target(target)  # type: ignore[arg-type]
    content = _content(target)
    names = _physical_names(content)
    # A step that needs a request to be looked up, such as ++conversation++, cannot be followed
    # later. A plain id may begin with one such character, as in +358-1.
    uid = None if any(name.startswith(("@@", "++")) for name in names) else uid_of(content)
    called = quoted(_view_names(view))[1:]
    return Target(joined(quoted(names), called), uid, called)


def joined(path: str, view: str) -> str:
    """Return the path of a view on the object at a path; both are quoted."""
    return f"{path.rstrip('/')}/{view}" if view else path


def uid_of(content: IItem) -> str | None:
    """Return the UID of a content object; None if it has none."""
    # Without acquisition: otherwise the UID of its container might be acquired.
    uid = IUUID(aq_base(content), None)
    return uid if isinstance(uid, str) and uid else None


def stands_at(root: IApplication, names: tuple[str, ...]) -> IItem | None:
    """Return the object whose physical path consists of these names; None if there is none.

    `root` is the root of Zope. Nothing is acquired, and no permission is checked.
    """
    found = root.unrestrictedTraverse(names, None) if names else root
    if not hasattr(aq_base(found), "getPhysicalPath"):
        return None
    return found if found.getPhysicalPath() == ("", *names) else None


def missing_step(url: str, request: IBrowserRequest | None) -> str | None:
    """Return the first step of a path if the root of Zope has nothing of that name.

    None if traversal finds that step by any means, or if there is no database at hand.
    """
    names = steps(unquote(url.partition("?")[0]))
    root = _root(request)
    if root is None or not names or names[0].startswith(("@@", "++")):
        return None
    # `hasObject` first: it is fast, and true of nearly every task.
    if root.hasObject(names[0]) or root.unrestrictedTraverse((names[0],), None) is not None:
        return None
    # A view may be registered for the requests of tasks alone.
    kind = Declaration(ITaskQueueLayer, IDefaultBrowserLayer, IBrowserRequest)
    required = (providedBy(root), kind if request is None else kind + providedBy(request))
    view = getGlobalSiteManager().adapters.lookup(required, Interface, names[0])
    return names[0] if view is None else None


def _root(request: IBrowserRequest | None) -> IApplication | None:
    parents = None if request is None else request.other.get("PARENTS")
    found = parents[-1] if parents else getSite()
    if not hasattr(found, "getPhysicalRoot"):
        return None
    root = found.getPhysicalRoot()
    connection = getattr(aq_base(root), "_p_jar", None)
    return None if connection is None or connection.opened is None else root


def _content(target: IItem) -> IItem:
    # Brains, and the items of content listings.
    kind = type(aq_base(target))
    if hasattr(kind, "getPath") and hasattr(kind, "getObject"):
        where = target.getPath()
        get = getattr(target, "_unrestrictedGetObject", target.getObject)
        try:
            target = get()
        except (KeyError, AttributeError, NotFound):
            target = None
        # An outdated catalog may return another object of that id, by acquisition.
        if target is None or "/".join(target.getPhysicalPath()) != where:
            raise InvalidTask("url", f"the catalog knows {where!r}, but there is no such object")
    if not hasattr(aq_base(target), "getPhysicalPath"):
        raise InvalidTask("url", f"a task needs a url or a content object, not {kind.__name__}")
    return target


def _physical_names(content: IItem) -> tuple[str, ...]:
    """Return the names of the physical path; raises `InvalidTask` if the object is not there."""
    first, *names = content.getPhysicalPath()
    place = "/".join(str(name) for name in (first, *names))
    # The path of an object without a container begins with its id, that of the root is empty.
    # The path of an object with neither is empty, too, but such an object has no root.
    if first or not all(names) or not callable(getattr(content, "getPhysicalRoot", None)):
        raise InvalidTask("url", f"{place!r} has no place in the database yet: add it first")
    found = stands_at(content.getPhysicalRoot(), tuple(names))
    if found is None or not _are_one(found, content):
        raise InvalidTask("url", f"there is no such object at {place!r}: add it first")
    return tuple(names)


def _are_one(found: IItem, content: IItem) -> bool:
    if aq_base(found) is aq_base(content):
        return True
    # The same object is another one in memory in another connection to the database.
    oids = [getattr(aq_base(item), "_p_oid", None) for item in (found, content)]
    return oids[0] == oids[1] and (oids[0] is not None or type(found) is type(content))


def _view_names(view: str | None) -> list[str]:
    if view is None:
        return []
    if not isinstance(view, str):
        raise InvalidTask("view", f"view is the name of a view, not {type(view).__name__}")
    names = [name for name in view.split("/") if name]
    if _NO_VIEW.search(view) or {".", ".."} & set(names):
        raise InvalidTask(
            "view", "view is a name or a path, unquoted, without a query (see params) or fragment"
        )
    return names
