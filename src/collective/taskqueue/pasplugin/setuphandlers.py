"""Import steps: install the plugin, and remove it again."""

from __future__ import annotations

from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from collections.abc import Iterator
from collective.taskqueue.pasplugin.plugin import broken
from collective.taskqueue.pasplugin.plugin import INTERFACES
from collective.taskqueue.pasplugin.plugin import TaskQueueAuthPlugin
from itertools import count
from Products.CMFCore.interfaces import ISiteRoot
from Products.PluggableAuthService.interfaces.authservice import IPluggableAuthService
from typing import Any
import logging


logger = logging.getLogger("collective.taskqueue")

ID = "taskauth"
TITLE = "Task Queue PAS plugin"


def install(portal: ISiteRoot) -> None:
    """Post handler of the profile `default`; applying it again changes nothing.

    Users of the root's user folder work in the site, too, so both folders get a plugin. A
    broken plugin, whose class cannot be imported any more, is replaced.
    """
    for folder in _folders(portal):
        _install(folder)


def upgrade(setup: Any) -> None:
    """Upgrade step from version 1000 of the profile, which is that of collective.taskqueue 1.x.

    `setup` is the setup tool of the site. Objects that 1.x has stored are written again, so
    that the database no longer refers to the old path of the class.
    """
    portal = aq_parent(aq_inner(setup))
    for folder in _folders(portal):
        for _, plugin in _plugins(folder):
            plugin._p_changed = True
        # The folder refers to each object by the path of its class, too.
        aq_base(folder)._p_changed = True
    install(portal)


def uninstall(portal: ISiteRoot) -> None:
    """Post handler of the profile `uninstall`; the root's plugin stays while another site
    needs it. Broken plugins are removed, too."""
    _uninstall(portal.acl_users)
    root = portal.getPhysicalRoot()
    if not any(_plugins(site.acl_users) + broken(site.acl_users) for site in _sites(root)):
        _uninstall(root.acl_users)


def _folders(portal: ISiteRoot) -> list[IPluggableAuthService]:
    folders = (portal.acl_users, portal.getPhysicalRoot().acl_users)
    return [folder for folder in folders if IPluggableAuthService.providedBy(folder)]


def _install(folder: IPluggableAuthService) -> None:
    _remove(folder, broken(folder))
    if not _plugins(folder):
        name = _free_id(folder)
        folder._setObject(name, TaskQueueAuthPlugin(name, TITLE))
    name, _ = _plugins(folder)[0]
    registry = folder.plugins
    for interface in INTERFACES:
        if name not in registry.listPluginIds(interface):
            registry.activatePlugin(interface, name)
        for _ in range(registry.listPluginIds(interface).index(name)):
            registry.movePluginsUp(interface, [name])
    logger.info("plugin %s is first in %s", name, _path(folder))


def _uninstall(folder: IPluggableAuthService) -> None:
    _remove(folder, [name for name, _ in _plugins(folder)] + broken(folder))


def _remove(folder: IPluggableAuthService, names: list[str]) -> None:
    for name in names:
        # `_delObject` deactivates it, too. `manage_delObjects` would ask the object for locks,
        # and a broken one cannot answer.
        folder._delObject(name)
        logger.info("plugin %s is removed from %s", name, _path(folder))


def _plugins(folder: IPluggableAuthService) -> list[tuple[str, Any]]:
    return [
        (name, aq_base(plugin))
        for name, plugin in folder.objectItems()
        if isinstance(aq_base(plugin), TaskQueueAuthPlugin)
    ]


def _free_id(folder: IPluggableAuthService) -> str:
    names = (f"{ID}-{number}" if number > 1 else ID for number in count(1))
    return next(name for name in names if folder._getOb(name, None) is None)


def _path(folder: IPluggableAuthService) -> str:
    return "/".join(folder.getPhysicalPath())


def _sites(root: Any) -> Iterator[Any]:
    # Sites are in the root or in folders of the root.
    for item in root.objectValues(["Plone Site", "Folder", "Folder (Ordered)"]):
        if item.meta_type == "Plone Site":
            yield item
        else:
            yield from _sites(item)
