"""Import steps: put the plugin in place, and take it away again."""

from __future__ import annotations

from Acquisition import aq_base
from collections.abc import Iterator
from collective.taskqueue.pasplugin.plugin import INTERFACES
from collective.taskqueue.pasplugin.plugin import TaskQueueAuthPlugin
from Products.PluggableAuthService.interfaces.authservice import IPluggableAuthService
from typing import Any
import logging


logger = logging.getLogger("collective.taskqueue")

ID = "taskauth"
TITLE = "Task Queue PAS plugin"


def install(portal: Any) -> None:
    """Post handler of the profile `default`; applying it again changes nothing.

    Users of the root's user folder work in the site, too, so both folders get a plugin.
    """
    for folder in (portal.acl_users, portal.getPhysicalRoot().acl_users):
        if IPluggableAuthService.providedBy(folder):
            _install(folder)


def uninstall(portal: Any) -> None:
    """Post handler of the profile `uninstall`; the root's plugin stays while another site
    needs it."""
    _uninstall(portal.acl_users)
    root = portal.getPhysicalRoot()
    if not any(_plugins(site.acl_users) for site in _sites(root)):
        _uninstall(root.acl_users)


def _install(folder: Any) -> None:
    if not _plugins(folder):
        folder._setObject(ID, TaskQueueAuthPlugin(ID, TITLE))
    plugin = _plugins(folder)[0]
    registry = folder.plugins
    for interface in INTERFACES:
        active = registry.listPluginIds(interface)
        if plugin.getId() not in active:
            registry.activatePlugin(interface, plugin.getId())
        for _ in range(registry.listPluginIds(interface).index(plugin.getId())):
            registry.movePluginsUp(interface, [plugin.getId()])
    logger.info("plugin %s is first in %s", plugin.getId(), "/".join(folder.getPhysicalPath()))


def _uninstall(folder: Any) -> None:
    for plugin in _plugins(folder):
        # Deleting it deactivates it.
        folder.manage_delObjects([plugin.getId()])


def _plugins(folder: Any) -> list[Any]:
    return [
        plugin
        for plugin in folder.objectValues()
        if isinstance(aq_base(plugin), TaskQueueAuthPlugin)
    ]


def _sites(root: Any) -> Iterator[Any]:
    # Sites stand in the root or in folders of it.
    for item in root.objectValues(["Plone Site", "Folder", "Folder (Ordered)"]):
        if item.meta_type == "Plone Site":
            yield item
        else:
            yield from _sites(item)
