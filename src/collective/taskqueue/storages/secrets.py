"""Passwords of storages, masked in error messages."""

from __future__ import annotations

import re


_known: set[str] = set()


def remember(*secrets: str) -> None:
    """Register passwords for `masked`; the code that reads them from settings calls this."""
    _known.update(filter(None, secrets))


def masked(text: str) -> str:
    """Return a text with three asterisks for each registered password in it.

    Use it for every error text of a driver or a server. A password inside a longer word is
    not masked: a short password would make every sentence unreadable.
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def shown(exc: Exception) -> Exception | None:
    """Return an error to use as the cause of another one, or None if its text has a password.

    A traceback would show a password that is masked elsewhere.
    """
    text = str(exc)
    return exc if masked(text) == text else None
