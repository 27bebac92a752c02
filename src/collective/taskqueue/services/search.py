"""One page of a search by a filter: the tasks that match, and where to go on."""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.services import listing
from collective.taskqueue.services import shape
from collective.taskqueue.services.access import Access
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.access import VIEW
from collective.taskqueue.services.conditions import CONDITIONS
from collective.taskqueue.services.conditions import filter_of
from collective.taskqueue.services.conditions import narrowed
from collective.taskqueue.services.cursors import opened
from collective.taskqueue.services.cursors import sealed
from collective.taskqueue.services.shape import Json
from plone.restapi.batching import DEFAULT_BATCH_SIZE
from urllib.parse import urlencode


#: Fields of the query that make a list a search.
SEARCH = frozenset({"url", "since", "until", "reason", "cursor"})

#: Fields of the query of a search.
FIELDS = ("queue", *CONDITIONS, "cursor", "b_size")

#: Most pages of storages that one request reads.
LOOKS = 10


def page(fields: Mapping[str, str], access: Access, site: str) -> Json:
    """Return the next tasks that match the fields of the query, queue by queue.

    The page may be short, or empty, although there is more: then it has a cursor. Raises
    `InvalidTask` with the name of the field that is wrong.
    """
    if "b_start" in fields:
        raise InvalidTask("b_start", "a search has no b_start; go on with its cursor")
    size = listing.number_of(fields, "b_size", DEFAULT_BATCH_SIZE, 1, listing.MAX_SIZE)
    asked = filter_of(fields)
    queues = listing.queues_of(fields)
    name, cursor = opened(fields["cursor"], access.user) if fields.get("cursor") else ("", None)
    following = {name: fields[name] for name in sorted(fields) if name != "cursor"}
    result: Json = {"@id": _url(site, fields), "items": []}
    limits = narrowed(asked, access, own=not (access.has(VIEW) or access.has(MANAGE)))
    if limits is None:
        return result
    conditions, wanted = limits
    looks = LOOKS
    for queue in (each for each in queues if each.name >= name):
        cursor, more = cursor if queue.name == name else None, True
        while more:
            missing = size - len(result["items"])
            if not (looks and missing):
                result["cursor"] = following["cursor"] = sealed(queue.name, cursor, access.user)
                result["batching"] = {"@id": result["@id"], "next": _url(site, following)}
                return result
            looks -= 1
            found = queue.search(conditions, cursor, missing)
            shown = [status for status in found.tasks if wanted(status)]
            result["items"] += [shape.summary(status, site, access) for status in shown]
            cursor, more = found.cursor, found.cursor is not None
    return result


def _url(site: str, fields: Mapping[str, str]) -> str:
    return f"{site}/@tasks?{urlencode(fields)}"
