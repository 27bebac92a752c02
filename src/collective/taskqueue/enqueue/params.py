"""The parameters of a task as a query string, so that the receiver reads what was meant."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collective.taskqueue.errors import InvalidTask
from datetime import date
from urllib.parse import urlencode


Params = Mapping[str, object] | Iterable[tuple[str, object]] | None

_KINDS = "a text, a number, a bool, a date, a datetime, or a list of these"


def query_string(params: Params) -> str:
    """Return the quoted parameters; a parameter with a list is repeated for each item.

    True is `1` and False is empty, so that the receiver's form reads them as true and false.
    Dates and times are in ISO 8601.

    Raises `InvalidTask`, naming the parameter, for anything that has no such form.
    """
    if params is None:
        return ""
    found = []
    for name, value in _pairs(params):
        if not isinstance(name, str):
            raise InvalidTask("params", f"params: {name!r} is not the name of a parameter")
        values = value if isinstance(value, (list, tuple)) else (value,)
        found += [(name, _text(name, item)) for item in values]
    try:
        return urlencode(found)
    except UnicodeEncodeError as exc:
        name = next(name for name, value in found if not _is_encodable(name, value))
        raise InvalidTask("params", f"params: {name!r} cannot be encoded: {exc}") from None


def _pairs(params: Params) -> list[tuple[object, object]]:
    try:
        items = params.items() if isinstance(params, Mapping) else params or ()
        pairs = list(items)
        if not all(isinstance(pair, (tuple, list)) for pair in pairs):
            raise TypeError
        return [(name, value) for name, value in pairs]
    except (TypeError, ValueError):
        raise InvalidTask("params", "params are a mapping, or pairs of names and values") from None


def _text(name: str, value: object) -> str:
    # Subclasses are written as their base type: the text of an Enum is not its value.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return "1" if value else ""
    if isinstance(value, date):
        return value.isoformat()
    try:
        if isinstance(value, int):
            return int.__repr__(value)
        if isinstance(value, float):
            return float.__repr__(value)
    except ValueError as exc:
        raise InvalidTask("params", f"params: {name!r} cannot be written: {exc}") from None
    kind = type(value).__name__
    raise InvalidTask("params", f"params: {name!r} is of type {kind}; a value is {_KINDS}")


def _is_encodable(*texts: str) -> bool:
    try:
        return all(text.encode("utf-8") is not None for text in texts)
    except UnicodeEncodeError:
        return False
