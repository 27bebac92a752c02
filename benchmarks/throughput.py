"""The consumer next to a bare loop over Zope's publisher: same view, same user, same thread."""

from benchmarks.site import logged_in
from benchmarks.site import make_consumer
from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.publisher.request import ATTEMPT
from collective.taskqueue.publisher.request import make_environ
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.task import Lease
from collective.taskqueue.task import SUCCEEDED
from contextlib import nullcontext
from io import BytesIO
from itertools import pairwise
from statistics import median
from threading import Event
from time import perf_counter
from typing import Any
from ZPublisher.WSGIPublisher import publish_module
import gc
import transaction


URL = "/Plone/@@bench-noop"

#: Seconds after which a consumer is given up.
TIMEOUT = 120.0


def throughput(
    queue: TaskQueue, rounds: int, size: int, member: str | None = None
) -> tuple[float, float, float]:
    """Return the median ratio of both speeds, and the seconds per request of each.

    Every round starts a consumer for `size` tasks that wait in the queue, between two bare
    loops of as many requests; its ratio compares it to these two alone, for a machine may
    change its speed. All run as the same member, by the cookie of a session and by the
    plugin, or all as nobody.
    """
    queue.purge(SUCCEEDED)
    environ = _environ(queue)
    if member is not None:
        with logged_in(member) as cookie:
            environ["HTTP_COOKIE"] = cookie
    # The first round warms up.
    _round(queue, environ, size, member)
    bare, ours = [_timed(_bare, environ, size, member)[0]], []
    for _ in range(rounds):
        drained, after = _round(queue, environ, size, member)
        ours.append(drained)
        bare.append(after)
    succeeded = queue.counts()[SUCCEEDED]
    if succeeded < min(size * (rounds + 1), queue.settings.max_finished):
        raise AssertionError(f"only {succeeded} tasks succeeded")
    around = [(before + after) / 2 for before, after in pairwise(bare)]
    ratio = median(a / b for a, b in zip(around, ours, strict=True))
    return ratio, median(bare) / size, median(ours) / size


def _round(
    queue: TaskQueue, environ: dict[str, Any], size: int, member: str | None
) -> tuple[float, float]:
    _fill(queue, size, member)
    drained, consumer = _timed(_drain, queue, size)
    consumer.stop()
    return drained, _timed(_bare, environ, size, member)[0]


def _timed(function: Any, *args: Any) -> tuple[float, Any]:
    gc.collect()
    started = perf_counter()
    result = function(*args)
    return perf_counter() - started, result


def _environ(queue: TaskQueue) -> dict[str, Any]:
    """The environment of a task, less the task."""
    task_id = queue.add(URL)
    transaction.commit()
    task = queue.status(task_id).task
    queue.reset()
    lease = Lease(task, "token", "bare", attempt=1, counted=0, expires=0.0)
    environ = make_environ(Attempt(lease, queue.storage))
    del environ[ATTEMPT]
    return environ


def _bare(environ: dict[str, Any], size: int, member: str | None) -> None:
    answers = []
    for _ in range(size):
        current = {**environ, "wsgi.input": BytesIO()}
        chunks = publish_module(
            current, lambda status, headers, exc_info=None: answers.append(status)
        )
        b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
    if answers != ["200 OK"] * size or current.get("REMOTE_USER") != member:
        raise AssertionError(f"the bare loop was answered {set(answers)}")


def _fill(queue: TaskQueue, size: int, member: str | None) -> None:
    with nullcontext() if member is None else logged_in(member):
        for _ in range(size):
            taskqueue.add(URL, queue=queue.name)
        transaction.commit()


def _drain(queue: TaskQueue, size: int) -> Consumer:
    """Start a consumer as a process does, and wait until all is done and stored."""
    rest = iter(range(size - 1, -1, -1))
    done = Event()

    def told(state: str) -> None:
        if state == SUCCEEDED and next(rest) == 0:
            done.set()

    consumer = make_consumer(queue, told)
    consumer.start()
    if not done.wait(TIMEOUT):
        raise AssertionError(f"of {size} tasks {queue.counts()[SUCCEEDED]} succeeded")
    return consumer
