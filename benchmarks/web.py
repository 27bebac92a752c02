"""Web hooks per second, beside Celery and RQ; and how long a client waits for its 201."""

from benchmarks.peers import redis_server
from benchmarks.site import plone_site
from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.services.access import ADD
from collective.taskqueue.storages.redis import RedisStorage
from collective.taskqueue.task import Task
from collective.taskqueue.webhook.client import WebHooks
from contextlib import contextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4
from ZPublisher.WSGIPublisher import publish_module
import argparse
import base64
import os
import platform
import socket
import subprocess
import sys
import time
import transaction
import Zope2


CONCURRENCY = (1, 10, 50)

#: Seconds in which anything here has to happen; it takes a few.
TIMEOUT = 120.0

PORTION = 500


@contextmanager
def receiver() -> Iterator[str]:
    """Run somebody else's server in a process of its own; yield its url."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.receiver", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _answered(url) is not None)
        yield url
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def hooks(
    server: str, url: str, number: int, rounds: int, peers: bool
) -> Iterator[tuple[str, str]]:
    """Yield a line for each system and concurrency; each makes `number` calls."""
    systems: dict[str, Callable[[str, str, int, int], float]] = {"ours, on Redis": _ours}
    if peers:
        systems[f"Celery {version('celery')}, threads"] = _celery
        systems[f"RQ {version('rq')}, processes"] = _rq
    for concurrency in CONCURRENCY:
        for name, run in systems.items():
            speed = median(run(server, url, concurrency, number) for _ in range(rounds))
            yield f"web hooks per second, {concurrency} at once, {name}", f"{speed:.0f}"


def _ours(server: str, url: str, concurrency: int, number: int) -> float:
    name = f"hooks-{uuid4().hex[:8]}"
    settings = QueueSettings(
        queue=name, type="redis", unix_socket_path=server, allow_hosts=url.removeprefix("http://")
    )
    storage = RedisStorage(settings)
    storage.admin.pause()
    fields: dict[str, Any] = {"url": f"{url}/hook", "method": "POST", "payload": b"{}"}
    for start in range(0, number, PORTION):
        size = min(PORTION, number - start)
        batch = str(uuid4())
        tasks = [Task(id=str(uuid4()), queue=name, timeout=60.0, **fields) for _ in range(size)]
        storage.stage(batch, tasks)
        storage.promote(batch)
    options = ServerSettings(queue=name, concurrent_limit=concurrency)
    consumer = Consumer(storage, WebHooks(settings).call, options)
    consumer.start()
    time.sleep(0.5)
    try:
        return _speed(url, number, storage.admin.resume)
    finally:
        consumer.stop()
        storage.close()


def _celery(server: str, url: str, concurrency: int, number: int) -> float:
    from benchmarks.hook_celery import celery_post

    celery_post.app.conf.broker_url = f"redis+socket://{server}"
    options = ["--pool", "threads", "--concurrency", str(concurrency), "--loglevel", "ERROR"]
    options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = ["-m", "celery", "-A", "benchmarks.hook_celery:celery", "worker", *options]
    return _with_workers(
        command, server, url, number, lambda: celery_post.delay(f"{url}/hook"), concurrency
    )


def _rq(server: str, url: str, concurrency: int, number: int) -> float:
    from redis import Redis
    from rq import Queue

    queue = Queue("bench-rq", connection=Redis(unix_socket_path=server))
    options = ["--url", f"unix://{server}", "--num-workers", str(concurrency), "--quiet"]
    # Without a fork for each job, which would lose its connection.
    options += ["--worker-class", "rq.SimpleWorker"]
    command = ["-c", "from rq.cli import main; main()", "worker-pool", "bench-rq", *options]
    return _with_workers(
        command,
        server,
        url,
        number,
        lambda: queue.enqueue("benchmarks.hook_call.post", f"{url}/hook", result_ttl=0),
        concurrency,
    )


def _with_workers(
    command: list[str],
    server: str,
    url: str,
    number: int,
    add: Callable[[], object],
    concurrency: int,
) -> float:
    """Workers that have made a call each are given `number` more of them."""
    before = _answered(url) or 0
    environ = {**os.environ, "BENCH_REDIS": server, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(concurrency * 2):
            add()
        _wait(lambda: (_answered(url) or 0) >= before + concurrency * 2)
        # They work while the calls are added, as they would; the last one counts.
        return _speed(url, number, lambda: [add() for _ in range(number)])
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def _speed(url: str, number: int, begin: Callable[[], object]) -> float:
    done = (_answered(url) or 0) + number
    started = perf_counter()
    begin()
    _wait(lambda: (_answered(url) or 0) >= done)
    return number / (perf_counter() - started)


def _answered(url: str) -> int | None:
    try:
        with urlopen(f"{url}/answered", timeout=TIMEOUT) as response:
            return int(response.read())
    except (URLError, ConnectionError):
        return None


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {TIMEOUT:g} s in vain")
        time.sleep(0.005)


def post_tasks(number: int) -> Iterator[tuple[str, str]]:
    """Yield how long ``POST /@tasks`` takes, as a request of the publisher: p50 and p95."""
    _allow_jane()
    seconds = []
    for _ in range(number + 20):
        started = perf_counter()
        _post_task()
        seconds.append(perf_counter() - started)
    # The first ones fill caches.
    cuts = quantiles(seconds[20:], n=20)
    yield "POST /@tasks, p50", f"{cuts[9] * 1000:.2f} ms"
    yield "POST /@tasks, p95", f"{cuts[18] * 1000:.2f} ms"


def _allow_jane() -> None:
    app = Zope2.app()
    site = app.Plone
    for permission in (ADD, "plone.restapi: Use REST API"):
        site.manage_permission(permission, ["Manager", "Member"])
    transaction.commit()
    app._p_jar.close()


def _post_task() -> None:
    body = b'{"url": "/Plone/@@bench-noop", "description": "bench"}'
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/Plone/@tasks",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_ACCEPT": "application/json",
        "HTTP_AUTHORIZATION": f"Basic {base64.b64encode(b'jane:secret-of-jane').decode()}",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
    }
    statuses: list[str] = []
    chunks = publish_module(environ, lambda status, headers, exc=None: statuses.append(status))
    b"".join(chunks)
    if statuses != ["201 Created"]:
        raise AssertionError(f"answered {statuses}")


def main() -> None:
    """Print one line for each figure."""
    parser = argparse.ArgumentParser(prog="benchmarks.web", description=__doc__)
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="without Celery and RQ")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; medians.", flush=True)
    with redis_server() as server, receiver() as url:
        for what, value in hooks(server, url, options.number, options.rounds, not options.no_peers):
            print(f"{what}: {value}", flush=True)
    with TemporaryDirectory() as folder, plone_site(Path(folder)):
        for what, value in post_tasks(options.requests):
            print(f"{what}: {value}", flush=True)


if __name__ == "__main__":
    main()
