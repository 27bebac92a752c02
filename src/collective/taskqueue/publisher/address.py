"""How Zope reads the url of a task, before any object is known."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from urllib.parse import parse_qsl
from urllib.parse import quote
from urllib.parse import unquote
import re


#: Steps of a path that set the public urls in Zope's virtual hosting.
VIRTUAL_HOST_STEPS = ("VirtualHostBase", "VirtualHostRoot")
VIRTUAL_HOST_PREFIX = "_vh_"

# A url without any of these has no such step and no such field, however it is decoded.
_MAY_CHOOSE = re.compile(f"[%:]|{'|'.join(VIRTUAL_HOST_STEPS)}|{VIRTUAL_HOST_PREFIX}")

#: A path that reads the same everywhere: no part of it is left out, decoded or quoted.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9@+,=._~-]+)+")

#: Characters that are not quoted in a step, besides letters, digits and ``_.-~``.
_PLAIN = "@+:,="

#: Types of form fields that add to the path: `?edit:method=1` calls `edit`.
_METHOD_TYPES = {"method", "action", "default_method", "default_action"}


def is_plain(url: str) -> bool:
    """Return whether a url is a path that every reader reads alike, as for most tasks."""
    return _PLAIN_PATH.fullmatch(url) is not None


def forbidden_step(url: str) -> str | None:
    """Return the step of a task's url that would choose the public host; None if none would.

    The virtual host of a task is that of the request that queued it. A url that sets another
    one makes Plone send links to a host of an attacker's choice. The url is decoded as the
    publisher decodes it. A web hook is not traversed, and none of its steps is forbidden.
    """
    if not url.startswith("/") or not _MAY_CHOOSE.search(url):
        return None
    path, _, query = url.partition("?")
    path = unquote(path, errors="replace")
    # The query is checked, too: a field may add to the path.
    for candidate in (path, *(f"{path}/{more}" for more in _added_paths(query))):
        found = chooses_virtual_host(steps(candidate))
        if found is not None:
            return found
    return None


def chooses_virtual_host(names: Iterable[str]) -> str | None:
    """Return the first of these steps that virtual hosting would obey; None if there is none.

    The publisher calls it, too, with the steps that Zope is about to traverse: a form in the
    body of a task may have added some.
    """
    for name in names:
        if name in VIRTUAL_HOST_STEPS or name.startswith(VIRTUAL_HOST_PREFIX):
            return name
    return None


def steps(path: str) -> list[str]:
    """Return the names that Zope traverses for an unquoted path, the first one first.

    Zope answers 404 if `..` leads above its root; here the path stays at the root, so that the
    steps after it are checked, too.
    """
    found: list[str] = []
    for name in path.split("/"):
        if name == "..":
            del found[-1:]
        elif name not in ("", "."):
            found.append(name)
    return found


def quoted(names: Iterable[str]) -> str:
    """Return the path of these steps as it stands in a url, each quoted where needed.

    Raises `UnicodeEncodeError` for a lone surrogate.
    """
    return "/" + "/".join(quote(name, safe=_PLAIN) for name in names)


def _added_paths(query: str) -> Iterator[str]:
    for name, value in parse_qsl(query, keep_blank_values=True):
        key, *types = name.split(":")
        if _METHOD_TYPES.intersection(types):
            # A field without a name adds its value.
            yield from (value, key, name.rpartition(":")[0])
