"""How a task will be authenticated: by the id of its user, or by credentials that it carries."""

from __future__ import annotations

from AccessControl import getSecurityManager
from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from collective.taskqueue.pasplugin.plugin import is_active
from collective.taskqueue.task import Identity
from typing import Any
from weakref import WeakKeyDictionary
from zope.component.hooks import getSite
import logging


logger = logging.getLogger("collective.taskqueue")

#: Who was looked up, for as long as the user object of a request or script lives.
_looked_up: WeakKeyDictionary[Any, dict[Identity, bool]] = WeakKeyDictionary()


def is_by_id(folder: Any, person: Identity) -> bool:
    """Return whether the plugin authenticates tasks of this person of a user folder.

    Not in a folder without the plugin; nor who is found by no plugin of the folder by id,
    because an identity provider lets them in by a cookie.
    """
    return is_active(folder) and _is_known(folder, person)


def is_plugin_here(request: Any) -> bool:
    """Return whether the plugin is active where this is: in the site, or in the root of Zope."""
    place = getSite()
    if place is None and request is not None:
        place = next(iter(request.other.get("PARENTS", ())[-1:]), None)
    folder = getattr(place, "acl_users", None)
    return folder is not None and is_active(folder)


def is_author(request: Any, user: tuple[Any, str] | None) -> bool:
    """Return whether the credentials of a request may be those of this user.

    They are not if it was somebody else who has been authenticated by them.
    """
    if request is None or user is None:
        return False
    author = request.other.get("AUTHENTICATED_USER")
    if author is None:
        return True
    folder = aq_parent(aq_inner(author))
    return author.getId() == user[1] and aq_base(folder) is aq_base(user[0])


def warn_of_a_user_who_stays_out(task_id: str, user: tuple[Any, str]) -> None:
    """Log that a task can never be authenticated: it has no credentials, and no id helps."""
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


def _is_known(folder: Any, person: Identity) -> bool:
    # A directory somewhere else may be asked, so not for each task that is added.
    try:
        known = _looked_up.setdefault(aq_base(getSecurityManager().getUser()), {})
    except TypeError:
        known = {}
    if person not in known:
        known[person] = _look_up(folder, person.id)
    return known[person]


def _look_up(folder: Any, user_id: str) -> bool:
    """Ask as the plugin itself does, and believe what the publisher will believe.

    A directory may find somebody else by an id: one that ignores case, or takes it for a
    beginning. No task is run as them.
    """
    try:
        info = folder._verifyUser(folder.plugins, user_id=user_id)
        return info is not None and info["id"] == user_id
    except Exception as exc:
        logger.warning("user %r cannot be looked up (%s), taken to be known", user_id, exc)
        return True
