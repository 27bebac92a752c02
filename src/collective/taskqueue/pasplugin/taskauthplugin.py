"""Where collective.taskqueue 1.x had its plugin: databases refer to its class by this path.

The class is an alias, so that an object which was stored by 1.x is a plugin of today, and is
stored under the present path as soon as it is written again. Nothing else may import this.
"""

from collective.taskqueue.pasplugin.plugin import TaskQueueAuthPlugin


__all__ = ["TaskQueueAuthPlugin"]
