"""How soon a task starts after its commit, and what an idle consumer costs."""

from benchmarks.site import make_consumer
from benchmarks.views import stamps
from collections.abc import Iterator
from collective.taskqueue import taskqueue
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.task import RUNNING
from contextlib import contextmanager
from statistics import quantiles
from time import perf_counter
from time import process_time
from time import sleep
import transaction


URL = "/Plone/@@bench-stamp"

#: Seconds in which a task has to start; it takes milliseconds.
START_TIMEOUT = 10.0


@contextmanager
def running_consumer(queue: TaskQueue) -> Iterator[Consumer]:
    """A consumer with one thread, as `<taskqueue-server />` starts it."""
    consumer = make_consumer(queue)
    consumer.start()
    try:
        yield consumer
    finally:
        consumer.stop()


def latency(queue: TaskQueue, samples: int) -> tuple[float, float]:
    """Return p50 and p95 of the seconds from the call of commit to the task's first line."""
    seconds = []
    for _ in range(samples):
        taskqueue.add(URL, queue=queue.name)
        called = perf_counter()
        transaction.commit()
        seconds.append(stamps.get(timeout=START_TIMEOUT) - called)
        _let_it_sleep(queue)
    cuts = quantiles(seconds, n=20)
    return cuts[9], cuts[18]


def idle_cpu(seconds: float) -> float:
    """Return the CPU time that this process uses in so many seconds of doing nothing."""
    used = process_time()
    sleep(seconds)
    return process_time() - used


def _let_it_sleep(queue: TaskQueue) -> None:
    # The next task is to find the consumer asleep, not on its way back from this one.
    while queue.counts()[RUNNING]:
        sleep(0.001)
    sleep(0.002)
