"""The public API: `from collective.taskqueue import taskqueue; taskqueue.add('/Plone/view')`."""

from __future__ import annotations

from Acquisition import aq_chain
from collections.abc import Mapping
from collective.taskqueue.enqueue.capture import CURRENT
from collective.taskqueue.enqueue.params import Params
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.errors import Cancelled
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownQueue
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.publisher.request import current_attempt
from collective.taskqueue.publisher.target import target_of
from collective.taskqueue.services.shape import task_url
from collective.taskqueue.task import Action
from collective.taskqueue.task import BulkResult
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Result
from collective.taskqueue.task import State
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from OFS.interfaces import IItem
from Products.CMFCore.interfaces import ISiteRoot
from typing import Any
from zope.component import getUtilitiesFor
from zope.component import queryUtility
from zope.component.hooks import getSite
from zope.globalrequest import getRequest


def add(
    url: str | IItem,
    method: str | None = None,
    params: Params = None,
    headers: Mapping[str, object] | None = None,
    payload: bytes | str | None = CURRENT,
    queue: str | None = None,
    *,
    view: str | None = None,
    **options: Any,
) -> str:
    """Queue a request that is made after, and only if, the current transaction commits.

    :param url: a content object, or a brain of one: the task follows it when it is moved, and
        fails if it is deleted. Or a physical path from the Zope root, such as
        ``/Plone/notices/@@publish``; it may carry a query string. Or an absolute url, http or
        https, that calls a web hook: nothing of the current request is sent to it.
    :param method: GET (the default, POST for a web hook), POST, PUT, PATCH, DELETE or HEAD.
    :param params: appended to the query string: texts, numbers, bools (``1`` and empty), dates
        and datetimes (ISO 8601); a list gives a parameter several times. They are the form
        that a web hook posts if it has no payload.
    :param headers: added to the headers copied from the current request; they win.
    :param payload: the body, None for none; by default that of the current request for POST,
        PUT and PATCH, and none for other methods.
    :param queue: name of the queue; by default the alphabetically first one.
    :param view: what to call on the content object, such as ``publish-it`` or
        ``@workflow/publish``, unquoted; by default the object itself.
    :param options: see `collective.taskqueue.enqueue.options.OPTIONS`.
    :returns: the id of the task, which arrives in the request as ``X-Task-Id``.
    :raises UnknownQueue: no such queue, or none at all.
    :raises ValueError: anything is wrong with the arguments. In both cases nothing has
        joined the transaction.
    """
    return _queue(queue).add(url, method, params, headers, payload, view=view, **options)


def path(obj: IItem, view: str | None = None) -> str:
    """Return the physical path of a content object, and of a view on it, quoted for a url.

    For `add`, wherever a text is needed: characters that are allowed in an id, but not in a
    url, are quoted. `view` is as for `add`. Raises `ValueError` for what is no content object,
    or has no place in the database yet.
    """
    return target_of(obj, view).url


def accepted(task_id: str) -> dict[str, str]:
    """Answer the current request with 202, and with the url of the status of the task.

    Call it in a view or a service after `add`, so that the client need not wait.
    Returns the body, to be sent as JSON: the url as ``@id``, and the id. The user that queued
    the task may read that url.

    Raises `RuntimeError` without a request or without a site.
    """
    request = getRequest()
    site = next((item for item in aq_chain(getSite()) if ISiteRoot.providedBy(item)), None)
    if request is None or site is None:
        raise RuntimeError("there is no request to answer, or no site to ask later")
    url = task_url(site.absolute_url(), task_id)
    request.response.setStatus(202)
    request.response.setHeader("Location", url)
    return {"@id": url, "id": task_id}


def status(task_id: str, queue: str | None = None) -> TaskStatus:
    """Return all that is known about a task.

    Looks in one queue or, by default, in all. Raises `UnknownTask` if the task was never
    queued, was removed, or is no longer kept.
    """
    return _find(task_id, queue).status(task_id)


def result(task_id: str, queue: str | None = None) -> Result | None:
    """Return the response of a finished task; None while there is none.

    Raises `UnknownTask`.
    """
    return status(task_id, queue).result


def cancel(task_id: str, queue: str | None = None) -> State:
    """Cancel a waiting task, or ask a running one to stop; return its state now.

    A running task finds out by `cancelled` or `checkpoint`. Raises `UnknownTask`, and
    `ForbiddenTransition` for a finished task.
    """
    return _find(task_id, queue).cancel(task_id)


def retry(task_id: str, queue: str | None = None) -> None:
    """Queue a failed or cancelled task again; its history stays.

    Raises `UnknownTask`, and `ForbiddenTransition` for a task in any other state.
    """
    _find(task_id, queue).retry(task_id)


def run_now(task_id: str, queue: str | None = None) -> None:
    """Run a scheduled task now: queue it before it is due; a queued one stays queued.

    Raises `UnknownTask`, and `ForbiddenTransition` for a task that is not waiting.
    """
    _find(task_id, queue).run_now(task_id)


def remove(task_id: str, queue: str | None = None) -> None:
    """Delete the record of a finished task.

    Raises `UnknownTask`, and `ForbiddenTransition` for a task that has not finished.
    """
    _find(task_id, queue).remove(task_id)


def tasks(
    queue: str | None = None,
    state: State | None = None,
    user: str | Identity | None = None,
    start: int = 0,
    size: int = 50,
) -> list[TaskStatus]:
    """Return one page of the tasks of a queue, of one state, user id or person if given.

    Payloads, responses and histories are left out: `status` has them.

    Raises `UnknownQueue`, and `ValueError` for a state that does not exist.
    """
    return _queue(queue).tasks(state, user, start, size)


def search(
    filter: TaskFilter, queue: str | None = None, cursor: str | None = None, size: int = 50
) -> TaskPage:
    """Return the next tasks of a queue that match a filter, oldest first, each as in `tasks`.

    One call examines at most 1000 tasks: a page may be short, or empty, although there is more.
    Go on with its `cursor` until that is None.

    Raises `UnknownQueue`, and `ValueError` for a wrong size or cursor.
    """
    return _queue(queue).search(filter, cursor, size)


def bulk(
    action: Action,
    filter: TaskFilter,
    queue: str | None = None,
    limit: int = 1000,
    cursor: str | None = None,
) -> BulkResult:
    """Retry, cancel or remove the tasks of a queue that match a filter, oldest first.

    :param action: ``retry``, ``cancel`` or ``remove``. Tasks in other states do not match.
    :param limit: change at most so many tasks, 1000 or fewer.
    :param cursor: that of the result before. Go on until it is None: then each task was tried
        once, even if it was retried and has failed again.
    :returns: how many tasks were changed, and how many that match are left.
    :raises UnknownQueue: no such queue, or none at all.
    :raises ValueError: an unknown action, a wrong limit or cursor.
    """
    return _queue(queue).bulk(action, filter, limit, cursor)


def counts(queue: str | None = None) -> dict[State, int]:
    """Return the number of tasks of a queue in each state. Raises `UnknownQueue`."""
    return _queue(queue).counts()


def pause(queue: str | None = None) -> None:
    """Start no task of a queue until `resume`; running tasks finish as usual.

    Raises `UnknownQueue`.
    """
    _queue(queue).pause()


def resume(queue: str | None = None) -> None:
    """Start tasks of a queue again. Raises `UnknownQueue`."""
    _queue(queue).resume()


def purge(queue: str | None = None, state: State = "succeeded") -> int:
    """Delete all tasks of a queue in one final state; return how many.

    Raises `UnknownQueue`, and `ForbiddenTransition` for a state that is not final.
    """
    return _queue(queue).purge(state)


def reset(queue: str | None = None) -> int:
    """Delete all waiting and scheduled tasks of one queue, at once; return how many.

    Running tasks finish as usual. Raises `UnknownQueue`.
    """
    return _queue(queue).reset()


def progress(done: float, total: float | None = None, message: str = "") -> None:
    """Report how far the running task has come; visible at once, before it commits.

    A view may call it as often as it likes: it is stored at most twice a second. Outside of a
    task it does nothing, so that a view can be used both ways. One line of 500 characters of
    the message is kept. Raises `TypeError` or `ValueError` if `done` or `total` is no number.
    """
    attempt = current_attempt()
    if attempt is not None:
        attempt.report(done, total, message)


def cancelled() -> bool:
    """Return whether cancellation of the running task was requested."""
    attempt = current_attempt()
    return attempt is not None and attempt.cancelled()


def checkpoint() -> None:
    """Raise `Cancelled` if cancellation of the running task was requested."""
    if cancelled():
        raise Cancelled("cancelled while running")


def _queue(name: str | None) -> Queue:
    if name is not None:
        found = queryUtility(ITaskQueue, name=name)
        if found is not None:
            return found
    queues = dict(getUtilitiesFor(ITaskQueue))
    if name is None and queues:
        return queues[min(queues)]
    known = ", ".join(sorted(queues)) or "none; is there a <taskqueue> section in zope.conf?"
    which = "at all" if name is None else repr(name)
    raise UnknownQueue(f"there is no task queue {which} (known: {known})")


def _find(task_id: str, name: str | None) -> Queue:
    if not isinstance(task_id, str):
        raise UnknownTask(f"{task_id!r} is not the id of a task")
    candidates = dict(getUtilitiesFor(ITaskQueue)) if name is None else {name: _queue(name)}
    away: StorageUnavailable | None = None
    for candidate in candidates.values():
        try:
            candidate.status(task_id, brief=True)
        except UnknownTask:
            continue
        except StorageUnavailable as exc:
            # Another queue may have the task.
            away = exc
            continue
        return candidate
    if away is not None:
        raise away
    where = "any queue" if name is None else f"queue {name}"
    raise UnknownTask(f"no task {task_id} in {where}")
