"""The sections of zope.conf: how ZConfig parses those of our two types.

See docs/explanation/zopeconf.rst. Sections of other types are parsed as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collective.taskqueue.config import product
from collective.taskqueue.config import report
from collective.taskqueue.config import schedules
from collective.taskqueue.config.keys import SECTION_TYPES
from collective.taskqueue.config.precedence import resolve
from collective.taskqueue.config.refusal import marked
from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.refusal import unknown
from collective.taskqueue.config.refusal import without_url
from collective.taskqueue.config.settings import QueueSettings
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.config.settings import ServerSettings
from collective.taskqueue.config.where import typed
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from functools import wraps
from typing import Any
from ZConfig import ConfigurationError
from ZConfig import ConfigurationSyntaxError
from ZConfig import SubstitutionReplacementError
from ZConfig import SubstitutionSyntaxError
from ZConfig.cfgparser import ZConfigParser
from ZConfig.matcher import BaseMatcher
from ZConfig.matcher import SectionMatcher
import os


report.install()

#: The environment that the file is checked with; without one, that of the process.
_environ: ContextVar[Mapping[str, str] | None] = ContextVar("environ", default=None)


@contextmanager
def checked_with(environ: Mapping[str, str]) -> Iterator[None]:
    """Check the files that are read in the block with these variables."""
    token = _environ.set(environ)
    try:
        yield
    finally:
        _environ.reset(token)


def queue_settings(section: Any) -> QueueSettings:
    """Datatype of the section `taskqueue`."""
    values = _values(section)
    given = values.pop("given")
    found = typed({name: values[name] for name in given}, values["place"])
    return QueueSettings(**{**values, **found}, given=frozenset(found))


def server_settings(section: Any) -> ServerSettings:
    """Datatype of the section `taskqueue-server`."""
    return ServerSettings(**_values(section))


def schedule_settings(section: Any) -> ScheduleSettings:
    """Datatype of the section `taskqueue-schedule`."""
    return schedules.of_section(_values(section))


def clock_server(section: Any) -> ScheduleSettings:
    """Datatype of the section `clock-server`."""
    return schedules.of_clock_server(_values(section))


def _values(section: Any) -> dict[str, Any]:
    values = {name: getattr(section, name) for name in section.getSectionAttributes()}
    matcher = section.getSectionMatcher()
    origin = {"section": section.getSectionName(), "place": matcher.place}
    return {**values, **origin, "given": frozenset(matcher.given)}


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
        refuse(place, f"another section is named {name!r}, too")
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
    # Zope sets the variables of the section <environment> when it has read the file.
    environ = _environ.get()
    variables = dict(os.environ if environ is None else environ)
    variables.update(getattr(value, "environment", None) or {})
    resolve(getattr(value, "product_config", None) or {}, variables)
    return value


class _Section(SectionMatcher):
    """A section of one of our types: its errors name it, and its place in the file."""

    place = ""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.given: set[str] = set()

    def addValue(self, key: str, value: str, position: Any) -> None:
        with self._named(key):
            known = [name for name, _ in self.type]
            if key.lower() not in known:
                raise ConfigurationError(unknown(key, "key name", known))
            self.given.add(key.lower())
            super().addValue(key, value, position)

    def finish(self) -> Any:
        with self._named():
            return super().finish()

    @contextmanager
    def _named(self, key: str = "") -> Iterator[None]:
        # ZConfig names the line of a bad value, but not the section; for a bad key neither.
        try:
            yield
        except ConfigurationError as exc:
            said = getattr(exc, "value", key)
            exc.message = f"{self.place}: {without_url(exc.message, said)}"
            # Hides the error of the datatype, which says the same once more.
            exc.__suppress_context__ = True
            marked(exc)
            raise


@_around(ZConfigParser)
def handle_key_value(
    original: Callable[..., Any], self: ZConfigParser, section: Any, rest: str
) -> None:
    """Keep values of our keys out of errors: a password may have a $ in it."""
    try:
        original(self, section, rest)
    except (SubstitutionReplacementError, SubstitutionSyntaxError) as exc:
        place = _place(section)
        if not place:
            raise
        reason = _missing(exc)
    else:
        return
    # Not chained: a traceback would show the error of ZConfig.
    raise marked(ConfigurationSyntaxError(f"{place}: {reason}", self.url, self.lineno))


def _place(section: Any) -> str:
    if isinstance(section, _Section):
        return section.place
    is_product = isinstance(section, SectionMatcher) and section.type.name == "product-config"
    return product.PLACE if is_product and section.name == product.NAME else ""


def _missing(exc: ConfigurationError) -> str:
    name = getattr(exc, "name", "")
    if f"$({name})" in getattr(exc, "source", ""):
        return f"there is no {name} in the environment"
    return "what follows a $ in this value is no name that is defined; a $ itself is written $$"
