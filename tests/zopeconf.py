"""zope.conf under Zope's own schema: its keys, their defaults, and what was loaded of it."""

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any
from Zope2.Startup.options import ZopeWSGIOptions


#: The keys that the predecessor had (C112), with their defaults.
C112_QUEUE = {
    "queue": "default",
    "type": "local",
    "host": "localhost",
    "port": 6379,
    "db": "0",
    "password": "",
    "unix_socket_path": "",
}
C112_SERVER = {
    "name": "default",
    "queue": "default",
    "concurrent_limit": 1,
    "retry_max_count": 10,
}

#: The keys that it had not.
OUR_QUEUE = {
    "url": "",
    "max_attempts": None,
    "backoff": "exponential",
    "min_backoff": 2.0,
    "max_backoff": 7200.0,
    "transient_statuses": (408, 423, 425, 429, 449),
    "timeout": None,
    "once": None,
    "keep_succeeded": 3600.0,
    "keep_failed": 604800.0,
    "max_finished": 10_000,
    "max_finished_bytes": 256 * 1024 * 1024,
    "max_waiting_per_person": 1000,
    "max_payload": 1024 * 1024,
    "max_deliveries": 3,
    "stage_timeout": 3.0,
    "secret": "",
    "allow_hosts": "",
    "copy_headers": (),
}
OUR_SERVER = {"queues": None, "lease": 30.0, "grace": 30.0}

#: Two secrets of web hooks, with keys of 24 bytes.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + "b3RoZXIg" * 4


def loaded(folder: Path, text: str, imports: str = "%import collective.taskqueue") -> Any:
    """Load a zope.conf whose line 3 is the first of the text; return the configuration."""
    path = folder / "zope.conf"
    path.write_text(f"instancehome {folder}\n{imports}\n{text}\n")
    options = ZopeWSGIOptions(str(path))
    options.schema = _schema()
    options.load_configfile()
    return options.configroot


@cache
def _schema() -> Any:
    options = ZopeWSGIOptions()
    options.load_schema()
    return options.schema


def split(sections):
    """The queues by name, and the servers by queue and name."""
    values = list(sections.values())
    queues = {value.queue: value for value in values if isinstance(value, QueueSettings)}
    servers = {
        (value.queue, value.name): value for value in values if isinstance(value, ServerSettings)
    }
    assert len(queues) + len(servers) == len(values)
    return queues, servers


def values_of(settings):
    return {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.name not in ("section", "place", "order", "given")
    }
