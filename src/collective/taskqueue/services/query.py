"""The query of a request, as the services parse it."""

from __future__ import annotations

from collections.abc import Collection
from collective.taskqueue.errors import InvalidTask
from urllib.parse import parse_qsl
from zope.publisher.interfaces.browser import IBrowserRequest


#: Most fields of a query.
MAX_FIELDS = 100


def query(request: IBrowserRequest, known: Collection[str] = ()) -> dict[str, str]:
    """Return the fields of the query, each with its text.

    Raises `InvalidTask` with the name of a field that is not `known`, that is repeated, that is
    no UTF-8, or that Zope would convert, such as ``b_start:int``. Called by every service, after
    it has checked that the client may ask at all.
    """
    text = request.get("QUERY_STRING") or ""
    try:
        # Latin-1 accepts any bytes; each field is then decoded as UTF-8 by itself.
        pairs = parse_qsl(
            text, keep_blank_values=True, encoding="latin-1", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise InvalidTask("query", f"the query has more than {MAX_FIELDS} fields") from None
    found: dict[str, str] = {}
    for name, value in ((_text("query", name), value) for name, value in pairs):
        plain, colon, _ = name.partition(":")
        if colon:
            raise InvalidTask(plain or "query", f"{name} is no field: nothing is converted here")
        if name in found:
            raise InvalidTask(name, f"{name} is there twice")
        if name not in known:
            raise unknown_field(name, known)
        found[name] = _text(name, value)
    return found


def unknown_field(name: str, known: Collection[str]) -> InvalidTask:
    """Return the error for an unknown field, which lists the known ones."""
    listed = ", ".join(sorted(known)) or "none"
    return InvalidTask(name or "query", f"unknown field {name!r} (known: {listed})")


def _text(name: str, value: str) -> str:
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise InvalidTask(name, f"{name} is no UTF-8") from None
