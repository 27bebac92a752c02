"""What it costs to queue a task, next to an empty commit and to the peers."""

from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.SecurityManagement import noSecurityManager
from benchmarks.peers import celery_enqueue
from benchmarks.peers import huey_enqueue
from benchmarks.peers import redis_server
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue import taskqueue
from collective.taskqueue.queue import TaskQueue
from contextlib import contextmanager
from io import BytesIO
from statistics import median
from time import perf_counter
from zope.globalrequest import clearRequest
from zope.globalrequest import setRequest
from ZPublisher.HTTPRequest import WSGIRequest
from ZPublisher.HTTPResponse import WSGIResponse
import gc
import transaction
import Zope2


URL = "/Plone/@@bench-noop"

BROWSER = {
    "REQUEST_METHOD": "GET",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "8080",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "PATH_INFO": "/Plone",
    "HTTP_HOST": "localhost:8080",
    "HTTP_USER_AGENT": "Mozilla/5.0",
    "HTTP_ACCEPT": "text/html",
    "HTTP_ACCEPT_LANGUAGE": "en",
    "HTTP_ACCEPT_ENCODING": "gzip",
    "HTTP_REFERER": "http://localhost:8080/Plone/news",
    "HTTP_COOKIE": "__ac=c2VjcmV0; I18N_LANGUAGE=en",
}


def enqueue(queue: TaskQueue, rounds: int, size: int, peers: bool) -> dict[str, float]:
    """Return the median seconds per task of each way to queue `size` tasks.

    Ours are queued in a request of a member of the site. The transaction holds nothing
    else, so the empty commit is one of a transaction that nothing has joined.
    """
    ways = {
        "empty": lambda: _commits(0, size),
        "1": lambda: _commits(1, size),
        "10": lambda: _commits(10, size // 10),
        "1000": lambda: _commits(size, 1),
    }
    with _request_of_member():
        if not peers:
            return _medians(ways, rounds, size, queue)
        with redis_server() as socket:
            ways["Huey"] = _calls(huey_enqueue(socket), size)
            ways["Celery"] = _calls(celery_enqueue(socket), size)
            return _medians(ways, rounds, size, queue)


def _medians(
    ways: dict[str, Callable[[], None]], rounds: int, size: int, queue: TaskQueue
) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            started = perf_counter()
            way()
            samples[name].append((perf_counter() - started) / size)
            if len(queue) not in (0, size):
                raise AssertionError(f"{len(queue)} of {size} tasks were queued")
            queue.reset()
    return {name: median(seconds) for name, seconds in samples.items()}


def _commits(tasks: int, count: int) -> None:
    for _ in range(count):
        transaction.begin()
        for _ in range(tasks):
            taskqueue.add(URL)
        transaction.commit()


def _calls(call: Callable[[str], object], count: int) -> Callable[[], None]:
    def way() -> None:
        for _ in range(count):
            call(URL)

    return way


@contextmanager
def _request_of_member() -> Iterator[None]:
    app = Zope2.app()
    request = WSGIRequest(BytesIO(), dict(BROWSER), WSGIResponse())
    setRequest(request)
    newSecurityManager(request, app.Plone.acl_users.getUser("jane"))
    try:
        yield
    finally:
        noSecurityManager()
        clearRequest()
        request.close()
        transaction.abort()
        app._p_jar.close()
