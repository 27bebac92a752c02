"""Makes the storage that the settings of a queue ask for."""

from __future__ import annotations

from collective.taskqueue.config import EXTRAS
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import STORAGES
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.interfaces import ITaskStorage
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.storages.secrets import masked
from collective.taskqueue.storages.secrets import remember
from collective.taskqueue.storages.secrets import shown
from zope.dottedname.resolve import resolve


def make_storage(settings: QueueSettings) -> Storage:
    """Return a new storage for the settings of a queue; it connects at its first call.

    Raises `ConfigurationError`, with the place of the settings, for a storage that cannot be
    built.
    """
    path = STORAGES.get(settings.type, settings.type)
    try:
        factory = resolve(path)
    except ModuleNotFoundError as exc:
        extra = EXTRAS.get(settings.type, ())
        if exc.name not in extra:
            raise ConfigurationError(f"{settings.place}: {path} cannot be imported: {exc}") from exc
        raise ConfigurationError(
            f"{settings.place}: type {settings.type} needs the extra"
            f" collective.taskqueue[{settings.type}], there is no {exc.name}"
        ) from exc
    except ImportError as exc:
        raise ConfigurationError(f"{settings.place}: {path} cannot be imported: {exc}") from exc
    if not ITaskStorage.implementedBy(factory):
        raise ConfigurationError(f"{settings.place}: {path} does not implement ITaskStorage")
    remember(settings.password)
    try:
        return factory(settings)
    except (TypeError, ValueError) as exc:
        # Add the place of the settings in zope.conf: the class of the storage does not know it.
        raise ConfigurationError(f"{settings.place}: {masked(str(exc))}") from shown(exc)
