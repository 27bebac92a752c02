"""What a task copies from the current request and the current user when it is added."""

from __future__ import annotations

from AccessControl import getSecurityManager
from AccessControl.users import UnrestrictedUser
from Acquisition import aq_get
from collections.abc import Mapping
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.consumer.text import one_line
from collective.taskqueue.enqueue.author import Author
from collective.taskqueue.enqueue.author import current_author
from collective.taskqueue.enqueue.credentials import warn_of_a_user_who_stays_out
from collective.taskqueue.enqueue.fields import FIELDS
from collective.taskqueue.enqueue.headers import content_headers
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
import logging
import re
import time


logger = logging.getLogger("collective.taskqueue")

METHODS = FIELDS["method"].choices

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
    author = current_author()
    request = author.request
    _refuse_url_of_this_site(target.url, request)
    describe = _web_hook if is_hook else partial(_zope_request, author)
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
        user=author.person,
        created=now,
        **fields,
        **checked,
    )
    if not is_hook:
        _warn(task, author)
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


def _warn(task: Task, author: Author) -> None:
    """Log what is known now and would make the task fail later."""
    if not author.by_id and not has_credentials(task.headers):
        if author.user is None:
            _warn_of_a_user_without_id(task.id)
        else:
            warn_of_a_user_who_stays_out(task.id, author.user)
    missing = missing_step(task.url, author.request)
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
    author: Author,
    settings: QueueSettings,
    url: str,
    method: Any,
    params: Any,
    headers: Any,
    payload: Any,
) -> dict[str, Any]:
    verb = _method(method, "GET")
    own = own_headers(headers)
    request = author.request
    if payload is CURRENT and not own and verb not in METHODS_WITH_BODY:
        alone = author.headers_alone(settings.copy_headers)
        url = _with_params(url, query_string(params))
        return {"url": url, "method": verb, "headers": alone, "payload": b""}
    copied = author.headers(settings.copy_headers)
    if payload is not CURRENT:
        body = _body(payload)
        copied.setdefault("content-type", ("Content-Type", CONTENT_TYPE))
    elif request is not None and verb in METHODS_WITH_BODY:
        body = current_body(request, settings.max_payload)
        copied |= content_headers(request)
    else:
        # A GET has no body: what the current request posts is not meant for it.
        body = b""
    if author.by_id:
        refuse_credentials(own)
    return {
        "url": _with_params(url, query_string(params)),
        "method": verb,
        "headers": merged(copied | own, body),
        "payload": body,
    }


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
    root = request.other.get("VirtualRootPhysicalPath")
    language = current_language(request) if has_language else None
    origin = _made_origin(url, tuple(request._script), root and tuple(root), language)
    if origin is None:
        logger.warning(
            "task %s: the host of the request that queued it cannot be parsed (%a), its urls are"
            " those of a task that is queued without a request",
            task_id,
            one_line(url.rpartition("@")[2], 100),
        )
    return origin


# Cached: computed for each task that is added, and only a few sites are ever involved.
@lru_cache(maxsize=100, typed=True)
def _made_origin(
    url: str, script: tuple[str, ...], root: tuple[str, ...] | None, language: str | None
) -> Origin | None:
    server = server_url(url)
    if server is None:
        return None
    prefix = unquote("".join([f"/{part}" for part in script]))
    return Origin(server, prefix, None if root is None else "/".join(root), language)
