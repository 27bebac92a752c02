"""Headers and body of a task: copied from the current request, or given by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.errors import InvalidTask
from functools import lru_cache
from typing import IO
from wsgiref.types import WSGIEnvironment
from zope.publisher.interfaces.browser import IBrowserRequest
import re


#: Headers that are copied if the task is authenticated by id: none of them can be a secret.
HARMLESS = ("accept-language", "traceparent", "x-request-id")

#: Headers that are not copied even if the headers have to authenticate the task: they describe
#: the connection, cache, browser or proxies of the current request, and not its author. Lower
#: case; a name that ends in * is a prefix.
NOT_COPIED = (
    "accept",
    "accept-encoding",
    "forwarded",
    "sec-*",
    "task-passthrough-*",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-forwarded-*",
    "x-real-ip",
    "x-requested-with",
)
#: Headers that are never copied, even if `copy_headers` names them: wrong for any task.
NEVER_COPIED = (
    "connection",
    "content-*",
    "expect",
    "host",
    "if-*",
    "keep-alive",
    "proxy-*",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-http-method-override",
    "x-task-*",
)
#: Headers that authenticate; Zope takes the second one for the first.
CREDENTIALS = ("authorization", "cgi-authorization", "cookie")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_COPIED_IN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# A tab is allowed; a lone surrogate cannot be encoded.
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_BODY_HEADERS = ("content-type", "content-length", "content-encoding")


def copied_headers(
    request: IBrowserRequest, by_id: bool, credentials: bool, named: tuple[str, ...] = ()
) -> dict[str, tuple[str, str]]:
    """Return the headers of the current request that a task copies, by lower case name.

    :param by_id: the task is authenticated by id: copy only the harmless headers, and those in
        `named`, the `copy_headers` of its queue.
    :param credentials: also copy the headers that authenticate the author of the request.

    Headers that no browser should have sent are left out; nothing is raised.
    """
    without = () if credentials else CREDENTIALS
    allowed = (*HARMLESS, *named) if by_id else ("*",)
    copied = {}
    for key, value in environ_of(request).items():
        if not key.startswith("HTTP_") or not isinstance(value, str):
            continue
        name = _copied_as(key, allowed, without)
        if name is None:
            continue
        # These are bytes as latin-1: a no-break space may be the end of another character.
        text = value.strip(" \t")
        if text.strip() and not _NOT_COPIED_IN.search(text):
            copied[name] = (name.title(), text)
    return copied


# Cached: called for each task that is added, with the same few names.
@lru_cache(maxsize=1000)
def _copied_as(key: str, allowed: tuple[str, ...], without: tuple[str, ...]) -> str | None:
    """Return the lower case name of a header by its key in the environment; None to omit it."""
    name = _key(key[5:])
    copied = name not in without and _is_copied(name, allowed) and _TOKEN.fullmatch(name)
    return name if copied else None


def _is_copied(name: str, allowed: tuple[str, ...]) -> bool:
    if _is_among(name, NEVER_COPIED):
        return False
    if _is_among(name, tuple(item for item in allowed if item != "*")):
        return True
    return "*" in allowed and not _is_among(name, NOT_COPIED)


def _is_among(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        name.startswith(item[:-1]) if item.endswith("*") else name == item for item in patterns
    )


def own_headers(headers: Mapping[str, object] | None) -> dict[str, tuple[str, str]]:
    """Return the headers that the caller gives, by lower case name; raises `InvalidTask`."""
    own: dict[str, tuple[str, str]] = {}
    if not headers:
        return own
    if not isinstance(headers, Mapping):
        raise InvalidTask("headers", f"headers are a mapping of names and values, not {headers!r}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise InvalidTask("headers", f"{name!r} is not the name of a header")
        if not isinstance(value, (str, bool, int, float)):
            raise InvalidTask("headers", f"header {name} is no text, number or boolean")
        text = str(value).lower() if isinstance(value, bool) else str(value).strip()
        if _NOT_IN_HEADERS.search(text):
            raise InvalidTask("headers", f"control characters are not allowed in header {name}")
        key = _key(name)
        if text and not key.startswith("x-task-") and key != "content-length":
            own[key] = (name, text)
        else:
            own.pop(key, None)
    return own


def refuse_credentials(own: Mapping[str, tuple[str, str]]) -> None:
    """Raise `InvalidTask` if there are credentials: the task does not need them."""
    for name in CREDENTIALS:
        if name in own:
            raise InvalidTask(
                "headers",
                f"header {own[name][0]} would lie in the queue; the task is authenticated by id",
            )


def has_credentials(headers: tuple[tuple[str, str], ...]) -> bool:
    """Return whether one of a task's headers carries credentials."""
    return any(_key(name) in CREDENTIALS for name, _ in headers)


def merged(headers: dict[str, tuple[str, str]], body: bytes) -> tuple[tuple[str, str], ...]:
    """Return the headers as a task has them; those about its body only if there is one."""
    left_out = () if body else _BODY_HEADERS
    return tuple(sorted(pair for name, pair in headers.items() if name not in left_out))


def _key(name: str) -> str:
    # WSGI does not distinguish an underscore from a dash.
    return name.lower().replace("_", "-")


def content_headers(request: IBrowserRequest) -> dict[str, tuple[str, str]]:
    """Return type and encoding of the body of the current request, by lower case name."""
    environ = environ_of(request)
    names = ("Content-Type", "Content-Encoding")
    values = {
        name: environ.get(key) or environ.get(f"HTTP_{key}")
        for name in names
        for key in (name.upper().replace("-", "_"),)
    }
    return {
        _key(name): (name, value)
        for name, value in values.items()
        if value and not _NOT_COPIED_IN.search(value)
    }


def current_body(request: IBrowserRequest, limit: int) -> bytes:
    """Return the body of the current request, up to one byte more than `limit`.

    The position of its stream is left as it was.

    Without a length the body is empty: reading on would wait for a client that sends nothing.
    """
    stream = request.stdin
    try:
        length = int(environ_of(request).get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    if length <= 0 or not _seekable(stream):
        return b""
    # Zope itself only uses `read` and `seek` of a stream, so nothing else is required here.
    position = stream.tell() if hasattr(stream, "tell") else 0
    stream.seek(0)
    body: bytes = stream.read(limit + 1)
    stream.seek(position)
    return body


def _seekable(stream: IO[bytes]) -> bool:
    if hasattr(stream, "seekable"):
        return bool(stream.seekable())
    return hasattr(stream, "seek")


def environ_of(request: IBrowserRequest) -> WSGIEnvironment:
    """Return the WSGI environment of a request, as the server has made it."""
    # Zope removes the Authorization header from `environ`. Looked up in `__dict__`, because a
    # request looks up unknown attributes in its form.
    environ: WSGIEnvironment = request.__dict__.get("_orig_env", request.environ)
    return environ
