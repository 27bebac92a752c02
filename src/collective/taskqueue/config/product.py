"""The section `<product-config collective.taskqueue>`: dotted keys instead of sections of ours.

Tools that write zope.conf, and know only sections of Zope, can write these::

    queue.default.url redis://localhost
    consumer.default.concurrent_limit 2
    schedule.nightly.cron 30 2 * * *

The word in the middle is the name of the queue, of the consumer or of the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.config import schedules
from collective.taskqueue.config.datatypes import name
from collective.taskqueue.config.keys import converted
from collective.taskqueue.config.keys import datatypes
from collective.taskqueue.config.refusal import nearest
from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.refusal import unknown
from collective.taskqueue.config.refusal import without_url
from collective.taskqueue.config.settings import QueueSettings
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.config.settings import ServerSettings
from collective.taskqueue.config.where import typed
from typing import Any


#: The name of the section.
NAME = "collective.taskqueue"

#: The section types that the first word of a key stands for.
KINDS = {
    "queue": "taskqueue",
    "consumer": "taskqueue-server",
    "schedule": "taskqueue-schedule",
}

PLACE = f"<product-config {NAME}>"


def settings_of(
    mapping: Mapping[str, str],
) -> list[QueueSettings | ServerSettings | ScheduleSettings]:
    """Return the queues, the consumers and the schedules that the keys of the section describe.

    Raises ZConfig's `ConfigurationError` for a key that is not known and for a bad value; the
    sentence names the section and the key.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
    for key, text in mapping.items():
        kind, label, last = _parts(key)
        value = converted(KINDS[kind], last, text, f"{PLACE}: {key}")
        found[kind].setdefault(label, {})[last] = value
    queues = [_queue(label, values) for label, values in found["queue"].items()]
    names = {queue.queue for queue in queues}
    servers = [_server(label, values, names) for label, values in found["consumer"].items()]
    schedules = [_schedule(label, values) for label, values in found["schedule"].items()]
    return [*queues, *servers, *schedules]


def _parts(key: str) -> tuple[str, str, str]:
    kind, _, rest = key.partition(".")
    label, _, last = rest.rpartition(".")
    if kind not in KINDS or not label:
        reason = f"{key!r} is not a known key name{_suggestion(key)}"
        forms = " or ".join(f"{kind}.<name>.<key>" for kind in KINDS)
        refuse(PLACE, without_url(f"{reason}; a key has the form {forms}", key))
    try:
        name(label)
    except ValueError as exc:
        refuse(PLACE, without_url(f"{key}: {exc}", key))
    known = datatypes(KINDS[kind])
    if last not in known:
        refuse(PLACE, f"{key}: {unknown(last, 'key name', known)}")
    return kind, label, last


def _suggestion(key: str) -> str:
    kind, dot, rest = key.partition(".")
    if "." in rest:
        return nearest(kind, KINDS)
    # A key of a section of ours, or one without the name in the middle.
    for kind, section_type in KINDS.items():
        last = rest if dot else key
        if last in datatypes(section_type):
            return f" (do you mean {kind}.default.{last}?)"
    return ""


def _queue(label: str, values: dict[str, Any]) -> QueueSettings:
    place = f"{PLACE}: queue.{label}"
    found = {"queue": label, **typed(values, place)}
    return QueueSettings(**found, section=f"queue.{label}", place=place, given=frozenset(found))


def _server(label: str, values: dict[str, Any], queues: set[str]) -> ServerSettings:
    place = f"{PLACE}: consumer.{label}"
    if label in queues - {"default"} and "queue" not in values:
        # Otherwise it would run the tasks of the queue default.
        refuse(place, f"which queue? write consumer.{label}.queue {label}")
    found = {"name": label, **values}
    return ServerSettings(**found, section=f"consumer.{label}", place=place, given=frozenset(found))


def _schedule(label: str, values: dict[str, Any]) -> ScheduleSettings:
    place = f"{PLACE}: schedule.{label}"
    origin = {"section": f"schedule.{label}", "place": place, "given": frozenset(values)}
    return schedules.made({"name": label, **values, **origin})
