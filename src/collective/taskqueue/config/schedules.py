"""The settings of a schedule from its section, and from one of the clock server of Zope 2."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.config.datatypes import name
from collective.taskqueue.config.datatypes import schedule_url
from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.config.timing import Cron
from collective.taskqueue.config.timing import Period
from collective.taskqueue.config.timing import Timing
from typing import Any
from typing import NamedTuple
import logging
import re


logger = logging.getLogger("collective.taskqueue")

#: Ports that are not written in a url.
_PORTS = {"http": "80", "https": "443"}

_VIRTUAL = re.compile(r"/VirtualHostBase/(https?)/([^/]+?)(?::([0-9]+))?(/.*)", re.DOTALL)


class Public(NamedTuple):
    """A path of Zope's virtual hosting, taken apart."""

    url: str
    host: str = ""
    root: str = ""


def of_section(values: dict[str, Any]) -> ScheduleSettings:
    """Return the settings of a section `taskqueue-schedule`."""
    place = values["place"]
    if " " in values["section"]:
        refuse(place, "a schedule needs a name, such as <taskqueue-schedule nightly>")
    return made({**values, "name": _checked(name, values["section"], place)})


def of_clock_server(values: dict[str, Any]) -> ScheduleSettings:
    """Return the settings of a section `clock-server`: its method is the url."""
    place, path = values["place"], values["method"]
    if not path:
        refuse(place, "there is no method: the path that is called")
    if values["password"]:
        logger.warning("%s: its password is not used, remove it", place)
    url = _checked(schedule_url, path, place)
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", _public(url, place).url).strip("-.") or "root"
    # The path of virtual hosting says what the public sees; the key often names this machine.
    is_virtual = "/VirtualHost" in url
    host = f"http://{values['host']}" if values["host"] and not is_virtual else ""
    return made(
        {
            "name": f"{words[:80]}-{values['period']:g}",
            "url": url,
            "period": values["period"],
            "user": values["user"],
            "host": host,
            "section": values["section"],
            "place": place,
        }
    )


def made(values: dict[str, Any]) -> ScheduleSettings:
    """Return the settings with these values, checked.

    Raises ZConfig's `ConfigurationError` for values that contradict each other.
    """
    place = values["place"]
    if not values.get("url"):
        refuse(place, "there is no url: what is called")
    public = _public(values["url"], place)
    # A key without a default that is not there is None. What the path says is as good as a key.
    said = {key: value for key, value in values.items() if value is not None}
    path = {key: value for key in ("host", "root") if (value := getattr(public, key))}
    path = {key: value for key, value in path.items() if not said.get(key)}
    said["given"] = values.get("given", frozenset(said)) | {"name", *path}
    settings = ScheduleSettings(**{**said, **path, "url": public.url})
    _checked(lambda _: timing(settings), "", place)
    if settings.url.startswith("http") and settings.user:
        refuse(place, "a web hook runs as no user of this site; remove user, or call a path")
    return settings


def timing(settings: ScheduleSettings) -> Timing:
    """Return the ticks of a schedule; raises `ValueError` if they are not defined."""
    if bool(settings.cron) == (settings.period is not None):
        raise ValueError("when? it has either cron or period")
    if settings.period is not None:
        return Period(settings.period)
    return Cron(settings.cron, settings.timezone)


def _checked(convert: Callable[[str], Any], text: str, place: str) -> Any:
    try:
        return convert(text)
    except ValueError as exc:
        reason = str(exc)
    return refuse(place, reason)


def _public(url: str, place: str) -> Public:
    """Return a url without the steps of virtual hosting, and what these say."""
    if "/VirtualHost" not in url:
        return Public(url)
    found = _VIRTUAL.fullmatch(url)
    if found is None or "/VirtualHostRoot" not in found[4]:
        refuse(
            place,
            "its url is no path of virtual hosting, such as"
            " /VirtualHostBase/http/www.example.org:80/Plone/VirtualHostRoot/@@view",
        )
    scheme, name_, port, rest = found.groups()
    root, _, inside = rest.partition("/VirtualHostRoot")
    names = inside.split("/")[1:]
    script = ""
    while names and names[0].startswith("_vh_"):
        script += f"/{names.pop(0).removeprefix('_vh_')}"
    number = "" if port in (None, _PORTS[scheme]) else f":{port}"
    path = "/".join([root, *names])
    return Public(path or "/", f"{scheme}://{name_}{number}{script}", root or "/")
