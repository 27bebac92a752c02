"""The PAS plugin: it trusts the request object of this process, never a header."""

from __future__ import annotations

from AccessControl.class_init import InitializeClass
from AccessControl.SecurityInfo import ClassSecurityInfo
from Acquisition import aq_base
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.pasplugin.identity import identity_in
from Products.PageTemplates.PageTemplateFile import PageTemplateFile
from Products.PluggableAuthService.interfaces.authservice import IPluggableAuthService
from Products.PluggableAuthService.interfaces.plugins import IAuthenticationPlugin
from Products.PluggableAuthService.interfaces.plugins import IExtractionPlugin
from Products.PluggableAuthService.plugins.BasePlugin import BasePlugin
from typing import Any
from ZODB.broken import Broken
from zope.interface import implementer
from zope.publisher.interfaces.browser import IBrowserRequest
import logging


logger = logging.getLogger("collective.taskqueue")

#: The plugin types, in the order in which PAS calls them.
INTERFACES = (IExtractionPlugin, IAuthenticationPlugin)

manage_addTaskQueueAuthPluginForm = PageTemplateFile(
    "add.zpt", globals(), __name__="manage_addTaskQueueAuthPluginForm"
)


def manage_addTaskQueueAuthPlugin(
    dispatcher: Any, id: str, title: str = "", REQUEST: Any = None
) -> None:
    """Add the plugin to a user folder; called by the ZMI."""
    dispatcher._setObject(id, TaskQueueAuthPlugin(id, title))
    if REQUEST is not None:
        REQUEST.RESPONSE.redirect(f"{dispatcher.absolute_url()}/manage_workspace")


@implementer(IExtractionPlugin, IAuthenticationPlugin)
class TaskQueueAuthPlugin(BasePlugin):
    """Authenticates a task as the user of this user folder that queued the task."""

    meta_type = "Task Queue Auth Plugin"
    security = ClassSecurityInfo()

    def __init__(self, id: str, title: str = "") -> None:
        self._setId(id)
        self.title = title

    @security.private
    def extractCredentials(self, request: IBrowserRequest) -> dict[str, str]:
        """See `IExtractionPlugin`; returns nothing for a request that came over a socket."""
        user = _identity(request)
        # Compares the generation, too: a later user may have the same id.
        if user is None or user != identity_in(self._getPAS(), user.id):
            return {}
        return {"login": user.id}

    @security.private
    def authenticateCredentials(self, credentials: dict[str, str]) -> tuple[str, str] | None:
        """See `IAuthenticationPlugin`; returns None if the user is gone."""
        if credentials.get("extractor") != self.getId():
            return None
        pas = self._getPAS()
        info = pas._verifyUser(pas._getOb("plugins"), user_id=credentials["login"])
        return None if info is None else (info["id"], info["login"])


InitializeClass(TaskQueueAuthPlugin)


def is_active(folder: IPluggableAuthService) -> bool:
    """Return whether tasks of the users of this user folder are authenticated by a plugin."""
    base = aq_base(folder)
    plugins = getattr(base, "plugins", None)
    if plugins is None:
        return False
    for interface in INTERFACES:
        # Not `listPlugins`: it looks up every plugin in the user folder, for each task.
        if not any(_is_ours(base, name) for name in plugins.listPluginIds(interface)):
            _tell_of_broken(folder)
            return False
    return True


def active_ids(folder: IPluggableAuthService | None) -> tuple[tuple[str, ...], ...]:
    """Return the ids of all active plugins, per interface of ours; a change replaces a tuple."""
    plugins = getattr(aq_base(folder), "plugins", None)
    if plugins is None:
        return ()
    return tuple([plugins.listPluginIds(interface) for interface in INTERFACES])


def _is_ours(folder: IPluggableAuthService, name: str) -> bool:
    return isinstance(aq_base(getattr(folder, name, None)), TaskQueueAuthPlugin)


def broken(folder: IPluggableAuthService) -> list[str]:
    """Return the ids of our plugins whose class cannot be imported, as far as that is known."""
    # The folder records the meta type of each object; a broken object does not know its id.
    types = {item["id"]: item.get("meta_type") for item in folder.objectMap()}
    return [
        name
        for name, plugin in folder.objectItems()
        if isinstance(aq_base(plugin), Broken)
        and (
            types[name] == TaskQueueAuthPlugin.meta_type
            or type(aq_base(plugin)).__module__.startswith("collective.taskqueue.")
        )
    ]


#: Paths of the user folders that were checked; broken plugins are logged once for each.
_looked_at: set[str] = set()


def _tell_of_broken(folder: IPluggableAuthService) -> None:
    path = "/".join(folder.getPhysicalPath())
    if path in _looked_at:
        return
    _looked_at.add(path)
    for name in broken(folder):
        logger.error(
            "plugin %s of %s: its class cannot be imported; run the upgrade step of"
            " collective.taskqueue.pasplugin:default, until then tasks carry credentials",
            name,
            path,
        )


def _identity(request: IBrowserRequest) -> Any:
    # In `__dict__`, because a request looks up unknown attributes in its form.
    if not ITaskQueueLayer.providedBy(request):
        return None
    attempt = getattr(request, "__dict__", {}).get("attempt")
    return None if attempt is None else attempt.task.user
