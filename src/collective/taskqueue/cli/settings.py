"""The settings of queues and consumers, read without starting Zope."""

from __future__ import annotations

from collective.taskqueue.cli.exits import CONFIGURATION
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from dataclasses import dataclass
from pathlib import Path
from ZConfig import ConfigurationError
import os


#: The variable that names the file, and where the file is looked for without it.
VARIABLE = "TASKQUEUE_CONFIG"
PLACES = ("etc/zope.conf", "instance/etc/zope.conf", "parts/instance/etc/zope.conf")


@dataclass(frozen=True)
class Settings:
    """What the configuration says of queues and consumers; `source` is the file, if any."""

    source: Path | None
    queues: dict[str, QueueSettings]
    servers: tuple[ServerSettings, ...]


def read(path: str | None) -> Settings:
    """Return the settings of a zope.conf; None: of the file in one of the usual places.

    Raises `Stop` with one sentence if there is no file, or if it cannot be used.
    """
    named = path or os.environ.get(VARIABLE)
    source = Path(named) if named else _usual_place()
    if not source.is_file():
        raise Stop(f"there is no file {source}", CONFIGURATION)
    from Zope2.Startup.options import ZopeWSGIOptions

    try:
        # It reads the file, and opens no database.
        sections = ZopeWSGIOptions(str(source))().configroot.product_config or {}
    except ConfigurationError as exc:
        raise Stop(" ".join(str(exc).split()), CONFIGURATION) from None
    except (ImportError, OSError, ValueError) as exc:
        kind = type(exc).__name__
        raise Stop(f"{source} cannot be read: {kind}: {exc}", CONFIGURATION) from None
    found = list(sections.values())
    queues = {each.queue: each for each in found if isinstance(each, QueueSettings)}
    if not queues:
        raise Stop(f"{source} has no <taskqueue> section", CONFIGURATION)
    return Settings(source, queues, tuple(s for s in found if isinstance(s, ServerSettings)))


def _usual_place() -> Path:
    for place in PLACES:
        if Path(place).is_file():
            return Path(place)
    raise Stop(
        f"no zope.conf in this folder ({', '.join(PLACES)}): name it with --config, or by the"
        f" environment variable {VARIABLE}",
        CONFIGURATION,
    )
