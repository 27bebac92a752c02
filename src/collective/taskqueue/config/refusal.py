"""The error for a mistake in the configuration, and what its sentence may say."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn
from ZConfig import ConfigurationError
from ZConfig import ConfigurationSyntaxError


def refuse(place: str, reason: str) -> NoReturn:
    """Raise ZConfig's `ConfigurationError` with one sentence that begins with the place."""
    raise marked(ConfigurationSyntaxError(f"{place}: {reason}", None, None))


def marked(exc: ConfigurationError) -> ConfigurationError:
    """Note at an error that its sentence says all: `report` shows no traceback of it."""
    exc.of_taskqueue = True
    return exc


def unknown(word: str, kind: str, known: Iterable[str]) -> str:
    """Return the sentence about a word that is none of the known ones, with the nearest of them."""
    every = sorted(known)
    return f"{word!r} is not a known {kind}{nearest(word, every)}; known are {', '.join(every)}"


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a question, in brackets, for the known word that is most like this one, or nothing.

    The question has the prefix before the known word.
    """
    folded = {each.lower(): each for each in known}
    found = get_close_matches(word.lower(), folded, n=1, cutoff=0.7)
    return f" (do you mean {prefix}{folded[found[0]]}?)" if found else ""


def without_url(message: str, said: object) -> str:
    """Return the text of an error, without the key or value that it quotes if that is a url.

    A url in the wrong key, or in a line of its own, may contain a password.
    """
    for word in str(said).split():
        if "@" in word or "://" in word:
            message = message.replace(repr(word), "…").replace(word, "…")
    return message
