"""Keeps Zope from parsing requests to the services; the services read them themselves.

Zope parses queries and forms before it traverses the path, and interprets them: ``a:int`` is a
number, ``:method`` a part of the path, ``text/xml`` a call. If Zope cannot parse them so, it
answers with a server error, whichever object the request is for.
"""

from __future__ import annotations

from collective.taskqueue.services.service import TaskQueueService
from zope.component import adapter
from ZPublisher.interfaces import IPubAfterTraversal
from ZPublisher.interfaces import IPubStart


#: The path steps that name the services.
NAMES = frozenset({"@tasks", "@taskqueues"})


@adapter(IPubStart)
def leave_unread(event: IPubStart) -> None:
    """Keep Zope from parsing a request to one of the services; called for every request."""
    request = event.request
    path = request.environ.get("PATH_INFO", "")
    # Fast path: for nearly all requests this is the only test.
    if "/@task" in path and not NAMES.isdisjoint(path.split("/")):
        request.environ.setdefault("QUERY_STRING", "")
        # Hides the method of that name, which the publisher calls next. A retry after a
        # conflict is a new request, and comes here, too.
        request.processInputs = _nothing


@adapter(IPubAfterTraversal)
def read_after_all(event: IPubAfterTraversal) -> None:
    """Let Zope parse the request if another object of such a name was published."""
    request = event.request
    if request.__dict__.get("processInputs") is _nothing and not _is_ours(request["PUBLISHED"]):
        del request.processInputs
        request.processInputs()


def _nothing() -> None:
    """Replaces `processInputs`."""


def _is_ours(published: object) -> bool:
    return isinstance(getattr(published, "__self__", published), TaskQueueService)
