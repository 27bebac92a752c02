"""The settings of queues and consumers, read without starting Zope."""

from __future__ import annotations

from collective.taskqueue.cli.exits import CONFIGURATION
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.config import load
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.config.environment import CONFIG
from dataclasses import dataclass
from pathlib import Path
from ZConfig import ConfigurationError
import os


#: The variable that names the file, and where the file is looked for without it.
VARIABLE = CONFIG
PLACES = ("etc/zope.conf", "instance/etc/zope.conf", "parts/instance/etc/zope.conf")


@dataclass(frozen=True)
class Settings:
    """What the configuration says of queues and consumers; `source` is the file, if any."""

    source: Path | None
    queues: dict[str, QueueSettings]
    servers: tuple[ServerSettings, ...]


def read(path: str | None) -> Settings:
    """Return the settings of a zope.conf and of the environment.

    Without a path the file is in one of the usual places; if there is none, the environment alone
    says all. Raises `Stop` with one sentence if they cannot be used.
    """
    named = path or os.environ.get(VARIABLE)
    source = Path(named) if named else _usual_place()
    if source is not None and not source.is_file():
        raise Stop(f"there is no file {source}", CONFIGURATION)
    try:
        found = load(source, os.environ)
    except ConfigurationError as exc:
        raise Stop(" ".join(str(exc).split()), CONFIGURATION) from None
    except (ImportError, OSError, ValueError) as exc:
        kind = type(exc).__name__
        raise Stop(f"{source} cannot be read: {kind}: {exc}", CONFIGURATION) from None
    if not found.queues:
        raise Stop(_no_queue(source), CONFIGURATION)
    return Settings(source, {each.queue: each for each in found.queues}, tuple(found.servers))


def _usual_place() -> Path | None:
    return next((Path(place) for place in PLACES if Path(place).is_file()), None)


def _no_queue(source: Path | None) -> str:
    if source is not None:
        return f"{source} has no <taskqueue> section, and the environment no TASKQUEUE_URL"
    return (
        f"no zope.conf in this folder ({', '.join(PLACES)}), and no TASKQUEUE_URL in the"
        f" environment: name a file with --config, or by the environment variable {VARIABLE}"
    )
