"""What a task takes along from the request and the user that queue it."""

from __future__ import annotations

from AccessControl import getSecurityManager
from AccessControl.users import UnrestrictedUser
from Acquisition import aq_inner
from Acquisition import aq_parent
from collections.abc import Iterable
from collections.abc import Mapping
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import PayloadTooLarge
from collective.taskqueue.guard import Guard
from collective.taskqueue.guard import Refused
from collective.taskqueue.headers import content_headers
from collective.taskqueue.headers import copied_headers
from collective.taskqueue.headers import current_body
from collective.taskqueue.headers import has_credentials
from collective.taskqueue.headers import merged
from collective.taskqueue.headers import own_headers
from collective.taskqueue.headers import refuse_credentials
from collective.taskqueue.identity import identity_in
from collective.taskqueue.options import check_options
from collective.taskqueue.pasplugin.plugin import is_active
from collective.taskqueue.task import Origin
from collective.taskqueue.task import Task
from typing import Any
from urllib.parse import quote
from urllib.parse import unquote
from urllib.parse import unquote_to_bytes
from urllib.parse import urlencode
from uuid import uuid4
from zope.globalrequest import getRequest
import logging
import re
import time


logger = logging.getLogger("collective.taskqueue")

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")

#: Default of `payload`: the body of the current request.
CURRENT: Any = type("Current", (), {"__repr__": lambda self: "<current>"})()

#: Type of a body that comes without one: what a form posts, so that Zope parses it.
CONTENT_TYPE = "application/x-www-form-urlencoded"

#: Name of Plone's language cookie.
LANGUAGE_COOKIE = "I18N_LANGUAGE"


#: What is between us and the server of a web hook, and for nobody else to say.
CONNECTION = (
    "connection",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ASCII = "".join(map(chr, range(33, 127)))
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def make_task(
    settings: QueueSettings,
    url: str,
    method: str | None = None,
    params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    headers: Mapping[str, Any] | None = None,
    payload: bytes | str | None = CURRENT,
    **options: Any,
) -> Task:
    """Return the task that these arguments, the current request and user describe.

    Raises `ValueError`, in one sentence, for anything that is wrong; see `taskqueue.add`
    for the arguments. Called by the queue.
    """
    address = _address(url)
    if address.startswith("/"):
        fields = _zope_request(settings, address, method, params, headers, payload)
    else:
        fields = _web_hook(settings, address, method, params, headers, payload)
    if len(fields["payload"]) > settings.max_payload:
        limit = f"exceeds max_payload ({settings.max_payload} bytes)"
        if payload is CURRENT and "origin" in fields:
            limit = f"{limit}: it is the body of the current request; payload=None leaves it out"
        raise PayloadTooLarge("payload", f"the payload {limit}")
    now = time.time()
    user = current_user()
    task_id = str(uuid4())
    if "origin" in fields and user is None:
        _warn_of_a_user_without_id(task_id, fields["headers"])
    return Task(
        id=task_id,
        queue=settings.queue,
        user=user and identity_in(*user),
        created=now,
        **fields,
        **check_options(options, settings, now, "origin" not in fields),
    )


def _warn_of_a_user_without_id(task_id: str, headers: tuple[tuple[str, str], ...]) -> None:
    """The system and the emergency user may do everything, and what they queue may not."""
    user = getSecurityManager().getUser()
    if not isinstance(user, UnrestrictedUser) or has_credentials(headers):
        return
    name = user.getUserName()
    logger.warning(
        "task %s: queued by %s, which no task can run as; it will run as Anonymous", task_id, name
    )


def _zope_request(
    settings: QueueSettings, url: str, method: Any, params: Any, headers: Any, payload: Any
) -> dict[str, Any]:
    request = _current_request()
    user = current_user()
    # Credentials are copied only if the task cannot be authenticated without, and only
    # those of the person who asks: an anonymous request may carry somebody's old cookie.
    by_id = user is not None and is_active(user[0])
    own = own_headers(headers or {})
    copied = {} if request is None else copied_headers(request, user is not None and not by_id)
    if payload is CURRENT:
        body = b"" if request is None else current_body(request, settings.max_payload)
        if body:
            copied |= content_headers(request)
    else:
        body = _body(payload)
        copied.setdefault("content-type", ("Content-Type", CONTENT_TYPE))
    if by_id:
        refuse_credentials(own)
    return {
        "url": _with_params(url, _query(params)),
        "method": _method(method, "GET"),
        "headers": merged(copied | own, body),
        "payload": body,
        "origin": None if request is None else _origin(request),
    }


def _web_hook(
    settings: QueueSettings, url: str, method: Any, params: Any, headers: Any, payload: Any
) -> dict[str, Any]:
    # Nothing of the current request is anybody else's business.
    try:
        Guard(settings.allow_hosts.split()).check_url(url)
    except Refused as exc:
        raise InvalidTask("url", str(exc)) from None
    verb = _method(method, "POST")
    body = b"" if payload is CURRENT else _body(payload)
    query = _query(params)
    if verb == "POST" and payload is CURRENT:
        body, query = query.encode("ascii"), ""
    preset = {"content-type": ("Content-Type", CONTENT_TYPE)}
    own = own_headers(headers or {})
    for name in CONNECTION:
        if name in own:
            raise InvalidTask("headers", f"header {own[name][0]} is not for a web hook to carry")
    return {
        "url": _with_params(url, query),
        "method": verb,
        "headers": merged(preset | own, body),
        "payload": body,
    }


def current_user() -> tuple[Any, str] | None:
    """Return the user folder and the id of the current user; None for Anonymous and the system."""
    user = getSecurityManager().getUser()
    user_id = user.getId()
    if user_id is None:
        return None
    if isinstance(user, UnrestrictedUser):
        # How add-ons give a person more roles: with their id, and in any user folder at hand.
        person = _authenticated_user()
        user = person if person is not None and person.getId() == user_id else user
    folder = aq_parent(aq_inner(user))
    if folder is None or not hasattr(folder, "getPhysicalPath"):
        raise ValueError(f"user {user_id!r} comes without a user folder, no task can find it again")
    return folder, user_id


def _authenticated_user() -> Any:
    request = _current_request()
    return None if request is None else request.other.get("AUTHENTICATED_USER")


def _current_request() -> Any:
    request = getRequest()
    # One of zope.publisher, as a test may have it, has nothing that would mean anything here.
    return request if hasattr(request, "other") else None


def _address(url: str) -> str:
    """The url without its fragment: absolute, or a path from the root of Zope."""
    if not isinstance(url, str) or not url.strip():
        raise InvalidTask("url", "a task needs a url")
    if _CONTROL.search(url):
        raise InvalidTask("url", "control characters are not allowed in the url of a task")
    url = url.strip().partition("#")[0]
    path, _, query = url.partition("?")
    try:
        query.encode("utf-8")
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeError:
        raise InvalidTask("url", "the url of a task is no UTF-8 once it is unquoted") from None
    scheme = _SCHEME.match(url)
    if scheme is None:
        return f"/{url.lstrip('/')}"
    if scheme[1].lower() not in ("http", "https"):
        raise InvalidTask(
            "url",
            f"{scheme[1]}: urls cannot be queued; a url is a path from the Zope root like"
            " /Plone/view, or http:// or https:// and calls a web hook",
        )
    return quote(f"{scheme[1].lower()}{url[scheme.end(1) :]}", safe=_ASCII)


def _query(params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> str:
    try:
        return urlencode(list(_pairs(params)), doseq=True)
    except (TypeError, ValueError) as exc:
        raise InvalidTask("params", f"params cannot be made a query string: {exc}") from None


def _with_params(url: str, more: str) -> str:
    path, _, query = url.partition("?")
    query = "&".join(part for part in (query, more) if part)
    return f"{path}?{query}" if query else path


def _pairs(
    params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None,
) -> Iterable[tuple[str, Any]]:
    if not params:
        return ()
    return params.items() if isinstance(params, Mapping) else params


def _method(method: str | None, default: str) -> str:
    if method is None:
        return default
    verb = method.upper() if isinstance(method, str) else method
    if verb not in METHODS:
        raise InvalidTask("method", f"method must be one of {', '.join(METHODS)}, not {method!r}")
    return verb


def _body(payload: Any) -> bytes:
    if payload is None:
        return b""
    if isinstance(payload, str):
        try:
            return payload.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise InvalidTask("payload", f"the payload cannot be encoded: {exc}") from None
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    kind = type(payload).__name__
    raise InvalidTask("payload", f"the payload is bytes, text or None, not {kind}")


def _origin(request: Any) -> Origin:
    root = request.other.get("VirtualRootPhysicalPath")
    language = request.cookies.get(LANGUAGE_COOKIE)
    return Origin(
        server_url=request.other["SERVER_URL"],
        script=unquote("".join(f"/{part}" for part in request._script)),
        root=None if root is None else "/".join(root),
        language=language if isinstance(language, str) else None,
    )
