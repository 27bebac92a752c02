"""The checks across queues and consumers."""

from __future__ import annotations

from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.settings import QueueSettings
from collective.taskqueue.config.settings import ServerSettings
from collective.taskqueue.config.where import has_password
from typing import Any


def check(sections: Any) -> None:
    """Check what cannot be checked within one section.

    Takes settings, in a list or as the values of a mapping; other values are ignored. Raises
    ZConfig's `ConfigurationError`, in one sentence that names the place, for two queues of one
    name, for a server without its queue, for two consumers of one name on one queue, and for a
    queue whose keys contradict each other.
    """
    queues, servers = by_name(sections)
    for settings in queues.values():
        _check_queue(settings)
    for server in servers.values():
        if server.queue not in queues:
            known = ", ".join(sorted(queues)) or "none"
            refuse(server.place, f"there is no queue {server.queue!r} (known: {known})")


def by_name(
    sections: Any,
) -> tuple[dict[str, QueueSettings], dict[tuple[str, str], ServerSettings]]:
    """Return the queues by name, and the consumers by queue and name; refuse two of one name."""
    values = sections.values() if hasattr(sections, "values") else sections
    queues: dict[str, QueueSettings] = {}
    servers: dict[tuple[str, str], ServerSettings] = {}
    for settings in values:
        if isinstance(settings, QueueSettings):
            if settings.queue in queues:
                other = queues[settings.queue].place
                refuse(settings.place, f"queue {settings.queue!r} is already defined by {other}")
            queues[settings.queue] = settings
        elif isinstance(settings, ServerSettings):
            key = " ".join(settings.queues or [settings.queue]), settings.name
            if key in servers:
                refuse(settings.place, f"{servers[key].place} has the same queue and name")
            servers[key] = settings
    return queues, servers


def _check_queue(settings: QueueSettings) -> None:
    if settings.min_backoff > settings.max_backoff:
        refuse(settings.place, "min_backoff is greater than max_backoff")
    if settings.type == "local" and (settings.url or settings.unix_socket_path):
        reason = "type local is the memory of this process and is at no url or socket"
        refuse(settings.place, f"{reason}; say type redis or type sql")
    if settings.password and has_password(settings.url):
        refuse(settings.place, "its url has a password, and password is set, too; remove one")
    scheme, _, path = settings.url.partition(":///")
    path = path.removeprefix("file:")
    if settings.type == "sql" and scheme.startswith("sqlite") and path[:1] not in ("", "/", ":"):
        # Otherwise a server and a script started in different folders would have a queue each.
        # The path may also belong to the url of another database, with its password.
        shown = "in its url" if "@" in path or "://" in path else path
        reason = f"the path {shown} depends on where a process is started"
        refuse(settings.place, f"{reason}; write sqlite:////path/to/a/file")
