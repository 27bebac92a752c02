"""Finds where the content object of a task is now."""

from __future__ import annotations

from Acquisition import aq_base
from collections.abc import Iterator
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.publisher.address import forbidden_step
from collective.taskqueue.publisher.address import quoted
from collective.taskqueue.publisher.address import steps
from collective.taskqueue.publisher.target import joined
from collective.taskqueue.publisher.target import stands_at
from collective.taskqueue.publisher.target import uid_of
from collective.taskqueue.task import Task
from OFS.interfaces import IApplication
from OFS.interfaces import IItem
from plone.app.redirector.interfaces import IRedirectionStorage
from Products.CMFCore.interfaces import ISiteRoot
from urllib.parse import unquote
from zExceptions import NotFound
import logging


logger = logging.getLogger("collective.taskqueue")


class ObjectGone(TaskQueueError, NotFound):
    """The content object of a task is no longer in its site; a retry cannot change that."""


def url_now(root: IApplication, task: Task) -> str:
    """Return the url of a task, with the path that its content object has now.

    :param root: the root of Zope, in the connection in which to look.
    :returns: the url as it was added, if the task was added by its path, or if its object is
        still where it was.
    :raises ObjectGone: the object was deleted, or moved out of its site or to where no task
        may go.

    Called by the publisher before the request of a task is made. The request itself checks, as
    ever, whether its user may see the object.
    """
    if task.uid is None:
        return task.url
    path, mark, query = task.url.partition("?")
    before = tuple(steps(unquote(path.removesuffix(f"/{task.view}") if task.view else path)))
    found = stands_at(root, before)
    if found is not None and uid_of(found) == task.uid:
        return task.url
    found = next(_found(root, before, task.uid), None)
    if found is None:
        place = "/".join(("", *before))
        raise ObjectGone(f"the object that was {place} is gone: no object of its site has its UID")
    url = joined(quoted(found.getPhysicalPath()[1:]), task.view) + mark + query
    step = forbidden_step(url)
    if step is not None:
        raise ObjectGone(f"its object was moved to where the step {step} chooses the public host")
    logger.info("task %s: its object was moved, runs at %s", task.id, url.partition("?")[0])
    return url


def _found(root: IApplication, before: tuple[str, ...], uid: str) -> Iterator[IItem]:
    """Find the object of this UID in the site that the path was in."""
    prefixes = (before[:length] for length in range(len(before), 0, -1))
    sites = ((path, stands_at(root, path)) for path in prefixes)
    path, site = next(((path, site) for path, site in sites if _is_site(site)), ((), None))
    if site is None:
        return
    # Catalog and redirects may be outdated: check each path that they return.
    for place in (*_catalogued(site, uid), *_redirected(site, before)):
        names = tuple(place.split("/")[1:])
        found = stands_at(root, names) if names[: len(path)] == path else None
        if found is not None and uid_of(found) == uid:
            yield found


def _is_site(item: object) -> bool:
    return getattr(aq_base(item), "portal_catalog", None) is not None


def _catalogued(site: ISiteRoot, uid: str) -> list[str]:
    catalog = site.portal_catalog
    if "UID" not in catalog.indexes():
        return []
    return [brain.getPath() for brain in catalog.unrestrictedSearchResults(UID=uid)]


def _redirected(site: ISiteRoot, before: tuple[str, ...]) -> list[str]:
    # The catalog loses the UIDs of objects that are moved and renamed at once.
    redirects = site.getSiteManager().queryUtility(IRedirectionStorage)
    place = None if redirects is None else redirects.get("/".join(("", *before)))
    return [] if place is None else [place]
