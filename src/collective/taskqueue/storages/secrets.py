"""Passwords of storages, kept out of what errors say."""

from __future__ import annotations

import re


_known: set[str] = set()


def remember(*secrets: str) -> None:
    """Let `masked` know these passwords; called by whoever reads them from the settings."""
    _known.update(filter(None, secrets))


def masked(text: str) -> str:
    """Return a text with three asterisks for each known password in it.

    Called wherever a driver or a server has said what is wrong. A password that is a part of
    a longer word is none: a short one would make a riddle of every sentence.
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def shown(exc: Exception) -> Exception | None:
    """Return an error that may be the cause of another one; None if its text has a password.

    A traceback would show what is masked elsewhere.
    """
    text = str(exc)
    return exc if masked(text) == text else None
