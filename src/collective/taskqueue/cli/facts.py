"""What the storage of a queue is like, and whether its tables are those of this package."""

from __future__ import annotations

from collective.taskqueue.cli.exits import CONFIGURATION
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.facts import Facts
from importlib import import_module


#: The types of storages that can be asked; others, named by a dotted path, cannot.
TYPES = ("redis", "sql")


def facts_of(settings: QueueSettings) -> Facts | None:
    """Return what a storage is like, without changing it; None if it cannot be asked.

    Raises `StorageUnavailable` and `ConfigurationError`.
    """
    if settings.type not in TYPES:
        return None
    module = import_module(f"collective.taskqueue.storages.{settings.type}.facts")
    found: Facts = module.facts(settings)
    return found


def require_tables(settings: QueueSettings) -> None:
    """Raise `Stop` if the tables of a SQL queue are missing or older than this package.

    The storage would make them at its first call: as the user who types the command, and under
    running processes of an older version.
    """
    if settings.type != "sql":
        return
    found = facts_of(settings)
    reason = None if found is None else missing_tables(found)
    if reason is not None:
        raise Stop(f"queue {settings.queue}: {reason}", CONFIGURATION)


def missing_tables(facts: Facts) -> str | None:
    """Return what is wrong with the version of the tables; None if nothing is."""
    found, known = facts.tables, facts.tables_known
    if known is None or found == known:
        return None
    if found is None:
        return (
            "its database has no tables yet; Zope makes them when it starts, or call taskqueue"
            " migrate"
        )
    if found < known:
        return (
            f"its tables are of version {found}, this package needs {known}; stop all older"
            " processes, then call taskqueue migrate"
        )
    return (
        f"its tables are of version {found}, made by a newer collective.taskqueue; this one knows"
        f" {known}"
    )
