"""Huey and Celery on a Redis server of our own, on a unix socket in a temporary folder."""

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
import asyncio
import shutil
import subprocess
import sys
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


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a PostgreSQL server with its own defaults of durability; yield the url."""
    # The servers of the tests are what is needed here, too.
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from services import PostgresServer

    server = PostgresServer(durable=True).start()
    try:
        yield server.new_database()
    finally:
        server.remove()


def huey_sqlite(path: Path) -> tuple[Callable[[str], object], Callable[[], object]]:
    """Return functions that queue a call with Huey, and that run all there are."""
    from huey import SqliteHuey

    huey = SqliteHuey("bench", filename=str(path), fsync=True, results=True)

    @huey.task()
    def visit(url: str) -> None:
        """Does nothing."""

    def run_all() -> None:
        while (task := huey.dequeue()) is not None:
            huey.execute(task)

    return visit, run_all


def procrastinate_queue(url: str) -> tuple[Callable[[str], object], Callable[[], object]]:
    """Return functions that queue a call with Procrastinate, and that run all there are."""
    from procrastinate import App
    from procrastinate import PsycopgConnector
    from procrastinate import SyncPsycopgConnector

    app = App(connector=SyncPsycopgConnector(conninfo=url))
    app.open()
    app.schema_manager.apply_schema()

    @app.task(name="visit")
    def visit(url: str) -> None:
        """Does nothing."""

    def run_all() -> None:
        asyncio.run(_work(app.with_connector(PsycopgConnector(conninfo=url))))

    return (lambda address: visit.defer(url=address)), run_all


async def _work(app: Any) -> None:
    async with app.open_async():
        await app.run_worker_async(wait=False, install_signal_handlers=False)


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
