"""The settings of queues, consumers and schedules: frozen, with the defaults of component.xml."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from typing import Any


#: Values of `type`, besides a dotted path.
STORAGES = {
    "local": "collective.taskqueue.storages.local.LocalStorage",
    "redis": "collective.taskqueue.storages.redis.RedisStorage",
    "sql": "collective.taskqueue.storages.sql.SqlStorage",
}

#: The modules that a type needs; the extra of that name installs them.
EXTRAS = {"redis": ("redis", "msgpack"), "sql": ("sqlalchemy", "msgpack")}

#: Client errors that may be gone after a while; after every other 4xx a task fails at once.
TRANSIENT_STATUSES = (408, 423, 425, 429, 449)


@dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """A `<taskqueue>` section; the keys are described in component.xml."""

    queue: str = "default"
    type: str = "local"
    #: May contain a password.
    url: str = field(default="", repr=False)
    host: str = "localhost"
    port: int = 6379
    db: str = "0"
    password: str = field(default="", repr=False)
    unix_socket_path: str = ""
    max_attempts: int | None = None
    backoff: str = "exponential"
    min_backoff: float = 2.0
    max_backoff: float = 7200.0
    transient_statuses: tuple[int, ...] = TRANSIENT_STATUSES
    timeout: float | None = None
    once: bool | None = None
    keep_succeeded: float = 3600.0
    keep_failed: float = 7 * 86400.0
    max_finished: int = 10_000
    #: Bytes.
    max_finished_bytes: int = 256 * 1024 * 1024
    max_waiting_per_person: int = 1000
    max_payload: int = 1024 * 1024
    max_deliveries: int = 3
    stage_timeout: float = 3.0
    secret: str = field(default="", repr=False)
    allow_hosts: str = ""
    #: Lower case; a name that ends with an asterisk is a prefix.
    copy_headers: tuple[str, ...] = ()
    #: Unique name of the section in the configuration, and its place as error messages tell it.
    section: str = "taskqueue"
    place: str = "<taskqueue>"
    #: The keys that the configuration gives; None if code has made the settings.
    given: frozenset[str] | None = field(default=None, repr=False, compare=False)

    def getSectionName(self) -> str:
        """The key in `product_config`; called by Zope."""
        return self.section


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """A `<taskqueue-server>` section; the keys are described in component.xml."""

    name: str = "default"
    queue: str = "default"
    queues: tuple[str, ...] | None = None
    concurrent_limit: int = 1
    retry_max_count: int = 10
    lease: float = 30.0
    grace: float = 30.0
    section: str = "taskqueue-server"
    place: str = "<taskqueue-server>"
    #: The queues of the section, if this is the part of it for one of several.
    order: tuple[str, ...] = ()
    given: frozenset[str] | None = field(default=None, repr=False, compare=False)

    def getSectionName(self) -> str:
        """The key in `product_config`; called by Zope."""
        return self.section


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """A `<taskqueue-schedule>` section; the keys are described in component.xml."""

    name: str
    cron: str = ""
    period: float | None = None
    timezone: str = "UTC"
    url: str = ""
    method: str = "GET"
    user: str = ""
    #: Physical path; empty: the nearest user folder above the url that knows the user.
    user_folder: str = ""
    #: Scheme, host and port of public urls; empty for none.
    host: str = ""
    #: Physical path that `host` leads to; empty: that of the nearest site above the url.
    root: str = ""
    queue: str = "default"
    catch_up: str = "latest"
    misfire: float = 3600.0
    overlap: str = "skip"
    jitter: float = 0.0
    enabled: bool = True
    description: str = ""
    max_attempts: int | None = None
    timeout: float | None = None
    section: str = "taskqueue-schedule"
    place: str = "<taskqueue-schedule>"
    given: frozenset[str] | None = field(default=None, repr=False, compare=False)

    def getSectionName(self) -> str:
        """The key in `product_config`; called by Zope."""
        return self.section


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All queues, consumers and schedules of a process, each with its effective settings."""

    queues: tuple[QueueSettings, ...] = ()
    servers: tuple[ServerSettings, ...] = ()
    schedules: tuple[ScheduleSettings, ...] = ()


#: What says where settings come from, and is no key.
ORIGIN = frozenset({"section", "place", "order", "given"})


def given_values(settings: QueueSettings | ServerSettings | ScheduleSettings) -> dict[str, Any]:
    """Return the keys that the configuration gives, with their values.

    Of settings that code has made: those that differ from the defaults.
    """
    values = {
        each.name: (getattr(settings, each.name), each.default)
        for each in fields(settings)
        if each.name not in ORIGIN
    }
    if settings.given is not None:
        return {name: value for name, (value, _) in values.items() if name in settings.given}
    return {name: value for name, (value, default) in values.items() if value != default}
