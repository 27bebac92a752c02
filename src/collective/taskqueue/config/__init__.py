"""The configuration: zope.conf and the environment, read, checked, and brought together.

``settings.py`` has the frozen settings of a queue and of a consumer. ``component.xml``, one folder
up, declares their keys; ``datatypes.py`` converts the values. Three modules read a source each:
``sections.py`` the sections of zope.conf, ``product.py`` its ``<product-config>``,
``environment.py`` the variables. ``keys.py`` gives the other two the keys of ``component.xml``,
``where.py`` finds the type of a storage in its url, ``command.py`` keeps what the command line of
a worker says. ``precedence.py`` brings the sources together,
``check.py`` refuses what contradicts itself, ``load.py`` does all of it for a file. ``report.py``
shows a mistake as one line, without a traceback.

Imported while zope.conf is parsed, before ZCML: only ``load.py`` imports anything of Zope but
ZConfig, and only when it is called.
"""

from collective.taskqueue.config.check import check
from collective.taskqueue.config.load import load
from collective.taskqueue.config.precedence import resolve
from collective.taskqueue.config.settings import EXTRAS
from collective.taskqueue.config.settings import QueueSettings
from collective.taskqueue.config.settings import ServerSettings
from collective.taskqueue.config.settings import Settings
from collective.taskqueue.config.settings import STORAGES
from collective.taskqueue.config.settings import TRANSIENT_STATUSES


__all__ = [
    "EXTRAS",
    "STORAGES",
    "TRANSIENT_STATUSES",
    "QueueSettings",
    "ServerSettings",
    "Settings",
    "check",
    "load",
    "resolve",
]
