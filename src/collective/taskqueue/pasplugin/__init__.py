"""A PAS plugin that authenticates the requests of tasks, so that they need no password."""

from __future__ import annotations

from AccessControl.Permissions import add_user_folders
from collective.taskqueue.pasplugin.plugin import manage_addTaskQueueAuthPlugin
from collective.taskqueue.pasplugin.plugin import manage_addTaskQueueAuthPluginForm
from collective.taskqueue.pasplugin.plugin import TaskQueueAuthPlugin
from Products.PluggableAuthService import registerMultiPlugin
from typing import Any


def initialize(context: Any) -> None:
    """Make the plugin addable in a user folder; called by Zope for every product."""
    registerMultiPlugin(TaskQueueAuthPlugin.meta_type)
    context.registerClass(
        TaskQueueAuthPlugin,
        permission=add_user_folders,
        constructors=(manage_addTaskQueueAuthPluginForm, manage_addTaskQueueAuthPlugin),
        visibility=None,
    )
