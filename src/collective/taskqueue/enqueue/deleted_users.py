"""When a user is deleted, waiting tasks are cancelled, and no later user inherits any task."""

from __future__ import annotations

from Acquisition import aq_base
from Acquisition import aq_chain
from Acquisition import aq_inner
from collections.abc import Iterator
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.pasplugin.identity import begin_generation
from collective.taskqueue.pasplugin.identity import identity_in
from collective.taskqueue.task import Identity
from persistent import Persistent
from Products.PluggableAuthService.interfaces.authservice import IPluggableAuthService
from Products.PluggableAuthService.interfaces.events import IPrincipalDeletedEvent
from zope.component import adapter
from zope.component import getUtilitiesFor
from zope.component.hooks import getSite
from zope.globalrequest import getRequest
import logging
import transaction


logger = logging.getLogger("collective.taskqueue")


@adapter(IPrincipalDeletedEvent)
def end_generation(event: IPrincipalDeletedEvent) -> None:
    """Start a new generation of the id of a deleted user, and cancel the user's waiting tasks.

    So no later user inherits these tasks. The event does not name the user folder: it is one on
    the way to the current site or to the published object that has no such user any more.
    """
    user_id = event.principal if isinstance(event.principal, str) else event.principal.getId()
    for folder in _user_folders():
        if isinstance(aq_base(folder), Persistent) and _is_gone(folder, user_id):
            deleted = identity_in(folder, user_id)
            begin_generation(folder, deleted)
            logger.info(
                "user %s of %s: deleted, a new user of that id gets none of the tasks",
                deleted.id,
                deleted.folder,
            )
            transaction.get().addAfterCommitHook(_cancel_tasks, (deleted,))


def _user_folders() -> Iterator[IPluggableAuthService]:
    seen = set()
    request = getRequest()
    parents = () if request is None else request.get("PARENTS", ())
    for item in [*aq_chain(aq_inner(getSite())), *parents]:
        # Of the object itself: a folder of a parent would be acquired.
        if hasattr(aq_base(item), "acl_users"):
            folder = item.acl_users
            path = folder.getPhysicalPath()
            if path not in seen:
                seen.add(path)
                yield folder


def _is_gone(folder: IPluggableAuthService, user_id: str) -> bool:
    try:
        return folder.getUserById(user_id) is None
    except Exception as exc:
        # A directory is unavailable. The user is deleted all the same: let no later one inherit.
        logger.warning("user %s: cannot be looked up (%s), taken to be gone", user_id, exc)
        return True


def _cancel_tasks(committed: bool, deleted: Identity) -> None:
    if committed:
        reason = f"queued by {deleted.id} of {deleted.folder}, who was deleted"
        for _, queue in getUtilitiesFor(ITaskQueue):
            outbox.cancel_later(queue, deleted, reason)
