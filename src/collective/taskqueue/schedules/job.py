"""The task of a tick: the request of a schedule, as the user who has its id now."""

from __future__ import annotations

from Acquisition import aq_base
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config.settings import ScheduleSettings
from collective.taskqueue.enqueue.capture import make_task
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.pasplugin.identity import identity_in
from collective.taskqueue.publisher.target import stands_at
from collective.taskqueue.schedules.ticker import Entry
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Origin
from collective.taskqueue.task import Task
from contextlib import contextmanager
from dataclasses import replace
from Products.CMFCore.interfaces import ISiteRoot
from transaction import TransactionManager
from typing import Any
from urllib.parse import unquote
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL
from uuid import uuid5
from ZODB.DB import DB
from zope.component import getUtility


#: The root of Zope in a database.
APPLICATION = "Application"

#: What `overlap` means for a task whose key a waiting or running task has.
_CONFLICTS = {"skip": "skip", "queue": "after_running"}


def job(settings: ScheduleSettings, queue: QueueSettings, database: DB, tick: float) -> Task:
    """Return the task of a tick, in seconds since the epoch; the id is the same in all processes.

    Looks in the database who has the user id of the schedule now, and where its site is. Raises
    `ValueError` for a url that no task can have, and what an unavailable database raises.
    """
    task = make_task(queue, settings.url, settings.method, payload=None, **_options(settings))
    task = replace(task, id=str(uuid5(NAMESPACE_URL, _name(settings, tick))), created=tick)
    user = origin = None
    if not task.is_hook:
        with _root(database) as root:
            user = _user(root, settings) if settings.user else None
            origin = _origin(root, settings) if settings.host else None
    return _later(replace(task, user=user, origin=origin), settings, tick)


def entry(settings: ScheduleSettings, database: DB) -> Entry:
    """Return what ticks a schedule in this process."""
    queue = getUtility(ITaskQueue, name=settings.queue)
    return Entry(settings, queue, lambda at: job(settings, queue.settings, database, at))


def _options(settings: ScheduleSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"description": settings.description or settings.name}
    if settings.max_attempts is not None:
        options["max_attempts"] = settings.max_attempts
    if settings.timeout is not None:
        options["timeout"] = settings.timeout
    if settings.overlap in _CONFLICTS:
        options["key"] = f"schedule {settings.name}"
        options["on_conflict"] = _CONFLICTS[settings.overlap]
    return options


def _later(task: Task, settings: ScheduleSettings, tick: float) -> Task:
    if not settings.jitter:
        return task
    # Random, and the same in all processes.
    share = int(task.id.replace("-", "")[:8], 16) / 0xFFFFFFFF
    return replace(task, due=tick + share * settings.jitter)


def _name(settings: ScheduleSettings, tick: float) -> str:
    return f"taskqueue:{settings.queue}:{settings.name}:{tick!r}"


@contextmanager
def _root(database: DB) -> Iterator[Any]:
    """Yield the root of Zope in a connection of its own, without a request."""
    connection = database.open(transaction_manager=TransactionManager())
    try:
        yield connection.root()[APPLICATION]
    finally:
        connection.transaction_manager.abort()
        connection.close()


def _objects(root: Any, url: str) -> list[Any]:
    """Return the objects on the path of a url, from the root on; a view ends them."""
    names = tuple(name for name in unquote(url.partition("?")[0]).split("/") if name)
    found = [root]
    for number, name in enumerate(names, start=1):
        item = None if name.startswith(("@@", "++")) else stands_at(root, names[:number])
        if item is None:
            break
        found.append(item)
    return found


def _user(root: Any, settings: ScheduleSettings) -> Identity:
    """Return the user as it is now; one that cannot be found fails at the dispatch."""
    for item in reversed(_objects(root, settings.url)):
        folder = getattr(aq_base(item), "acl_users", None)
        path = "/".join([*item.getPhysicalPath(), "acl_users"])
        if folder is None or settings.user_folder not in ("", path):
            continue
        folder = folder.__of__(item)
        user = folder.getUserById(settings.user) or folder.getUser(settings.user)
        if user is not None:
            return identity_in(folder, user.getId())
    return Identity(settings.user_folder or "/acl_users", settings.user)


def _origin(root: Any, settings: ScheduleSettings) -> Origin:
    parts = urlsplit(settings.host)
    sites = [item for item in _objects(root, settings.url) if ISiteRoot.providedBy(item)]
    site = "/".join(sites[-1].getPhysicalPath()) if sites else None
    return Origin(
        server_url=f"{parts.scheme}://{parts.netloc}",
        script=parts.path,
        root=(settings.root or site) if settings.root != "/" else None,
    )
