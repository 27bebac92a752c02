"""The checks across queues, consumers and schedules."""

from __future__ import annotations

from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.settings import QueueSettings
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.config.settings import ServerSettings
from collective.taskqueue.config.where import has_password
from typing import Any
from typing import NamedTuple


def check(sections: Any) -> None:
    """Check what cannot be checked within one section.

    Takes settings, in a list or as the values of a mapping; other values are ignored. Raises
    ZConfig's `ConfigurationError`, in one sentence that names the place, for two queues of one
    name, for a server without its queue, for two consumers of one name on one queue, for a queue
    whose keys contradict each other, for two schedules of one name, and for a schedule without its
    queue.
    """
    queues, servers, schedules = by_name(sections)
    for settings in queues.values():
        _check_queue(settings)
    for server in servers.values():
        if server.queue not in queues:
            known = ", ".join(sorted(queues)) or "none"
            refuse(server.place, f"there is no queue {server.queue!r} (known: {known})")
    for schedule in schedules.values():
        if schedule.queue not in queues:
            known = ", ".join(sorted(queues)) or "none"
            refuse(schedule.place, f"there is no queue {schedule.queue!r} (known: {known})")


class Sections(NamedTuple):
    """Settings by name: of queues, of consumers by queue and name, and of schedules."""

    queues: dict[str, QueueSettings]
    servers: dict[tuple[str, str], ServerSettings]
    schedules: dict[str, ScheduleSettings]


def by_name(sections: Any) -> Sections:
    """Return the settings by name; refuse two of one name."""
    values = sections.values() if hasattr(sections, "values") else sections
    found = Sections({}, {}, {})
    for settings in values:
        if isinstance(settings, QueueSettings):
            _put(found.queues, settings.queue, settings, f"queue {settings.queue!r}")
        elif isinstance(settings, ServerSettings):
            key = " ".join(settings.queues or [settings.queue]), settings.name
            if key in found.servers:
                refuse(settings.place, f"{found.servers[key].place} has the same queue and name")
            found.servers[key] = settings
        elif isinstance(settings, ScheduleSettings):
            _put(found.schedules, settings.name, settings, f"schedule {settings.name!r}")
    return found


def _put(known: dict[str, Any], name: str, settings: Any, what: str) -> None:
    if name in known:
        refuse(settings.place, f"{what} is already defined by {known[name].place}")
    known[name] = settings


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
