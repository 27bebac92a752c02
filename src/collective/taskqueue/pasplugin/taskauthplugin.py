"""The module path of the plugin in collective.taskqueue 1.x, to which databases still refer.

The class is an alias: an object that 1.x has stored is loaded as the plugin of today, and is stored
under the present path as soon as it is written again. No other module may import this one.
"""

from collective.taskqueue.pasplugin.plugin import TaskQueueAuthPlugin


__all__ = ["TaskQueueAuthPlugin"]
