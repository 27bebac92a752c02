"""How a task will be authenticated: by the id of its user, or by credentials that it carries."""

from __future__ import annotations

from AccessControl import getSecurityManager
from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from collective.taskqueue.pasplugin.plugin import is_active
from collective.taskqueue.task import Identity
from Products.PluggableAuthService.interfaces.authservice import IPluggableAuthService
from weakref import WeakKeyDictionary
from zope.component.hooks import getSite
from zope.publisher.interfaces.browser import IBrowserRequest
import logging


logger = logging.getLogger("collective.taskqueue")

#: Results of user lookups, kept as long as the user object of a request or script lives.
_looked_up: WeakKeyDictionary[object, dict[Identity, bool]] = WeakKeyDictionary()


def is_by_id(folder: IPluggableAuthService, person: Identity) -> bool:
    """Return whether the plugin authenticates tasks of this user of a user folder.

    False for a folder without the plugin. False also for a user that no plugin of the folder
    finds by id, such as a user that an identity provider logs in by a cookie.
    """
    return is_active(folder) and _is_known(folder, person)


def is_plugin_here(request: IBrowserRequest) -> bool:
    """Return whether the plugin is active in the site or, without a site, in the root of Zope."""
    folder = folder_here(request)
    return folder is not None and is_active(folder)


def folder_here(request: IBrowserRequest | None) -> IPluggableAuthService | None:
    """Return the user folder of the site or, without a site, of the root; None if there is none."""
    place = getSite()
    if place is None and request is not None:
        place = next(iter(request.other.get("PARENTS", ())[-1:]), None)
    return getattr(place, "acl_users", None)


def is_author(request: IBrowserRequest, user: tuple[IPluggableAuthService, str] | None) -> bool:
    """Return whether the credentials of a request may be those of this user.

    They are not if they have authenticated another user.
    """
    if request is None or user is None:
        return False
    author = request.other.get("AUTHENTICATED_USER")
    if author is None:
        return True
    folder = aq_parent(aq_inner(author))
    return author.getId() == user[1] and aq_base(folder) is aq_base(user[0])


def warn_of_a_user_who_stays_out(task_id: str, user: tuple[IPluggableAuthService, str]) -> None:
    """Log that a task can never be authenticated: no credentials, and no lookup by id."""
    folder, user_id = user
    why = "no plugin finds them by id" if is_active(folder) else "its plugin is not active there"
    logger.warning(
        "task %s: queued by %r of %s, whom no task can be authenticated as (%s, and there are no"
        " credentials to take along); it will fail",
        task_id,
        user_id,
        "/".join(folder.getPhysicalPath()),
        why,
    )


def _is_known(folder: IPluggableAuthService, person: Identity) -> bool:
    # Cached: the lookup may ask a remote directory, too slow for each task that is added.
    try:
        known = _looked_up.setdefault(aq_base(getSecurityManager().getUser()), {})
    except TypeError:
        known = {}
    if person not in known:
        known[person] = _look_up(folder, person.id)
    return known[person]


def _look_up(folder: IPluggableAuthService, user_id: str) -> bool:
    """Look the user up as the plugin does, and accept only what the publisher will accept.

    A directory may find another user by an id: it may ignore case, or match a prefix. No task
    is run as that user.
    """
    try:
        info = folder._verifyUser(folder.plugins, user_id=user_id)
        return info is not None and info["id"] == user_id
    except Exception as exc:
        logger.warning("user %r cannot be looked up (%s), taken to be known", user_id, exc)
        return True
