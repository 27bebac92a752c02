"""Which source of the configuration wins.

The command line of a worker wins over the environment, this over the sections of zope.conf, these
over its `<product-config>`, and this over the defaults: key by key. But the keys in `WHERE`
together say where a storage is: a source that has one of them replaces all of them, and the
password. So it is with `WHEN`.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collective.taskqueue.config import command
from collective.taskqueue.config import product
from collective.taskqueue.config import schedules
from collective.taskqueue.config.check import by_name
from collective.taskqueue.config.check import check
from collective.taskqueue.config.environment import CONSUMERS
from collective.taskqueue.config.environment import folded
from collective.taskqueue.config.environment import place
from collective.taskqueue.config.environment import Variable
from collective.taskqueue.config.environment import variables
from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.settings import given_values
from collective.taskqueue.config.settings import QueueSettings
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.config.settings import ServerSettings
from collective.taskqueue.config.settings import Settings
from collective.taskqueue.config.settings import STORAGES
from collective.taskqueue.config.where import type_of
from collective.taskqueue.config.where import typed
from collective.taskqueue.config.where import WHERE
from dataclasses import replace
from typing import Any
from typing import TypeVar


#: The keys that together say when a schedule is due: one of them replaces the other.
WHEN = frozenset({"cron", "period"})

S = TypeVar("S", QueueSettings, ServerSettings, ScheduleSettings)


def resolve(product_config: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the effective settings of a process, checked.

    `product_config` is what Zope has made of zope.conf, by the names of its sections; `environ`
    the environment. Raises ZConfig's `ConfigurationError`, in one sentence that names the place.
    """
    mapping = product_config.get(product.NAME)
    # A section of ours may have that name.
    lower = product.settings_of(mapping) if isinstance(mapping, Mapping) else []
    higher, lowest = by_name(product_config), by_name(lower)
    found = _merged(lowest.queues, higher.queues)
    said = variables(environ)
    for variable in sorted(said.keys, key=lambda variable: variable.key != "url"):
        _apply(variable, found)
    merged = _merged(lowest.servers, higher.servers)
    each = [part for server in merged.values() for part in _parts(server)]
    planned = _merged(lowest.schedules, higher.schedules)
    for change in said.schedules:
        _change(change, planned)
    check([*found.values(), *each, *planned.values()])
    chosen, where = command.chosen_consumers(), command.PLACE
    if chosen is None:
        chosen, where = said.consumers, place(CONSUMERS)
    consumers = each if chosen is None else _chosen(chosen, where, found, each)
    return Settings(
        queues=tuple(found.values()),
        servers=tuple(consumers),
        schedules=tuple(planned.values()),
    )


def _merged(lower: Mapping[Any, S], higher: Mapping[Any, S]) -> dict[Any, S]:
    return {
        name: _over(lower[name], higher[name])
        if name in lower and name in higher
        else higher.get(name) or lower[name]
        for name in [*higher, *(name for name in lower if name not in higher)]
    }


def _parts(server: ServerSettings) -> list[ServerSettings]:
    """Return the settings of a consumer for each of its queues."""
    if not server.queues:
        return [server]
    if "queue" in given_values(server):
        refuse(server.place, "queue and queues are both set; remove one of them")
    if not server.concurrent_limit:
        refuse(server.place, "without a concurrent_limit no task waits, and queues has no effect")
    return [replace(server, queue=name, queues=None, order=server.queues) for name in server.queues]


def _over(lower: S, higher: S) -> S:
    values = _replaced(given_values(lower), given_values(higher))
    # The higher one has all origins but `given`, and its class.
    return type(higher)(
        **values, section=higher.section, place=higher.place, given=frozenset(values)
    )


def _replaced(lower: dict[str, Any], higher: dict[str, Any]) -> dict[str, Any]:
    if higher.keys() & WHERE:
        # A password must not be sent to another server than it was written for.
        lower = {key: value for key, value in lower.items() if key not in {*WHERE, "password"}}
    if higher.keys() & WHEN:
        lower = {key: value for key, value in lower.items() if key not in WHEN}
    return {**lower, **higher}


def _apply(variable: Variable, queues: dict[str, QueueSettings]) -> None:
    name = _match(variable.queue, queues, variable.place)
    if name is None and variable.key != "url":
        refuse(
            variable.place,
            f"there is no such queue, and no variable with its url (known: {_known(queues)})",
        )
    if name is None:
        name = variable.queue.lower()
        queues[name] = QueueSettings(
            queue=name, section=variable.name, place=variable.place, given=frozenset({"queue"})
        )
    settings = queues[name]
    values: dict[str, Any] = {variable.key: variable.value}
    where = settings.place
    if variable.key == "url":
        values, where = _of_url(variable, settings), variable.place
    elif where != variable.place:
        where = f"{where} with {variable.name} of the environment"
    values = _replaced(given_values(settings), values)
    queues[name] = QueueSettings(
        **values, section=settings.section, place=where, given=frozenset(values)
    )


def _change(variable: Variable, planned: dict[str, ScheduleSettings]) -> None:
    name = _match(variable.queue, planned, variable.place, "schedules")
    if name is None:
        known = ", ".join(sorted(planned)) or "none"
        refuse(variable.place, f"there is no such schedule (known: {known})")
    settings = planned[name]
    values = _replaced(given_values(settings), {variable.key: variable.value})
    place = f"{settings.place} with {variable.name} of the environment"
    origin = {"section": settings.section, "place": place, "given": frozenset(values)}
    planned[name] = schedules.made({**values, **origin})


def _of_url(variable: Variable, settings: QueueSettings) -> dict[str, Any]:
    if settings.type not in STORAGES and type_of(variable.value) is None:
        return {"url": variable.value, "type": settings.type}
    return typed({"url": variable.value}, variable.place)


def _match(name: str, queues: Iterable[str], where: str, kind: str = "queues") -> str | None:
    """Return the queue or schedule whose name a variable has; None if there is none."""
    found = [each for each in queues if folded(each) == folded(name)]
    if len(found) > 1:
        both = " and ".join(sorted(found))
        refuse(where, f"the {kind} {both} are written alike in a variable; rename one of them")
    return found[0] if found else None


def _chosen(
    consumers: Iterable[tuple[str, int | None]],
    where: str,
    queues: dict[str, QueueSettings],
    servers: list[ServerSettings],
) -> list[ServerSettings]:
    """Return the consumers that are named at the place `where`."""
    found: dict[str, ServerSettings] = {}
    for name, limit in consumers:
        queue = name if name in queues else _match(name, queues, where)
        if queue is None:
            refuse(where, f"there is no queue {name!r} (known: {_known(queues)})")
        if queue in found:
            refuse(where, f"the queue {queue} is named twice")
        # The other keys of the consumer that the file has for this queue stay.
        own = [server for server in servers if server.queue == queue]
        base = own[0] if own else ServerSettings(queue=queue, section=f"{CONSUMERS} {queue}")
        most = base.concurrent_limit if limit is None else limit
        found[queue] = replace(base, place=where, concurrent_limit=most, order=())
    return list(found.values())


def _known(queues: Iterable[str]) -> str:
    return ", ".join(sorted(queues)) or "none"
