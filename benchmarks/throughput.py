"""The consumer next to a bare loop over Zope's publisher: same view, same user, same thread."""

from benchmarks.site import logged_in
from benchmarks.site import make_consumer
from collective.taskqueue import taskqueue
from collective.taskqueue.attempt import Attempt
from collective.taskqueue.publisher import ATTEMPT
from collective.taskqueue.publisher import make_environ
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.task import Lease
from collective.taskqueue.task import SUCCEEDED
from contextlib import nullcontext
from io import BytesIO
from statistics import median
from time import perf_counter
from typing import Any
from ZPublisher.WSGIPublisher import publish_module
import gc
import transaction


URL = "/Plone/@@bench-noop"


def throughput(
    queue: TaskQueue, rounds: int, size: int, member: str | None = None
) -> tuple[float, float, float]:
    """Return the median ratio of both speeds, and the seconds per request of each.

    Every round makes `size` requests in a bare loop, then runs as many tasks that wait in
    the queue; its ratio compares the two alone. Both run as the same member, by the cookie of
    a session and by the plugin, or both as nobody.
    """
    consumer = make_consumer(queue)
    queue.purge(SUCCEEDED)
    environ = _environ(queue)
    if member is not None:
        with logged_in(member) as cookie:
            environ["HTTP_COOKIE"] = cookie
    bare, ours = [], []
    for number in range(-1, rounds):
        seconds = _seconds(_bare, environ, size, member) / size
        _fill(queue, size, member)
        drained = _seconds(_drain, consumer, size) / size
        # The first round warms up.
        if number >= 0:
            bare.append(seconds)
            ours.append(drained)
    succeeded = queue.counts()[SUCCEEDED]
    if succeeded != min(size * (rounds + 1), queue.settings.max_finished):
        raise AssertionError(f"only {succeeded} tasks succeeded")
    consumer.stop()
    ratio = median(a / b for a, b in zip(bare, ours, strict=True))
    return ratio, median(bare), median(ours)


def _seconds(function: Any, *args: Any) -> float:
    gc.collect()
    started = perf_counter()
    function(*args)
    return perf_counter() - started


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


def _drain(consumer: Any, size: int) -> None:
    # What `run` does.
    for number in range(size):
        consumer.step(ahead=number < size - 1)
        consumer._do_chores()
