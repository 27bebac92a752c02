"""The keys of our sections as component.xml declares them, for values that come otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.refusal import unknown
from collective.taskqueue.config.refusal import without_url
from functools import cache
from io import StringIO
from typing import Any
from ZConfig import loadSchemaFile


#: Section types of component.xml.
SECTION_TYPES = ("taskqueue", "taskqueue-server", "taskqueue-schedule", "clock-server")

_SCHEMA = """\
<schema>
  <abstracttype name="zope.product.base" />
  <import package="collective.taskqueue" />
</schema>
"""


@cache
def datatypes(section_type: str) -> Mapping[str, Any]:
    """Return the datatype of each key of a section type, a function that converts its text."""
    # ZConfig imports the modules of the datatypes, and these import this one.
    schema = loadSchemaFile(StringIO(_SCHEMA))
    return {name: key.datatype for name, key in schema.gettype(section_type)}


def converted(section_type: str, key: str, text: str, place: str) -> Any:
    """Return the value of a key by its datatype.

    Raises ZConfig's `ConfigurationError` with a sentence that begins with the place.
    """
    known = datatypes(section_type)
    if key not in known:
        refuse(place, unknown(key, "key name", known))
    try:
        return known[key](text)
    except ValueError as exc:
        reason = without_url(str(exc), text)
    return refuse(place, reason)
