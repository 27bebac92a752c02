"""One page of tasks, of one queue or of all queues, and the links to the other pages."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.enqueue.protocols import Queue
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.services import shape
from collective.taskqueue.services.access import Access
from collective.taskqueue.services.access import MANAGE
from collective.taskqueue.services.access import VIEW
from collective.taskqueue.services.shape import Json
from collective.taskqueue.task import Identity
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import TaskStatus
from plone.restapi.batching import DEFAULT_BATCH_SIZE
from plone.restapi.batching import HypermediaBatch
from typing import Any
from zope.component import getUtilitiesFor
from zope.publisher.interfaces.browser import IBrowserRequest


#: Fields of the query.
FIELDS = ("queue", "state", "user", "b_start", "b_size")

#: Most tasks on one page, and the last start of a page.
MAX_SIZE = 100
MAX_START = 1_000_000

#: The entry of a task in a list.
Summarize = Callable[[TaskStatus], Json | None]


def page(request: IBrowserRequest, fields: Mapping[str, str], access: Access, site: str) -> Json:
    """Return the page of tasks that the fields of the query ask for.

    Callers that may not view the tasks of others get a list of their own tasks. Raises
    `InvalidTask` with the name of the field that is wrong in the query.
    """
    start = number_of(fields, "b_start", 0, 0, MAX_START)
    size = number_of(fields, "b_size", DEFAULT_BATCH_SIZE, 1, MAX_SIZE)
    # Otherwise the batch would read its numbers from what it takes for a JSON body.
    request.set("BODY", "")
    request.form.update(b_start=start, b_size=size)
    states = states_of(fields)
    user: str | Identity | None = user_of(fields)
    queues = queues_of(fields)
    if not (access.has(VIEW) or access.has(MANAGE)):
        # For Anonymous: a list without a user would be the list of all users.
        if access.user is None or user not in (None, access.user.id):
            queues = []
        user = access.user

    def summarize(status: TaskStatus) -> Json | None:
        return shape.summary(status, site, access) if access.may_see(status.task) else None

    batch = HypermediaBatch(request, _Tasks(_lists(queues, states, user), size, summarize))
    result = {
        "@id": batch.canonical_url,
        "items": [summary for summary in batch if summary is not None],
        "items_total": batch.items_total,
    }
    if batch.links:
        result["batching"] = batch.links
    return result


class _List:
    """Tasks that a storage lists: those of one queue and one state, and maybe of one user."""

    def __init__(
        self, queue: Queue, state: State | None, user: str | Identity | None, length: int
    ) -> None:
        self._queue, self._state, self._user = queue, state, user
        self.length = length

    def read(self, start: int, size: int) -> list[TaskStatus]:
        found: list[TaskStatus] = self._queue.tasks(self._state, self._user, start, size)
        return found


def _lists(
    queues: Iterable[Queue], states: tuple[State, ...] | None, user: str | Identity | None
) -> Iterator[_List]:
    for queue in queues:
        counts = queue.counts(user)
        if states is None:
            yield _List(queue, None, user, sum(counts.values()))
        else:
            yield from (_List(queue, state, user, counts[state]) for state in states)


class _Tasks(Sequence[Json | None]):
    """The tasks of lists, one list after the other; None for a task that is not shown.

    Reading an index that is not cached reads one page of `size` tasks from there, and nothing
    else.
    """

    def __init__(self, lists: Iterable[_List], size: int, summarize: Summarize) -> None:
        self._lists = list(lists)
        self._size = size
        self._summarize = summarize
        self._read: dict[int, Json | None] = {}

    def __len__(self) -> int:
        return sum(each.length for each in self._lists)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index not in self._read:
            self._read = dict(enumerate(self._page(index), index))
        return self._read[index]

    def _page(self, start: int) -> Iterator[Json | None]:
        left = self._size
        for each in self._lists:
            here = min(left, each.length - start)
            if here > 0:
                found = [self._summarize(status) for status in each.read(start, here)]
                # Tasks that are missing were deleted since they were counted.
                yield from found + [None] * (here - len(found))
                left -= here
            start = max(0, start - each.length)


def queues_of(fields: Mapping[str, str]) -> list[Queue]:
    """Return the queues that a query asks for, by name."""
    queues = dict(getUtilitiesFor(ITaskQueue))
    name = fields.get("queue")
    if name is not None:
        _check("queue", name, queues)
    return [queues[each] for each in sorted(queues) if name in (None, each)]


def states_of(fields: Mapping[str, str]) -> tuple[State, ...] | None:
    """Return the states that a query asks for, each once; None for all."""
    if "state" not in fields:
        return None
    names = fields["state"].split(",")
    for name in names:
        _check("state", name, STATES)
    return tuple(dict.fromkeys(state for name in names for state in STATES if state == name))


def _check(field: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise InvalidTask(field, f"{field} is one of {', '.join(sorted(allowed))}")


def user_of(fields: Mapping[str, str]) -> str | None:
    """Return the user id that a query asks for; None for all."""
    user = fields.get("user")
    # Not every storage accepts any text, and no storage takes an empty one for Anonymous.
    if user is not None and not (user and user.isprintable()):
        raise InvalidTask("user", "user is a printable text")
    return user


def number_of(fields: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """Return a number of a query, or its default."""
    text = fields.get(name, str(default))
    number = int(text) if text.isdecimal() and len(text) < 10 else -1
    if not least <= number <= most:
        raise InvalidTask(name, f"{name} is a number from {least} to {most}")
    return number
