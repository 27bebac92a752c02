"""Who a user is: an id, its user folder, and which of all who ever had that id.

When a user is deleted, the user folder remembers that the next one of the same id is somebody
else: its *generation* grows, in the transaction of the deletion. A task carries the generation
of who queued it. So tasks and their responses are not inherited, whatever dies or is restarted
in between.
"""

from __future__ import annotations

from Acquisition import aq_base
from Acquisition import aq_chain
from Acquisition import aq_inner
from Acquisition import aq_parent
from BTrees.OIBTree import OIBTree
from collections.abc import Iterator
from collective.taskqueue import unfinished
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.task import Identity
from functools import lru_cache
from persistent import Persistent
from Products.PluggableAuthService.interfaces.events import IPrincipalDeletedEvent
from typing import Any
from zope.component import adapter
from zope.component import getUtilitiesFor
from zope.component.hooks import getSite
from zope.globalrequest import getRequest
import logging
import transaction


logger = logging.getLogger("collective.taskqueue")

#: Attribute of a user folder: user id → generation, for those that are not the first.
GENERATIONS = "_taskqueue_generations"


def identity_of(user: Any) -> Identity | None:
    """Return the identity of a user object in its user folder; None if it has no id or folder."""
    folder, user_id = aq_parent(aq_inner(user)), user.getId()
    if user_id is None or not hasattr(folder, "getPhysicalPath"):
        return None
    return identity_in(folder, user_id)


def identity_in(folder: Any, user_id: str) -> Identity:
    """Return the identity of who has that id in the user folder now."""
    generations = getattr(aq_base(folder), GENERATIONS, None) or {}
    return _identity("/".join(folder.getPhysicalPath()), user_id, generations.get(user_id, 0))


# Made once for all tasks of a person.
_identity = lru_cache(maxsize=1000, typed=True)(Identity)


@adapter(IPrincipalDeletedEvent)
def end_generation(event: Any) -> None:
    """Let nobody inherit what a deleted user has queued, and cancel what waits of it.

    The event does not tell the user folder: it is one on the way to the current site or to the
    published object in which there is no such user any more.
    """
    user_id = event.principal if isinstance(event.principal, str) else event.principal.getId()
    for folder in _user_folders():
        if isinstance(aq_base(folder), Persistent) and _is_gone(folder, user_id):
            deleted = identity_in(folder, user_id)
            _begin_generation(folder, deleted)
            transaction.get().addAfterCommitHook(_cancel_tasks, (deleted,))


def _user_folders() -> Iterator[Any]:
    seen = set()
    request = getRequest()
    parents = () if request is None else request.get("PARENTS", ())
    for item in [*aq_chain(aq_inner(getSite())), *parents]:
        # Of the object itself: any other would be acquired.
        if hasattr(aq_base(item), "acl_users"):
            folder = item.acl_users
            path = folder.getPhysicalPath()
            if path not in seen:
                seen.add(path)
                yield folder


def _is_gone(folder: Any, user_id: str) -> bool:
    try:
        return folder.getUserById(user_id) is None
    except Exception as exc:
        # A directory that is away. The user is deleted all the same, and nobody inherits.
        logger.warning("user %s: cannot be looked up (%s), taken to be gone", user_id, exc)
        return True


def _begin_generation(folder: Any, deleted: Identity) -> None:
    base = aq_base(folder)
    if getattr(base, GENERATIONS, None) is None:
        # A class of a library: the user folder can be read without this package.
        setattr(base, GENERATIONS, OIBTree())
    getattr(base, GENERATIONS)[deleted.id] = deleted.generation + 1
    logger.info(
        "user %s of %s: deleted, a new user of that id gets none of the tasks",
        deleted.id,
        deleted.folder,
    )


def _cancel_tasks(committed: bool, deleted: Identity) -> None:
    if committed:
        reason = f"queued by {deleted.id} of {deleted.folder}, who was deleted"
        for _, queue in getUtilitiesFor(ITaskQueue):
            unfinished.cancel_later(queue, deleted, reason)
