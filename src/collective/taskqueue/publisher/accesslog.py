"""The access log: one line for each attempt, and how urls are shown in it and elsewhere."""

from __future__ import annotations

from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.publisher.address import is_plain
from collective.taskqueue.task import Outcome
from urllib.parse import quote
import logging
import re


access = logging.getLogger("collective.taskqueue.access")

_CREDENTIALS = re.compile(r"^([a-z][a-z0-9+.-]*:)?//[^/?#]*@", re.IGNORECASE)
#: Up to a blank: a quotation mark may be part of the url.
_QUERY = re.compile(r"\?\S+")
_VALUE = re.compile(r"(=|%3D).*", re.IGNORECASE | re.DOTALL)
_BREAK = re.compile(r'[ "\\]')


def log_attempt(attempt: Attempt, outcome: Outcome, seconds: float) -> None:
    """Log the line of an attempt that took so many seconds; called after each attempt."""
    task = attempt.task
    access.info(
        'task %s: "%s %s" %s %.3f s, attempt %d, user %s',
        task.id,
        task.method,
        shown_url(task.url),
        outcome.status,
        seconds,
        attempt.number,
        _escaped(task.user.id) if task.user else "-",
    )


def shown_url(url: str) -> str:
    """Return a url without secrets, for a log line or a reason: one printable word.

    The names in its query are kept; values, fragment and credentials are dropped.
    """
    if is_plain(url):
        return url
    address, _, query = url.partition("#")[0].partition("?")
    names = "&".join(_VALUE.sub("", field) for field in query.split("&") if field)
    address = _CREDENTIALS.sub(r"\1//", address)
    return _escaped(f"{address}?{names}" if names else address)


def without_queries(text: str) -> str:
    """Return the text of an error without the queries of the urls in it."""
    return _QUERY.sub("?\N{HORIZONTAL ELLIPSIS}", text)


def _escaped(text: str) -> str:
    """Percent-encode characters that would end a word or a line, or look like others."""
    if text.isprintable() and not _BREAK.search(text):
        return text
    return "".join(_escaped_character(c) for c in text)


def _escaped_character(c: str) -> str:
    if c.isprintable() and c not in ' "\\':
        return c
    return quote(c.encode("utf-8", "surrogatepass"), safe="")
