"""Which tasks a user may see, change and run.

Queues belong to the process and serve all of its sites. A permission in a site applies to the
tasks of that site: those that its users have queued, or that run below it. All other tasks need
the permission in the root of Zope. The user that has queued a task needs no permission.
"""

from __future__ import annotations

from AccessControl import getSecurityManager
from collective.taskqueue.enqueue.author import current_user
from collective.taskqueue.pasplugin.identity import identity_in
from collective.taskqueue.services.refusal import Refusal
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Task
from Products.CMFCore.interfaces import ISiteRoot
from urllib.parse import unquote
from zExceptions import Unauthorized


ADD = "collective.taskqueue: Add task"
VIEW = "collective.taskqueue: View tasks"
MANAGE = "collective.taskqueue: Manage tasks"
ADD_HOOK = "collective.taskqueue: Add web hook"


class Access:
    """What the current user may do in a site."""

    def __init__(self, site: ISiteRoot) -> None:
        self._site = site
        self._path = "/".join(site.getPhysicalPath())
        self._known: dict[tuple[str, bool], bool] = {}
        self.user = _identity()

    def require(self, permission: str) -> None:
        """Raise `Unauthorized` for Anonymous and a `Refusal` for others without the permission."""
        if not self.has(permission):
            self.require_login()
            raise Refusal(403, f"This takes the permission {permission!r}.")

    def require_login(self) -> None:
        """Raise `Unauthorized` for Anonymous, unless Anonymous may view or manage tasks."""
        if self.user is None and not (self.has(VIEW) or self.has(MANAGE)):
            raise Unauthorized("Log in to see tasks.")

    def has(self, permission: str, everywhere: bool = False) -> bool:
        """Whether the user has a permission in the site, or in the root of Zope."""
        if (permission, everywhere) not in self._known:
            where = self._site.getPhysicalRoot() if everywhere else self._site
            allowed = bool(getSecurityManager().checkPermission(permission, where))
            self._known[permission, everywhere] = allowed
        return self._known[permission, everywhere]

    def owns(self, task: Task) -> bool:
        """Whether the user has queued the task."""
        # The user folder counts, too: other sites may have a user of the same id.
        return task.user is not None and task.user == self.user

    def may_see(self, task: Task) -> bool:
        """Whether the user may know of the task."""
        return self.owns(task) or self._has_for(VIEW, task) or self._has_for(MANAGE, task)

    def may_steer(self, task: Task) -> bool:
        """Whether the user may read the response, cancel the task, and remove its record."""
        return self.owns(task) or self._has_for(MANAGE, task)

    def may_run(self, task: Task) -> bool:
        """Whether the user may run or retry the task: a user that may add it can add it again."""
        if self._has_for(MANAGE, task):
            return True
        return self.owns(task) and self.has(ADD) and (self.has(ADD_HOOK) or not task.is_hook)

    def may_look_inside(self, task: Task) -> bool:
        """Whether the user may read payload, headers and tracebacks."""
        return self._has_for(MANAGE, task)

    def _has_for(self, permission: str, task: Task) -> bool:
        return self.has(permission, everywhere=not self._is_here(task))

    def _is_here(self, task: Task) -> bool:
        if task.user is not None and task.user.folder.startswith(f"{self._path}/"):
            return True
        # Decoded as the publisher decodes it.
        path = unquote(task.url.partition("?")[0])
        foreign = task.user is not None and task.user.folder.count("/") > 1
        return not foreign and ".." not in path and f"{path}/".startswith(f"{self._path}/")


def _identity() -> Identity | None:
    try:
        user = current_user()
    except ValueError:
        return None
    return user and identity_in(*user)
