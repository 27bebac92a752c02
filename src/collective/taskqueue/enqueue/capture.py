"""What a task copies from the current request and the current user when it is added."""

from __future__ import annotations

from AccessControl import getSecurityManager
from AccessControl.users import UnrestrictedUser
from Acquisition import aq_get
from Acquisition import aq_inner
from Acquisition import aq_parent
from collections.abc import Mapping
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.text import one_line
from collective.taskqueue.enqueue.credentials import is_author
from collective.taskqueue.enqueue.credentials import is_by_id
from collective.taskqueue.enqueue.credentials import is_plugin_here
from collective.taskqueue.enqueue.credentials import warn_of_a_user_who_stays_out
from collective.taskqueue.enqueue.headers import content_headers
from collective.taskqueue.enqueue.headers import copied_headers
from collective.taskqueue.enqueue.headers import current_body
from collective.taskqueue.enqueue.headers import has_credentials
from collective.taskqueue.enqueue.headers import merged
from collective.taskqueue.enqueue.headers import own_headers
from collective.taskqueue.enqueue.headers import refuse_credentials
from collective.taskqueue.enqueue.hosts import are_same
from collective.taskqueue.enqueue.hosts import server_url
from collective.taskqueue.enqueue.language import current_language
from collective.taskqueue.enqueue.options import check_options
from collective.taskqueue.enqueue.params import Params
from collective.taskqueue.enqueue.params import query_string
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import PayloadTooLarge
from collective.taskqueue.pasplugin.identity import identity_in
from collective.taskqueue.publisher.address import forbidden_step
from collective.taskqueue.publisher.address import is_plain
from collective.taskqueue.publisher.target import missing_step
from collective.taskqueue.publisher.target import target_of
from collective.taskqueue.task import Origin
from collective.taskqueue.task import Task
from collective.taskqueue.webhook.guard import Guard
from collective.taskqueue.webhook.guard import Refused
from functools import lru_cache
from functools import partial
from typing import Any
from urllib.parse import quote
from urllib.parse import unquote
from urllib.parse import unquote_to_bytes
from uuid import uuid4
from zope.component.hooks import getSite
from zope.globalrequest import getRequest
import logging
import re
import time


logger = logging.getLogger("collective.taskqueue")

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")

#: Default of `payload`: the body of the current request.
CURRENT: Any = type("Current", (), {"__repr__": lambda self: "<current>"})()

#: Content type of a body without one: that of a form, so that Zope parses the body.
CONTENT_TYPE = "application/x-www-form-urlencoded"

#: Methods that have a body.
METHODS_WITH_BODY = ("POST", "PUT", "PATCH")

#: Most bytes of a url with its query: servers and proxies accept that, and none should need it.
MAX_URL = 64 * 1024

#: Headers of the connection to the server of a web hook; a caller must not set them.
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
#: The advice that follows when a url is refused.
_CURE = "pass the object, or taskqueue.path(obj), its quoted physical path"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def make_task(
    settings: QueueSettings,
    url: Any,
    method: str | None = None,
    params: Params = None,
    headers: Mapping[str, Any] | None = None,
    payload: bytes | str | None = CURRENT,
    *,
    view: str | None = None,
    **options: Any,
) -> Task:
    """Return the task for these arguments, the current request and the current user.

    Raises `ValueError`, with one sentence, for anything that is wrong; see `taskqueue.add`
    for the arguments. Called by the queue.
    """
    target = target_of(url, view)
    address = _address(target.url)
    is_hook = not address.startswith("/")
    request = _current_request()
    _refuse_url_of_this_site(target.url, request)
    user = current_user()
    person = user and identity_in(*user)
    by_id = bool(user and person and not is_hook and is_by_id(user[0], person))
    describe = _web_hook if is_hook else partial(_zope_request, request, user, by_id)
    fields = describe(settings, address, method, params, headers, payload)
    _check(settings, fields, payload is CURRENT and not is_hook)
    now = time.time()
    checked = check_options(options, settings, now, is_hook)
    task_id = str(uuid4())
    if not is_hook:
        # With an `Accept-Language` header of the caller, the site chooses among its languages.
        chosen = "accept-language" in own_headers(headers)
        fields["origin"] = _origin(task_id, request, not chosen)
        fields |= {"uid": target.uid, "view": target.view}
    task = Task(
        id=task_id,
        queue=settings.queue,
        user=person,
        created=now,
        **fields,
        **checked,
    )
    if not is_hook:
        _warn(task, user, by_id, request)
    return task


def _check(settings: QueueSettings, fields: dict[str, Any], is_current: bool) -> None:
    step = forbidden_step(fields["url"])
    if step is not None:
        raise InvalidTask("url", f"{step!r} would choose the public urls of the task: {_CURE}")
    size = len(fields["url"].encode("utf-8"))
    if size > MAX_URL:
        raise InvalidTask("url", f"the url has {size} bytes with its query, at most {MAX_URL}")
    if len(fields["payload"]) > settings.max_payload:
        limit = f"exceeds max_payload ({settings.max_payload} bytes)"
        if is_current:
            limit = f"{limit}: it is the body of the current request; payload=None leaves it out"
        raise PayloadTooLarge("payload", f"the payload {limit}")


def _warn(task: Task, user: tuple[Any, str] | None, by_id: bool, request: Any) -> None:
    """Log what is known now and would make the task fail later."""
    if not has_credentials(task.headers):
        if user is None:
            _warn_of_a_user_without_id(task.id)
        elif not by_id:
            warn_of_a_user_who_stays_out(task.id, user)
    missing = missing_step(task.url, request)
    if missing is not None:
        place = "/".join(getSite().getPhysicalPath()) if getSite() is not None else "/"
        logger.warning(
            "task %s: there is no %r in the root of Zope, it will not be found; a url is a"
            " physical path, and here that begins with %s",
            task.id,
            missing,
            place,
        )


def _warn_of_a_user_without_id(task_id: str) -> None:
    """Warn that the system or emergency user may do everything, but its tasks may not."""
    user = getSecurityManager().getUser()
    if isinstance(user, UnrestrictedUser):
        logger.warning(
            "task %s: queued by %s, which no task can run as; it will run as Anonymous",
            task_id,
            user.getUserName(),
        )


def _zope_request(
    request: Any,
    user: tuple[Any, str] | None,
    by_id: bool,
    settings: QueueSettings,
    url: str,
    method: Any,
    params: Any,
    headers: Any,
    payload: Any,
) -> dict[str, Any]:
    verb = _method(method, "GET")
    own = own_headers(headers)
    copied = {} if request is None else _copied(settings, request, user, by_id)
    if payload is not CURRENT:
        body = _body(payload)
        copied.setdefault("content-type", ("Content-Type", CONTENT_TYPE))
    elif request is not None and verb in METHODS_WITH_BODY:
        body = current_body(request, settings.max_payload)
        copied |= content_headers(request)
    else:
        # A GET has no body: what the current request posts is not meant for it.
        body = b""
    if by_id:
        refuse_credentials(own)
    return {
        "url": _with_params(url, query_string(params)),
        "method": verb,
        "headers": merged(copied | own, body),
        "payload": body,
    }


def _copied(
    settings: QueueSettings, request: Any, user: tuple[Any, str] | None, by_id: bool
) -> dict[str, tuple[str, str]]:
    # Copy credentials only if the task cannot be authenticated without them, and only those of
    # the current user: an anonymous request may carry an old cookie of another user.
    credentials = not by_id and is_author(request, user)
    harmless = not credentials and (user is not None or is_plugin_here(request))
    return copied_headers(request, harmless, credentials, settings.copy_headers)


def _web_hook(
    settings: QueueSettings, url: str, method: Any, params: Any, headers: Any, payload: Any
) -> dict[str, Any]:
    # The server is remote: send nothing of the current request to it.
    try:
        Guard(settings.allow_hosts.split()).check_url(url)
    except Refused as exc:
        raise InvalidTask("url", str(exc)) from None
    verb = _method(method, "POST")
    body = b"" if payload is CURRENT else _body(payload)
    query = query_string(params)
    if verb == "POST" and payload is CURRENT:
        body, query = query.encode("ascii"), ""
    preset = {"content-type": ("Content-Type", CONTENT_TYPE)}
    own = own_headers(headers)
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
        # Add-ons give a user more roles like this: the same id, in any user folder at hand.
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
    # A request of zope.publisher, as a test may have it, has no data that a task could use.
    return request if hasattr(request, "other") else None


def _address(url: Any) -> str:
    """Return the url as it is queued: absolute without its fragment, or a path from the root."""
    if isinstance(url, str) and is_plain(url):
        return str.__str__(url)
    if not isinstance(url, str) or not url.strip():
        raise InvalidTask("url", "a task needs a url")
    if _CONTROL.search(url):
        raise InvalidTask("url", "control characters are not allowed in the url of a task")
    url = "".join(url.strip())
    path, _, query = url.partition("?")
    try:
        query.encode("utf-8")
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeError:
        raise InvalidTask("url", "the url of a task is no UTF-8 once it is unquoted") from None
    scheme = _SCHEME.match(url)
    if scheme is None:
        return _path(url)
    if scheme[1].lower() not in ("http", "https"):
        raise InvalidTask(
            "url",
            f"{scheme[1]}: urls cannot be queued; a url is a path from the Zope root like"
            " /Plone/view, or http:// or https:// and calls a web hook",
        )
    url = url.partition("#")[0]
    return quote(f"{scheme[1].lower()}{url[scheme.end(1) :]}", safe=_ASCII)


def _path(url: str) -> str:
    if not url.startswith("/"):
        raise InvalidTask(
            "url", f"a url begins with /, as in /Plone/view: {_CURE}, not {one_line(url, 100)!r}"
        )
    if "#" in url:
        raise InvalidTask(
            "url", f"a task has no fragment, and # in an id has to be quoted: {_CURE}"
        )
    return f"/{url.lstrip('/')}"


def _refuse_url_of_this_site(url: str, request: Any) -> None:
    """Refuse an absolute url of this site: it would be called from outside, as no user."""
    url = url.strip()
    if not (url.startswith("//") or _SCHEME.match(url)):
        return
    if request is None:
        # In a script `absolute_url` uses this request: the root is wrapped in its own request.
        request = aq_get(getSite(), "REQUEST", None)
    if not hasattr(request, "other"):
        return
    server = str(request.other.get("SERVER_URL", "")).partition("://")[2]
    if are_same(url, server, str(request.environ.get("HTTP_HOST", "")).strip()):
        raise InvalidTask("url", f"this is a url of this site: {_CURE}")


def _with_params(url: str, more: str) -> str:
    path, _, query = url.partition("?")
    query = "&".join(part for part in (query, more) if part)
    return f"{path}?{query}" if query else path


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


def _origin(task_id: str, request: Any, has_language: bool) -> Origin | None:
    if request is None:
        return None
    url = str(request.other.get("SERVER_URL", ""))
    server = _server_url(url)
    if server is None:
        logger.warning(
            "task %s: the host of the request that queued it cannot be parsed (%a), its urls are"
            " those of a task that is queued without a request",
            task_id,
            one_line(url.rpartition("@")[2], 100),
        )
        return None
    root = request.other.get("VirtualRootPhysicalPath")
    return _made_origin(
        server,
        unquote("".join([f"/{part}" for part in request._script])),
        None if root is None else "/".join(root),
        current_language(request) if has_language else None,
    )


# Cached: computed for each task that is added, and only a few sites are ever involved.
_server_url = lru_cache(maxsize=100)(server_url)
_made_origin = lru_cache(maxsize=100, typed=True)(Origin)
