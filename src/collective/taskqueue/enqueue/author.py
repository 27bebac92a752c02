"""Who queues tasks, and from where: captured once per request, user and transaction.

A transaction may add thousands of tasks. What they all copy from the request and the user takes
longer to look up than all the rest, so the transaction keeps it. Each `add` compares what it was
made from, and looks anew if any of it has changed.
"""

from __future__ import annotations

from AccessControl import getSecurityManager
from AccessControl.users import UnrestrictedUser
from Acquisition import aq_base
from Acquisition import aq_inner
from Acquisition import aq_parent
from collective.taskqueue.enqueue.credentials import folder_here
from collective.taskqueue.enqueue.credentials import is_author
from collective.taskqueue.enqueue.credentials import is_by_id
from collective.taskqueue.enqueue.credentials import is_plugin_here
from collective.taskqueue.enqueue.headers import copied_headers
from collective.taskqueue.enqueue.headers import environ_of
from collective.taskqueue.enqueue.headers import merged
from collective.taskqueue.pasplugin.identity import generation_in
from collective.taskqueue.pasplugin.identity import identity_in
from collective.taskqueue.pasplugin.plugin import active_ids
from contextlib import suppress
from functools import cached_property
from transaction.interfaces import NoTransaction
from typing import Any
from zope.component.hooks import getSite
from zope.globalrequest import getRequest
import transaction


class Author:
    """The current user and what tasks copy from the current request.

    `request` is None in a script; `user` is the user folder and the id, None for Anonymous and
    the system; `person` is the identity that goes with it.
    """

    def __init__(self, request: Any) -> None:
        self.request = request
        self.user = _user_of(request)
        self.person = None if self.user is None else identity_in(*self.user)
        self._made_from = self._sources(request)
        self._environ = None if request is None else dict(environ_of(request))
        self._copied: dict[tuple[str, ...], dict[str, tuple[str, str]]] = {}
        self._alone: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {}

    def is_current(self, request: Any) -> bool:
        """Return whether all that this was made from is as it was."""
        now, before = self._sources(request), self._made_from
        return (
            request is self.request
            and now == before
            # Wrappers of one user in two user folders are equal, but another task follows from
            # each. Unrolled, because this is called for each task.
            and (now[0] is before[0] and now[1] is before[1] and now[2] is before[2])
            and (request is None or self._environ == environ_of(request))
        )

    def _sources(self, request: Any) -> tuple[Any, ...]:
        """Return what differs when the author is another one, in a form that is never changed.

        The first three may be wrappers: compare them by identity, too.
        """
        author = None if request is None else request.other.get("AUTHENTICATED_USER")
        objects = getSecurityManager().getUser(), author, getSite()
        if self.user is None:
            return *objects, *active_ids(folder_here(request))
        folder, user_id = self.user
        # The name of the site, the plugins that are active, and the generation of the user id.
        parent = getattr(aq_base(aq_parent(folder)), "id", None)
        return *objects, parent, *active_ids(folder), generation_in(folder, user_id)

    @cached_property
    def by_id(self) -> bool:
        """Whether the plugin authenticates the tasks of this user by id."""
        return bool(self.user and self.person and is_by_id(self.user[0], self.person))

    def headers(self, named: tuple[str, ...]) -> dict[str, tuple[str, str]]:
        """Return the headers that a task copies, by lower case name; `named` as for its queue."""
        if self.request is None:
            return {}
        if named not in self._copied:
            # Copy credentials only if the task cannot be authenticated without them, and only
            # those of the current user: an anonymous request may carry an old cookie of another.
            credentials = not self.by_id and is_author(self.request, self.user)
            harmless = not credentials and (self.user is not None or is_plugin_here(self.request))
            self._copied[named] = copied_headers(self.request, harmless, credentials, named)
        return dict(self._copied[named])

    def headers_alone(self, named: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Return the headers of a task that has no headers of its own and no body."""
        if named not in self._alone:
            self._alone[named] = merged(self.headers(named), b"")
        return self._alone[named]


def current_author() -> Author:
    """Return what the tasks of the current request, user and transaction have in common."""
    request = _current_request()
    try:
        current = transaction.get()
    except NoTransaction:
        # In explicit mode there is none before `begin`; the task cannot join one either.
        return Author(request)
    with suppress(KeyError):
        known: Author = current.data(Author)
        if known.is_current(request):
            return known
    author = Author(request)
    current.set_data(Author, author)
    return author


def current_user() -> tuple[Any, str] | None:
    """Return the user folder and the id of the current user; None for Anonymous and the system."""
    return _user_of(_current_request())


def _user_of(request: Any) -> tuple[Any, str] | None:
    user = getSecurityManager().getUser()
    user_id = user.getId()
    if user_id is None:
        return None
    if isinstance(user, UnrestrictedUser):
        # Add-ons give a user more roles like this: the same id, in any user folder at hand.
        person = None if request is None else request.other.get("AUTHENTICATED_USER")
        user = person if person is not None and person.getId() == user_id else user
    folder = aq_parent(aq_inner(user))
    if folder is None or not hasattr(folder, "getPhysicalPath"):
        raise ValueError(f"user {user_id!r} comes without a user folder, no task can find it again")
    return folder, user_id


def _current_request() -> Any:
    request = getRequest()
    # A request of zope.publisher, as a test may have it, has no data that a task could use.
    return request if hasattr(request, "other") else None
