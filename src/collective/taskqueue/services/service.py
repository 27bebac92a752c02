"""The base of both services: path, method, access, and how a request is refused."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collective.taskqueue.errors import TaskQueueError
from collective.taskqueue.services.access import Access
from collective.taskqueue.services.origin import refuse_other_sites
from collective.taskqueue.services.query import query
from collective.taskqueue.services.refusal import Refusal
from collective.taskqueue.services.refusal import refusal_of
from collective.taskqueue.services.shape import Json
from plone.protect.interfaces import IDisableCSRFProtection
from plone.restapi.services import Service
from Products.CMFCore.interfaces import ISiteRoot
from typing import ClassVar
from zope.interface import alsoProvides
from zope.interface import implementer
from zope.publisher.interfaces import IPublishTraverse
from zope.publisher.interfaces.browser import IBrowserRequest


#: The path after the name of a service; ``*`` is any name or id.
Shape = tuple[str, ...]


@implementer(IPublishTraverse)
class TaskQueueService(Service):
    """Calls the method of the subclass that its `routes` name for path and HTTP method."""

    routes: ClassVar[Mapping[Shape, Mapping[str, str]]] = {}

    def __init__(self, context: ISiteRoot, request: IBrowserRequest) -> None:
        super().__init__(context, request)
        self._names: list[str] = []
        self.access: Access

    def publishTraverse(self, request: IBrowserRequest, name: str) -> TaskQueueService:
        """Append one more name of the path; called by the publisher."""
        self._names.append(name)
        return self

    @property
    def site_url(self) -> str:
        """The url of the site, as the client sees it."""
        url: str = self.context.absolute_url()
        return url

    def fields(self, *known: str) -> dict[str, str]:
        """Return the fields of the query; see `query`.

        Every method of `routes` calls it, even if it knows no field: after access is checked,
        and before anything is changed.
        """
        return query(self.request, known)

    def reply(self) -> Json | None:
        """Answer the request; called by plone.restapi."""
        self.request.response.setHeader("Cache-Control", "no-store")
        self.access = Access(self.context)
        try:
            handler, arguments = self._route()
            if self.request["REQUEST_METHOD"] != "GET":
                refuse_other_sites(self.context, self.request)
                # Like the services of plone.restapi; forms of other sites were refused above.
                alsoProvides(self.request, IDisableCSRFProtection)
            return handler(*arguments)
        except Refusal as refusal:
            return refusal.answer(self.request.response)
        except TaskQueueError as exc:
            found = refusal_of(exc)
            if found is None:
                raise
            return found.answer(self.request.response)

    def _route(self) -> tuple[Callable[..., Json | None], list[str]]:
        for shape, methods in self.routes.items():
            arguments = _matched(shape, self._names)
            if arguments is not None:
                name = methods.get(self.request["REQUEST_METHOD"])
                if name is None:
                    allowed = ", ".join(sorted(methods))
                    raise Refusal(405, f"This takes {allowed} only.", Allow=allowed)
                return getattr(self, name), arguments
        raise Refusal(404, "There is nothing at this path.")


def _matched(shape: Shape, names: list[str]) -> list[str] | None:
    if len(shape) != len(names):
        return None
    pairs = list(zip(shape, names, strict=True))
    if any(part not in ("*", name) for part, name in pairs):
        return None
    return [name for part, name in pairs if part == "*"]
