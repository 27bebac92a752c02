"""zope.conf: datatypes for component.xml, frozen settings, and the checks across sections.

Imported while zope.conf is parsed, before ZCML: imports nothing of Zope but ZConfig.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from functools import partial
from functools import wraps
from typing import Any
from ZConfig import ConfigurationError
from ZConfig import ConfigurationSyntaxError
from ZConfig import SubstitutionReplacementError
from ZConfig import SubstitutionSyntaxError
from ZConfig.cfgparser import ZConfigParser
from ZConfig.datatypes import stock_datatypes
from ZConfig.matcher import BaseMatcher
from ZConfig.matcher import SectionMatcher
import math
import re


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

#: The section types of component.xml.
SECTION_TYPES = ("taskqueue", "taskqueue-server")


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

    def getSectionName(self) -> str:
        """The key in `product_config`; called by Zope."""
        return self.section


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """A `<taskqueue-server>` section; the keys are described in component.xml."""

    name: str = "default"
    queue: str = "default"
    concurrent_limit: int = 1
    retry_max_count: int = 10
    lease: float = 30.0
    grace: float = 30.0
    section: str = "taskqueue-server"
    place: str = "<taskqueue-server>"

    def getSectionName(self) -> str:
        """The key in `product_config`; called by Zope."""
        return self.section


def queue_settings(section: Any) -> QueueSettings:
    """Datatype of the section `taskqueue`."""
    return QueueSettings(**_values(section))


def server_settings(section: Any) -> ServerSettings:
    """Datatype of the section `taskqueue-server`."""
    return ServerSettings(**_values(section))


def _values(section: Any) -> dict[str, Any]:
    values = {name: getattr(section, name) for name in section.getSectionAttributes()}
    matcher = section.getSectionMatcher()
    return {**values, "section": section.getSectionName(), "place": matcher.place}


def name(value: str) -> str:
    """Datatype: a name that can be part of a key in a shared storage."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", value):
        raise ValueError(
            "a name is made of letters, digits, _, - and ., at most 100 of them, and does not"
            " begin with ."
        )
    return value


def storage_type(value: str) -> str:
    """Datatype: a known type of storage, or the dotted path of a class."""
    if value not in STORAGES and not re.fullmatch(r"\w+(\.\w+)+", value):
        known = ", ".join(sorted(STORAGES))
        raise ValueError(f"unknown type {value!r}; use {known} or the dotted path of a class")
    return value


def backoff(value: str) -> str:
    """Datatype: exponential or linear."""
    if value not in ("exponential", "linear"):
        raise ValueError("backoff is exponential or linear")
    return value


def seconds(value: str) -> float:
    """Datatype: a finite number of seconds, not negative."""
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError("seconds must be a finite number, not negative")
    return number


def positive_seconds(value: str) -> float:
    """Datatype: a finite number of seconds, more than zero."""
    number = seconds(value)
    if not number:
        raise ValueError("seconds must be more than 0")
    return number


def natural_integer(value: str) -> int:
    """Datatype: an integer, not negative."""
    number = int(value)
    if number < 0:
        raise ValueError("the number must not be negative")
    return number


def client_errors(value: str) -> tuple[int, ...]:
    """Datatype: statuses of client errors, separated by blanks."""
    found = tuple(int(status) for status in value.split())
    if not all(400 <= status < 500 for status in found):
        raise ValueError("the statuses of client errors are those from 400 to 499")
    return found


def header_names(value: str) -> tuple[str, ...]:
    """Datatype: header names, or prefixes that end with an asterisk, separated by blanks."""
    for name in value.split():
        if not re.fullmatch(r"[A-Za-z0-9_-]*\*?", name):
            raise ValueError(f"{name!r} is not the name of a header, nor its beginning and *")
    # WSGI does not distinguish an underscore from a dash.
    return tuple(name.lower().replace("_", "-") for name in value.split())


def positive_integer(value: str) -> int:
    """Datatype: an integer, at least 1."""
    number = natural_integer(value)
    if not number:
        raise ValueError("the number must be at least 1")
    return number


def size(value: str) -> int:
    """Datatype: a number of bytes, such as 64KB, not negative."""
    number: int = stock_datatypes["byte-size"](value)
    if number < 0:
        raise ValueError("the size must not be negative")
    return number


def check(sections: Any) -> None:
    """Check what cannot be checked within one section.

    Raises ZConfig's `ConfigurationError`, in one sentence that names section and line,
    for two queues of one name, for a server without its queue, for two consumers of one
    name on one queue, and for a queue whose storage would be elsewhere than its keys say.
    Called when zope.conf has been read.
    """
    values = sections.values() if hasattr(sections, "values") else sections
    queues: dict[str, QueueSettings] = {}
    servers: dict[tuple[str, str], ServerSettings] = {}
    for settings in values:
        if isinstance(settings, QueueSettings):
            if settings.queue in queues:
                other = queues[settings.queue].place
                _refuse(settings.place, f"queue {settings.queue!r} is already defined by {other}")
            _check_place(settings)
            queues[settings.queue] = settings
        elif isinstance(settings, ServerSettings):
            key = settings.queue, settings.name
            if key in servers:
                other = servers[key].place
                _refuse(settings.place, f"{other} has the same queue and name")
            servers[key] = settings
    for server in servers.values():
        if server.queue not in queues:
            known = ", ".join(sorted(queues)) or "none"
            _refuse(server.place, f"there is no queue {server.queue!r} (known: {known})")


def _check_place(settings: QueueSettings) -> None:
    if settings.type == "local" and (settings.url or settings.unix_socket_path):
        reason = "type local is the memory of this process and is at no url or socket"
        _refuse(settings.place, f"{reason}; say type redis or type sql")
    scheme, _, path = settings.url.partition(":///")
    path = path.removeprefix("file:")
    if settings.type == "sql" and scheme.startswith("sqlite") and path[:1] not in ("", "/", ":"):
        # Otherwise a server and a script started in different folders would have a queue each.
        # The path may also belong to the url of another database, with its password.
        shown = "in its url" if "@" in path or "://" in path else path
        reason = f"the path {shown} depends on where a process is started"
        _refuse(settings.place, f"{reason}; write sqlite:////path/to/a/file")


def _refuse(place: str, reason: str) -> None:
    raise ConfigurationSyntaxError(f"{place}: {reason}", None, None)


# The rest changes how ZConfig parses sections of our two types, and of no other type; see
# docs/explanation/zopeconf.rst.


def _around(class_: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wrap the method of a class of ZConfig that has the name of the decorated function.

    The function gets the wrapped method before the arguments of a call. If this module is
    imported again, the method stays wrapped once.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        original = getattr(class_, function.__name__)
        if getattr(original, "of_taskqueue", False):
            return function

        @wraps(original)
        def method(*args: Any) -> Any:
            return function(original, *args)

        method.of_taskqueue = True  # type: ignore[attr-defined]
        setattr(class_, function.__name__, method)
        return function

    return wrap


@_around(ZConfigParser)
def start_section(
    original: Callable[..., Any], self: ZConfigParser, section: Any, rest: str
) -> Any:
    """Note the line at the enclosing section, for errors that show only when the file is read."""
    # The parser passes the line to no method that we could ask later.
    if isinstance(section, BaseMatcher):
        section.taskqueue_position = (self.url or "", self.lineno)
    return original(self, section, rest)


@_around(BaseMatcher)
def createChildMatcher(
    original: Callable[..., Any], self: BaseMatcher, type_: Any, name: str | None
) -> Any:
    """Make a section of our types a `_Section`, with a unique name if it has none."""
    if type_.name not in SECTION_TYPES:
        return original(self, type_, name)
    where, line = getattr(self, "taskqueue_position", ("", 0))
    place = f"<{type_.name}{' ' + name if name else ''}>"
    if line:
        place = f"{place} (line {line} of {where})"
    if name in self._sectionnames:
        _refuse(place, f"another section is named {name!r}, too")
    number = getattr(self, "taskqueue_sections", 0) + 1
    self.taskqueue_sections = number
    if number == 1:
        self.finish = partial(_finish_and_check, self.finish)
    # The only slot for add-ons in Zope's schema takes named sections alone. The name is unique:
    # zope.conf cannot give a section a name with a space in it.
    found = original(self, type_, name or f"{type_.name} {number}")
    matcher = _Section(found.info, type_, found.name, self.handlers)
    matcher.place = place
    return matcher


def _finish_and_check(finish: Callable[[], Any]) -> Any:
    value = finish()
    check(getattr(value, "product_config", ()))
    return value


class _Section(SectionMatcher):
    """A section of one of our types: its errors name it, and its place in the file."""

    place = ""

    def addValue(self, key: str, value: str, position: Any) -> None:
        with self._named(key):
            super().addValue(key, value, position)

    def finish(self) -> Any:
        with self._named():
            value = super().finish()
        limits = getattr(value, "min_backoff", 0), getattr(value, "max_backoff", 0)
        if limits[0] > limits[1]:
            _refuse(self.place, "min_backoff is greater than max_backoff")
        return value

    @contextmanager
    def _named(self, key: str = "") -> Iterator[None]:
        # ZConfig names the line of a bad value, but not the section; for a bad key neither.
        try:
            yield
        except ConfigurationError as exc:
            said = getattr(exc, "value", key)
            exc.message = f"{self.place}: {_without_url(exc.message, said)}"
            # Hides the error of the datatype, which says the same once more.
            exc.__suppress_context__ = True
            raise


def _without_url(message: str, said: Any) -> str:
    """Return the text of an error, without the key or value that it quotes if that is a url.

    A url in the wrong key, or in a line of its own, may contain a password.
    """
    for word in str(said).split():
        if "@" in word or "://" in word:
            message = message.replace(repr(word), "…").replace(word, "…")
    return message


@_around(ZConfigParser)
def handle_key_value(
    original: Callable[..., Any], self: ZConfigParser, section: Any, rest: str
) -> None:
    """Keep values of our keys out of errors: a password may have a $ in it."""
    try:
        original(self, section, rest)
    except (SubstitutionReplacementError, SubstitutionSyntaxError) as exc:
        if not isinstance(section, _Section):
            raise
        reason = _missing(exc)
    else:
        return
    # Not chained: a traceback would show the error of ZConfig.
    raise ConfigurationSyntaxError(f"{section.place}: {reason}", self.url, self.lineno)


def _missing(exc: ConfigurationError) -> str:
    name = getattr(exc, "name", "")
    if f"$({name})" in getattr(exc, "source", ""):
        return f"there is no {name} in the environment"
    return "what follows a $ in this value is no name that is defined; a $ itself is written $$"
