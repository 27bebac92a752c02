"""Huey and Celery on a Redis server of our own, on a unix socket in a temporary folder."""

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
import shutil
import subprocess
import time


#: Seconds in which Redis has to answer; it takes a few hundredths.
START_TIMEOUT = 10.0

MISSING = """\
Huey and Celery are measured on a local Redis, and there is no redis-server. Type

    apt-get install redis-server

or leave them out: .venv/bin/python -m benchmarks --no-peers"""


def require_redis() -> str:
    """Return the path of redis-server; exit with what to type if there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit(MISSING)
    return binary


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis server that stores nothing on disk; yield the path of its socket."""
    binary = require_redis()
    with TemporaryDirectory() as folder:
        socket = str(Path(folder) / "redis.sock")
        options = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        try:
            _wait(socket)
            yield socket
        finally:
            process.terminate()
            process.wait(START_TIMEOUT)


def huey_enqueue(socket: str) -> Callable[[str], object]:
    """Return a function that queues a call with Huey."""
    from huey import RedisHuey

    huey = RedisHuey("bench", url=f"unix://{socket}")

    @huey.task()
    def visit(url: str) -> None:
        """Never runs: nobody consumes."""

    return visit


def celery_enqueue(socket: str) -> Callable[[str], object]:
    """Return a function that queues a call with Celery."""
    from celery import Celery

    celery = Celery("bench", broker=f"redis+socket://{socket}")

    @celery.task(ignore_result=True)
    def visit(url: str) -> None:
        """Never runs: nobody consumes."""

    return visit.delay


def rq_enqueue(socket: str) -> Callable[[str], object]:
    """Return a function that queues a call with RQ."""
    from redis import Redis
    from rq import Queue

    queue = Queue("bench-rq", connection=Redis(unix_socket_path=socket))
    return lambda url: queue.enqueue("benchmarks.views.visit", url)


def dramatiq_enqueue(socket: str) -> Callable[[str], object]:
    """Return a function that queues a call with Dramatiq."""
    from dramatiq import actor
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=f"unix://{socket}")

    @actor(broker=broker)
    def visit(url: str) -> None:
        """Never runs: nobody consumes."""

    return visit.send


def _wait(socket: str) -> None:
    from redis import exceptions
    from redis import Redis

    deadline = time.monotonic() + START_TIMEOUT
    with Redis(unix_socket_path=socket) as redis:
        while True:
            try:
                redis.ping()
                return
            except exceptions.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
