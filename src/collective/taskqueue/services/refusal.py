"""How a request is refused: by a status, and by plone.restapi's JSON with the reason."""

from __future__ import annotations

from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import PayloadTooLarge
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.errors import UnknownTask
from plone.rest.interfaces import IAPIRequest
from plone.rest.interfaces import ICORSPolicy
from Products.Five.browser import BrowserView
from zope.component import adapter
from zope.component import queryMultiAdapter
from zope.publisher.interfaces.http import IHTTPResponse
import json


#: Seconds after which a client may ask an unavailable storage again.
RETRY_AFTER = 5

#: Headers that describe the answer of the view; a 503 instead of that answer has none of them.
OUTDATED = (
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "etag",
    "expires",
    "last-modified",
    "location",
)

_TYPES = {
    400: "BadRequest",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "PayloadTooLarge",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


class Refusal(Exception):
    """The request is answered with a status of 4xx; nothing was changed."""

    def __init__(self, status: int, message: str, field: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.headers = headers

    def answer(self, response: IHTTPResponse) -> dict[str, dict[str, str]]:
        """Set status and headers; return the body."""
        response.setStatus(self.status)
        for name, value in self.headers.items():
            response.setHeader(name, value)
        error = {"type": _TYPES[self.status], "message": str(self)}
        return {"error": error if self.field is None else {**error, "field": self.field}}


def refusal_of(error: TaskQueueError) -> Refusal | None:
    """Return how an error of the task queue is answered; None if it is no fault of the client."""
    if isinstance(error, PayloadTooLarge):
        return Refusal(413, str(error), error.field)
    if isinstance(error, InvalidTask):
        return Refusal(400, str(error), error.field)
    if isinstance(error, UnknownTask):
        return unknown_task()
    if isinstance(error, UnknownQueue):
        return Refusal(404, str(error))
    if isinstance(error, ForbiddenTransition):
        return Refusal(409, str(error))
    return None


def unknown_task() -> Refusal:
    """Return the refusal for a task that does not exist, or that the client may not see.

    Both look alike, down to the last byte.
    """
    return Refusal(404, "There is no such task.")


@adapter(StorageUnavailable, IAPIRequest)
class StorageUnavailableView(BrowserView):
    """Answers 503, also if the storage became unavailable as late as in the commit."""

    def __call__(self) -> str:
        policy = queryMultiAdapter((self.context, self.request), ICORSPolicy)
        if policy is not None:
            policy.process_simple_request()
        response = self.request.response
        begin_anew(response)
        refusal = Refusal(503, "The storage of the queue does not answer, try again later.")
        body = refusal.answer(response)
        response.setHeader("Content-Type", "application/json")
        return json.dumps(body, indent=2, sort_keys=True)


def begin_anew(response: IHTTPResponse) -> None:
    """Turn a response into a 503 that says when to retry, and drop what the view has set.

    Called for a request whose storage is unavailable: then the answer of the view does not
    hold, be it a service, a page or a file.
    """
    for name in OUTDATED:
        response.headers.pop(name, None)
    # A redirect may have locked status and body; what the redirect reports was not committed.
    response._locked_status = response._locked_body = 0
    response.setStatus(503, lock=1)
    response.setHeader("Retry-After", str(RETRY_AFTER))
    response.setHeader("Cache-Control", "no-store")
