"""Names and paths inside of containers, and what stands for them on this machine."""

from collections.abc import Mapping
import re


def replaced(text: str, places: Mapping[str, str]) -> str:
    """Return a text with all places replaced; of two that begin alike, the longer one counts."""
    names = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    return re.sub(rf"(?:{names})\b", lambda match: places[match[0]], text)
