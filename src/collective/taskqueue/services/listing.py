"""One page of tasks, of one queue or of all, and how to get to the other pages."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.services import shape
from collective.taskqueue.services.access import Access
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.access import VIEW
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskStatus
from plone.restapi.batching import DEFAULT_BATCH_SIZE
from plone.restapi.batching import HypermediaBatch
from typing import Any
from zope.component import getUtilitiesFor


#: Tasks on one page at most, and how far a list goes.
MAX_SIZE = 100
MAX_START = 1_000_000

#: Tasks of one person that are looked through in each queue, and how many at once.
MOST = 1000
PORTION = 100


def page(context: Any, request: Any, access: Access, site: str) -> dict[str, Any]:
    """Return the page of tasks that the query of the request asks for.

    Those who may not view the tasks of others get a list of their own. Raises
    `InvalidTask` with the name of what is wrong with the query.
    """
    start = _number(request, "b_start", 0, 0, MAX_START)
    size = _number(request, "b_size", DEFAULT_BATCH_SIZE, 1, MAX_SIZE)
    # The batch would look for numbers of its own in what it takes for a body.
    request.set("BODY", "")
    request.form.update(b_start=start, b_size=size)
    state = _one_of(request, "state", STATES)
    user = _one_of(request, "user", None)
    queues = _queues(request)
    found: Sequence[TaskStatus]
    if not (access.has(VIEW) or access.has(MANAGE)):
        mine = access.user.id if access.user is not None else ""
        found = _of_one_person(queues if user in (None, mine) else [], state, mine, access)
    elif user is None:
        found = _Everything(queues, state)
    else:
        found = _of_one_person(queues, state, user, access)
    batch = HypermediaBatch(request, found)
    result = {
        "@id": batch.canonical_url,
        "items": [shape.summary(status, site, access) for status in batch if access.may_see(status.task)],
        "items_total": batch.items_total,
    }
    if batch.links:
        result["batching"] = batch.links
    return result


class _Everything(Sequence[TaskStatus]):
    """All tasks of the queues, one queue after the other; a part of them is read at once."""

    def __init__(self, queues: list[Any], state: State | None) -> None:
        self._queues = queues
        self._state = state
        self._sizes = [_size(queue, state) for queue in queues]
        self._read: dict[int, TaskStatus] = {}

    def __len__(self) -> int:
        return sum(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        if index not in self._read:
            self._read = dict(self._portion(index))
        # What is not there any more was forgotten since it was counted.
        if index not in self._read:
            raise IndexError(index)
        return self._read[index]

    def _portion(self, index: int) -> Iterator[tuple[int, TaskStatus]]:
        first = 0
        for queue, size in zip(self._queues, self._sizes, strict=True):
            if first <= index < first + size:
                statuses = queue.tasks(self._state, None, index - first, MAX_SIZE)
                yield from enumerate(statuses, index)
            first += size


def _size(queue: Any, state: State | None) -> int:
    counts = queue.counts()
    return int(sum(counts.values()) if state is None else counts[state])


def _of_one_person(
    queues: list[Any], state: State | None, user: str, access: Access
) -> list[TaskStatus]:
    found = []
    for queue in queues:
        for start in range(0, MOST, PORTION):
            portion = queue.tasks(state, user, start, PORTION)
            # A user of that id may be there in other sites, too.
            found += [status for status in portion if access.may_see(status.task)]
            if len(portion) < PORTION:
                break
    return found


def _queues(request: Any) -> list[Any]:
    queues = dict(getUtilitiesFor(ITaskQueue))
    name = _one_of(request, "queue", tuple(queues))
    return [queues[each] for each in sorted(queues) if name in (None, each)]


def _number(request: Any, name: str, default: int, least: int, most: int) -> int:
    text = request.form.get(name, str(default))
    number = int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 10 else -1
    if not least <= number <= most:
        raise InvalidTask(name, f"{name} is a number from {least} to {most}")
    return number


def _one_of(request: Any, name: str, allowed: tuple[str, ...] | None) -> Any:
    value = request.form.get(name)
    if value is None:
        return None
    # Not every storage can be asked for any text, and none of them means nobody by an empty one.
    known = isinstance(value, str) and (
        bool(value) and value.isprintable() if allowed is None else value in allowed
    )
    if not known:
        what = "a printable text" if allowed is None else f"one of {', '.join(sorted(allowed))}"
        raise InvalidTask(name, f"{name} is {what}")
    return value
