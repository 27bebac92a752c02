"""Where the storage of a queue is: its type by its url."""

from __future__ import annotations

from collective.taskqueue.config.refusal import nearest
from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.settings import STORAGES
from typing import Any
from urllib.parse import parse_qsl
import re


#: Of the schemes of urls, the types.
SCHEMES = {
    "local": "local",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "redis+sentinel": "redis",
    "sqlite": "sql",
    "postgresql": "sql",
}

#: Schemes that the name of a driver may follow.
DATABASES = ("sqlite", "postgresql")

#: The keys that together say where a storage is.
WHERE = frozenset({"type", "url", "host", "port", "db", "unix_socket_path"})


def typed(values: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the values of a queue with the type that its url says.

    Raises ZConfig's `ConfigurationError` for a type that contradicts the url, and for a url
    without a type that says none.
    """
    url, given = values.get("url", ""), values.get("type")
    if not url or (given and given not in STORAGES):
        return values
    said = type_of(url)
    if given and said and given != said:
        refuse(
            place,
            f"type {given} contradicts its url, which is of type {said}; write type {said} or"
            " leave the type out",
        )
    if not given and not said:
        refuse(place, _no_type(url))
    if said == "local":
        if not re.fullmatch(r"local(:(//)?)?", url, re.IGNORECASE):
            refuse(place, "a local queue is at no place; its url is local://")
        return {**values, "type": "local", "url": ""}
    return {**values, "type": given or said}


def type_of(url: str) -> str | None:
    """Return the type of storage that a url says, or None if it says none."""
    scheme = url.partition(":")[0].lower()
    # The name of a driver may follow, as in postgresql+psycopg.
    database = scheme.partition("+")[0]
    return SCHEMES.get(scheme) or (SCHEMES[database] if database in DATABASES else None)


def _no_type(url: str) -> str:
    # What stands before a colon may be a password if the url has no scheme.
    scheme = url.partition("://")[0]
    hint = nearest(scheme, SCHEMES) if re.fullmatch(r"[a-z][a-z0-9+]{0,20}", scheme) else ""
    known = ", ".join(f"{each}://" for each in SCHEMES)
    return f"its url says no type{hint}; a url begins with one of {known}, or the key type is set"


def has_password(url: str) -> bool:
    """Return whether a url has a password, before its host or in an option."""
    rest, _, query = url.partition("://")[2].partition("?")
    user, at, _ = rest.partition("@")
    options = parse_qsl(query, keep_blank_values=True)
    return bool(at and ":" in user) or any(name == "password" for name, _ in options)
