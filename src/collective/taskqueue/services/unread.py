"""What is sent to the services is theirs to read, and not Zope's.

Zope reads queries and forms before it looks for who is to answer, and makes more of them than
was written: a number of ``a:int``, a part of the path of ``:method``, a call of ``text/xml``.
What it cannot read so it answers by an error of the server, whoever was meant.
"""

from __future__ import annotations

from collective.taskqueue.services.service import TaskQueueService
from typing import Any
from zope.component import adapter
from ZPublisher.interfaces import IPubAfterTraversal
from ZPublisher.interfaces import IPubStart


#: The services in a path.
NAMES = frozenset({"@tasks", "@taskqueues"})


@adapter(IPubStart)
def leave_unread(event: Any) -> None:
    """Keep Zope from reading what is sent to one of the services; called for every request."""
    request = event.request
    path = request.environ.get("PATH_INFO", "")
    # For nearly all requests no more than this is asked.
    if "/@task" in path and not NAMES.isdisjoint(path.split("/")):
        request.environ.setdefault("QUERY_STRING", "")
        # In front of the method of that name, which the publisher calls next. A retry after a
        # conflict is another request, and comes here, too.
        request.processInputs = _nothing


@adapter(IPubAfterTraversal)
def read_after_all(event: Any) -> None:
    """Let Zope read what was sent to something else that has the same name."""
    request = event.request
    if request.__dict__.get("processInputs") is _nothing and not _is_ours(request["PUBLISHED"]):
        del request.processInputs
        request.processInputs()


def _nothing() -> None:
    """Takes the place of `processInputs`."""


def _is_ours(published: Any) -> bool:
    return isinstance(getattr(published, "__self__", published), TaskQueueService)
