"""One page of tasks, of one queue or of all, and how to get to the other pages."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.services import shape
from collective.taskqueue.services.access import Access
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.access import VIEW
from collective.taskqueue.services.query import query
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

#: Tasks of one person that are looked through in each queue.
MOST = 1000

#: Tasks that are read at once, with their payloads: of each no more is kept than is listed.
PORTION = 20

#: What is listed of a task.
Summary = dict[str, Any]
Summarize = Callable[[TaskStatus], Summary | None]


def page(context: Any, request: Any, access: Access, site: str) -> dict[str, Any]:
    """Return the page of tasks that the query of the request asks for.

    Those who may not view the tasks of others get a list of their own. Raises
    `InvalidTask` with the name of what is wrong with the query.
    """
    fields = query(request)
    start = _number(fields, "b_start", 0, 0, MAX_START)
    size = _number(fields, "b_size", DEFAULT_BATCH_SIZE, 1, MAX_SIZE)
    # The batch would look for numbers of its own in what it takes for a body.
    request.set("BODY", "")
    request.form.update(b_start=start, b_size=size)
    state = _one_of(fields, "state", STATES)
    user = _one_of(fields, "user", None)
    queues = _queues(fields)

    def summarize(status: TaskStatus) -> Summary | None:
        return shape.summary(status, site, access) if access.may_see(status.task) else None

    found: Sequence[Summary | None]
    if not (access.has(VIEW) or access.has(MANAGE)):
        mine = access.user.id if access.user is not None else ""
        found = _of_one_person(queues if user in (None, mine) else [], state, mine, summarize)
    elif user is None:
        found = _Everything(queues, state, start + size, summarize)
    else:
        found = _of_one_person(queues, state, user, summarize)
    batch = HypermediaBatch(request, found)
    result = {
        "@id": batch.canonical_url,
        "items": [summary for summary in batch if summary is not None],
        "items_total": batch.items_total,
    }
    if batch.links:
        result["batching"] = batch.links
    return result


class _Everything(Sequence[Summary | None]):
    """All tasks of the queues, one queue after the other; None for what may not be seen.

    No more is read than what is in front of `end`, and only a portion of it at once.
    """

    def __init__(
        self, queues: list[Any], state: State | None, end: int, summarize: Summarize
    ) -> None:
        self._queues = queues
        self._state = state
        self._end = end
        self._summarize = summarize
        self._sizes = [_size(queue, state) for queue in queues]
        self._read: dict[int, Summary | None] = {}

    def __len__(self) -> int:
        return sum(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        if index not in self._read:
            self._read = dict(self._portion(index))
        # What is not there any more was forgotten since it was counted.
        if index not in self._read:
            raise IndexError(index)
        return self._read[index]

    def _portion(self, index: int) -> Iterator[tuple[int, Summary | None]]:
        first = 0
        for queue, size in zip(self._queues, self._sizes, strict=True):
            if first <= index < first + size:
                some = min(PORTION, max(1, self._end - index))
                statuses = queue.tasks(self._state, None, index - first, some)
                yield from enumerate(map(self._summarize, statuses), index)
            first += size


def _size(queue: Any, state: State | None) -> int:
    counts = queue.counts()
    return int(sum(counts.values()) if state is None else counts[state])


def _of_one_person(
    queues: list[Any], state: State | None, user: str, summarize: Summarize
) -> list[Summary | None]:
    found: list[Summary | None] = []
    for queue in queues:
        for start in range(0, MOST, PORTION):
            portion = queue.tasks(state, user, start, PORTION)
            # A user of that id may be there in other sites, too.
            found += [summary for summary in map(summarize, portion) if summary is not None]
            if len(portion) < PORTION:
                break
    return found


def _queues(fields: Mapping[str, str]) -> list[Any]:
    queues = dict(getUtilitiesFor(ITaskQueue))
    name = _one_of(fields, "queue", tuple(queues))
    return [queues[each] for each in sorted(queues) if name in (None, each)]


def _number(fields: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = fields.get(name, str(default))
    number = int(text) if text.isdecimal() and len(text) < 10 else -1
    if not least <= number <= most:
        raise InvalidTask(name, f"{name} is a number from {least} to {most}")
    return number


def _one_of(fields: Mapping[str, str], name: str, allowed: tuple[str, ...] | None) -> Any:
    value = fields.get(name)
    if value is None:
        return None
    # Not every storage can be asked for any text, and none of them means nobody by an empty one.
    known = bool(value) and value.isprintable() if allowed is None else value in allowed
    if not known:
        what = "a printable text" if allowed is None else f"one of {', '.join(sorted(allowed))}"
        raise InvalidTask(name, f"{name} is {what}")
    return value
