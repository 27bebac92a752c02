"""The settings of queues, consumers and schedules, read without starting Zope."""

from __future__ import annotations

from collective.taskqueue.cli.exits import CONFIGURATION
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.config.environment import CONFIG
from collective.taskqueue.config.load import load
from collective.taskqueue.config.settings import ScheduleSettings
from dataclasses import dataclass
from pathlib import Path
from ZConfig import ConfigurationError
import os


#: The variable that names the file, and where the file is looked for without it.
VARIABLE = CONFIG
PLACES = ("etc/zope.conf", "instance/etc/zope.conf", "parts/instance/etc/zope.conf")


@dataclass(frozen=True)
class Settings:
    """What the configuration says; `source` is the file, if any."""

    source: Path | None
    queues: dict[str, QueueSettings]
    servers: tuple[ServerSettings, ...]
    schedules: tuple[ScheduleSettings, ...] = ()


def read(path: str | None) -> Settings:
    """Return the effective settings; None: with the file in one of the usual places, if any.

    Raises `Stop` with one sentence if they cannot be used, and if there is no queue.
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
        raise Stop(f"{source} cannot be read: {type(exc).__name__}: {exc}", CONFIGURATION) from None
    if not found.queues:
        raise Stop(_without_queue(source), CONFIGURATION)
    queues = {each.queue: each for each in found.queues}
    return Settings(source, queues, found.servers, found.schedules)


def _usual_place() -> Path | None:
    return next((Path(place) for place in PLACES if Path(place).is_file()), None)


def _without_queue(source: Path | None) -> str:
    if source is not None:
        return f"neither {source} nor the environment has a queue"
    return (
        f"no zope.conf in this folder ({', '.join(PLACES)}), and no queue in the environment: name"
        f" the file with --config, or by the environment variable {VARIABLE}"
    )
