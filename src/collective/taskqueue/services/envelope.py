"""The description of a task by a client: parsed, checked, and returned as arguments of `add`."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from collections.abc import Mapping
from collective.taskqueue.enqueue.fields import FIELDS
from collective.taskqueue.enqueue.fields import Kind
from collective.taskqueue.enqueue.fields import MAX_HOOK_TIMEOUT
from collective.taskqueue.enqueue.fields import STRUCTURED
from collective.taskqueue.enqueue.headers import content_headers
from collective.taskqueue.enqueue.headers import current_body
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import PayloadTooLarge
from collective.taskqueue.services.keys import own_key
from collective.taskqueue.services.query import query
from collective.taskqueue.services.query import unknown_field
from collective.taskqueue.task import Identity
from datetime import datetime
from typing import Any
from typing import TypeVar
from zope.publisher.interfaces.browser import IBrowserRequest
import json
import math
import re


#: Bytes of a request besides its payload, and the factor by which JSON may lengthen a payload.
ENVELOPE = 256 * 1024
ESCAPED = 6

#: Prefix of the request headers that become headers of the task.
PASSTHROUGH = "HTTP_TASK_PASSTHROUGH_"

#: Headers that a client may not set: they belong to a connection that the client does not make.
REFUSED = ("content-length", "host", "transfer-encoding")

#: The only headers that a client may set for a view of this Zope. A server in front of Zope may
#: authenticate users by other headers, and remove those from requests that come from outside.
OF_VIEWS = (
    "accept",
    "accept-language",
    "content-encoding",
    "content-language",
    "content-type",
    "prefer",
)

#: Fields of the envelope, and those of the query if the body of the request is that of the task.
IN_JSON = {name: field.kind for name, field in FIELDS.items() if field.client}
IN_QUERY = {name: kind for name, kind in IN_JSON.items() if kind not in STRUCTURED}

_NUMBERS: dict[Kind, type[float]] = {"seconds": float, "integer": int}

#: Arguments of `add`, not checked yet.
Arguments = dict[str, Any]

T = TypeVar("T")

# ASCII: otherwise the long s of Unicode would match, too.
_HOOK = re.compile(r"https?:", re.IGNORECASE | re.ASCII)


def read(request: IBrowserRequest, max_payload: int, user: Identity | None) -> Arguments:
    """Return the arguments of `taskqueue.add` that a request has.

    `max_payload` is the largest one of all queues, in bytes. Raises `InvalidTask` with
    the name of the field, and `PayloadTooLarge`. Called by the service that adds tasks.
    """
    fields = query(request, IN_QUERY)
    if "url" in fields:
        arguments = _from_query(fields) | _raw(request, max_payload)
    elif fields:
        lost = min(fields)
        raise InvalidTask(lost, f"{lost} is in the query, and the url is not")
    else:
        arguments = _from_json(_envelope(request, max_payload))
    if not isinstance(arguments.get("url"), str):
        raise InvalidTask("url", "a task needs a url")
    if len(arguments["url"]) > FIELDS["url"].longest:
        raise InvalidTask("url", f"the url has more than {FIELDS['url'].longest} characters")
    if _is_hook(arguments) and arguments.get("timeout", 0) > MAX_HOOK_TIMEOUT:
        raise InvalidTask("timeout", f"a web hook has at most {MAX_HOOK_TIMEOUT} seconds")
    _check_headers(arguments.get("headers", {}), _is_hook(arguments))
    if "key" in arguments:
        arguments["key"] = own_key(user, arguments["key"])
    return arguments


def is_hook(url: str) -> bool:
    """Return whether `add` makes a web hook of this url, however it is spelled."""
    return _HOOK.match(url.strip()) is not None


def _from_query(fields: Mapping[str, str]) -> Arguments:
    arguments: Arguments = {}
    for name, value in fields.items():
        number = _NUMBERS.get(IN_QUERY[name])
        if number is None:
            arguments[name] = _READERS[IN_QUERY[name]](name, value)
            continue
        try:
            arguments[name] = number(value)
        except ValueError:
            raise InvalidTask(name, f"{name} is a number, not {value!r}") from None
    return arguments


def _raw(request: IBrowserRequest, max_payload: int) -> Arguments:
    """Return the body and its type, and the headers that are to be passed through."""
    headers = {}
    for name, value in request.environ.items():
        if name.startswith(PASSTHROUGH) and isinstance(value, str):
            title = name.removeprefix(PASSTHROUGH).replace("_", "-").title()
            if title.startswith("Content-"):
                raise InvalidTask("headers", f"{title} is that of the request itself")
            headers[title] = _text(value)
    headers |= {name: _text(value) for name, value in content_headers(request).values()}
    return {"payload": _body(request, max_payload) or None, "headers": headers}


def _text(value: str) -> str:
    # WSGI decodes the bytes of a header as Latin-1.
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _body(request: IBrowserRequest, limit: int) -> bytes:
    body = current_body(request, limit)
    if len(body) > limit:
        raise PayloadTooLarge("payload", f"the body has more than {limit} bytes")
    return body


def _envelope(request: IBrowserRequest, max_payload: int) -> Arguments:
    body = _body(request, max_payload * ESCAPED + ENVELOPE)
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise InvalidTask("body", "the body is no JSON") from None
    if not isinstance(found, dict):
        raise InvalidTask("body", "the body is no JSON object")
    return found


def _from_json(envelope: Mapping[str, object]) -> Arguments:
    arguments: Arguments = {}
    for name, value in envelope.items():
        if name not in IN_JSON:
            raise unknown_field(name, IN_JSON)
        if value is not None:
            arguments[name] = _READERS[IN_JSON[name]](name, value)
    if "payload_base64" in arguments:
        if "payload" in arguments:
            raise InvalidTask("payload_base64", "payload and payload_base64 exclude each other")
        arguments["payload"] = arguments.pop("payload_base64")
    if isinstance(envelope.get("payload"), (dict, list)):
        headers = arguments.setdefault("headers", {})
        if "content-type" not in {name.lower() for name in headers}:
            headers["Content-Type"] = "application/json"
    if "payload" not in arguments and not _is_hook(arguments):
        # The body of this request is not meant for a view; that of a web hook is its params.
        arguments["payload"] = None
    return arguments


def _is_hook(arguments: Mapping[str, object]) -> bool:
    return is_hook(str(arguments.get("url", "")))


def _as_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidTask(name, f"{name} is a text")
    return value


def _as_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTask(name, f"{name} is a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidTask(name, f"{name} is a finite number")
    return value


def _as_object(name: str, value: object) -> Arguments:
    if not isinstance(value, dict):
        raise InvalidTask(name, f"{name} is an object of names and values")
    return value


def _moment(name: str, value: object) -> datetime:
    try:
        return datetime.fromisoformat(_as_text(name, value))
    except ValueError:
        raise InvalidTask(name, f"{name} is a moment in ISO 8601, with its time zone") from None


def _params(name: str, value: object) -> Arguments:
    found = {
        key: [_param(item) for item in each] if isinstance(each, list) else _param(each)
        for key, each in _as_object(name, value).items()
    }
    _check_length(name, found)
    return found


def _param(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int, float)):
        raise InvalidTask("params", "params are texts, numbers, booleans, or lists of them")
    return str(_finite("params", value))


def _headers(name: str, value: object) -> Arguments:
    return {header: _finite(name, each) for header, each in _as_object(name, value).items()}


def _finite(name: str, value: T) -> T:
    # Python reads NaN, Infinity and 1e999, which are not valid in JSON.
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidTask(name, f"{name} have a number that is none")
    return value


def _check_headers(headers: Mapping[str, object], is_hook: bool) -> None:
    for name in headers:
        key = name.lower().replace("_", "-")
        if key in REFUSED or not (is_hook or key in OF_VIEWS):
            raise InvalidTask("headers", f"header {name} cannot be set")
    _check_length("headers", headers)


def _check_length(name: str, entries: Mapping[str, object]) -> None:
    longest = FIELDS[name].longest
    if sum(len(key) + len(str(value)) for key, value in entries.items()) > longest:
        raise InvalidTask(name, f"{name} have more than {longest} characters")


def _payload(name: str, value: object) -> str:
    if isinstance(value, (dict, list)):
        try:
            return json.dumps(value, allow_nan=False)
        except (ValueError, RecursionError):
            # As in `_finite`: no receiver could parse it.
            raise InvalidTask(name, f"{name} is no JSON") from None
    return _as_text(name, value)


def _payload_base64(name: str, value: object) -> bytes:
    try:
        return b64decode(_as_text(name, value), validate=True)
    except ValueError as exc:
        raise InvalidTask(name, f"{name} is no base64: {exc}") from None


_READERS: dict[Kind, Callable[[str, object], object]] = {
    **dict.fromkeys(("text", "choice", "key", "label"), _as_text),
    **dict.fromkeys(("seconds", "integer"), _as_number),
    "moment": _moment,
    "params": _params,
    "headers": _headers,
    "body": _payload,
    "base64": _payload_base64,
}
