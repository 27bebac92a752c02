"""The consumer next to a bare loop over Zope's publisher: same view, same user, same thread."""

from benchmarks.site import logged_in
from benchmarks.site import make_consumer
from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.publisher.request import ATTEMPT
from collective.taskqueue.publisher.request import make_environ
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SUCCEEDED
from contextlib import ExitStack
from contextlib import nullcontext
from io import BytesIO
from itertools import pairwise
from plone.protect.interfaces import IDisableCSRFProtection
from statistics import median
from threading import Event
from time import perf_counter
from typing import Any
from typing import NamedTuple
from zope.interface import implementer
from ZPublisher.HTTPRequest import WSGIRequest
from ZPublisher.WSGIPublisher import publish_module
import transaction


URL = "/Plone/@@bench-noop"

#: Reads ten brains, writes an object and commits.
WRITING_URL = "/Plone/bench/@@bench-write"

#: Tasks, and requests, that alternate: fewer would show the end of a slice, when the last results
#: are on their way, more would show how the speed of the machine changes.
SLICE = 200

#: Seconds after which a consumer is given up.
TIMEOUT = 120.0


@implementer(IDisableCSRFProtection)
class Request(WSGIRequest):
    """A request of the bare loop: it may write, as a task may. Marking each one takes longer."""


class Speed(NamedTuple):
    """Medians: the ratio of both speeds, and the seconds per request of each."""

    ratio: float
    bare: float
    ours: float


def throughput(queue: TaskQueue, slices: int, member: str | None = None, url: str = URL) -> Speed:
    """Return the speed of the consumer of a queue; see `throughputs`."""
    return throughputs([queue], slices, member, url)[0]


def throughputs(
    queues: Sequence[TaskQueue],
    slices: int,
    member: str | None = None,
    url: str = URL,
    make: Callable[[TaskQueue, Callable[[str], None]], Consumer] = make_consumer,
) -> list[Speed]:
    """Return the speed of the consumer of each queue, compared to a bare loop of the publisher.

    The consumers run all the time. One after the other gets `SLICE` tasks, and before and after
    each slice a bare loop makes as many requests: a slice is compared to these two, because a
    machine changes its speed within a second. A slice of tasks begins when the first of them
    starts, and ends when the result of the last one is stored. All run as the same member, by
    the cookie of a session and by the plugin, or all as Anonymous.
    """
    environ = environ_of(queues[0], url)
    if member is not None:
        with logged_in(member) as cookie:
            environ["HTTP_COOKIE"] = cookie
    runs = [Run() for _ in queues]
    consumers = [make(queue, run.told) for queue, run in zip(queues, runs, strict=True)]
    bare: list[float] = []
    ours: list[float] = []
    with ExitStack() as stack:
        for consumer in consumers:
            consumer.start()
            stack.callback(consumer.stop)
        bare.append(_timed(answer, environ, SLICE, member))
        # The first round warms up.
        for _ in range(slices + 1):
            for queue, run in zip(queues, runs, strict=True):
                run.begin(SLICE)
                _fill(queue, SLICE, member, url)
                ours.append(run.seconds())
                bare.append(_timed(answer, environ, SLICE, member))
    around = [(before + after) / 2 for before, after in pairwise(bare)]
    ratios = [a / b for a, b in zip(around, ours, strict=True)]
    each = [slice(number + len(queues), None, len(queues)) for number in range(len(queues))]
    return [
        Speed(median(ratios[own]), median(around[own]) / SLICE, median(ours[own]) / SLICE)
        for own in each
    ]


class Run:
    """Measures how long a consumer takes for some tasks; `told` is told each state."""

    def begin(self, size: int) -> None:
        """Expect so many tasks."""
        self._started: float | None = None
        self._ended = 0.0
        self._left = size
        self._done = Event()

    def told(self, state: str) -> None:
        """Called for each change of a task, in one thread for each kind of change."""
        if state == RUNNING and self._started is None:
            self._started = perf_counter()
        elif state == SUCCEEDED:
            self._ended = perf_counter()
            self._left -= 1
            if not self._left:
                self._done.set()
        elif state == FAILED:
            # It never succeeds: do not wait for it.
            self._done.set()

    def seconds(self) -> float:
        """Wait for the last task; return the seconds since the first one has started."""
        self._done.wait(TIMEOUT)
        if self._left or self._started is None:
            raise AssertionError(f"{self._left} tasks have not succeeded")
        return self._ended - self._started


def _timed(function: Any, *args: Any) -> float:
    started = perf_counter()
    function(*args)
    return perf_counter() - started


def environ_of(queue: TaskQueue, url: str) -> dict[str, Any]:
    """Return the environment of a task, less the task."""
    task_id = queue.add(url)
    transaction.commit()
    task = queue.status(task_id).task
    queue.reset()
    lease = Lease(task, "token", "bare", attempt=1, counted=0, expires=0.0)
    environ = make_environ(Attempt(lease, queue.storage))
    del environ[ATTEMPT]
    return environ


def answer(environ: dict[str, Any], size: int, member: str | None) -> None:
    """Let the publisher answer so many requests, as this member."""
    answers = []
    for _ in range(size):
        current = {**environ, "wsgi.input": BytesIO()}
        chunks = publish_module(
            current,
            lambda status, headers, exc_info=None: answers.append(status),
            _request_factory=Request,
        )
        b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
    if answers != ["200 OK"] * size or current.get("REMOTE_USER") != member:
        raise AssertionError(f"the bare loop was answered {set(answers)}")


def _fill(queue: TaskQueue, size: int, member: str | None, url: str) -> None:
    with nullcontext() if member is None else logged_in(member):
        for _ in range(size):
            taskqueue.add(url, queue=queue.name)
        transaction.commit()
