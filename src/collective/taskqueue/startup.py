"""Builds queues when the database is opened, and starts consumers with the server."""

from __future__ import annotations

from App.config import getConfiguration
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
from collective.taskqueue import config
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.config import report
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.config import Settings
from collective.taskqueue.consumer import events
from collective.taskqueue.consumer import interrupt
from collective.taskqueue.consumer.attempt import Attempt
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.consumer.order import Order
from collective.taskqueue.consumer.policy import classify
from collective.taskqueue.enqueue import indoubt
from collective.taskqueue.enqueue import outbox
from collective.taskqueue.enqueue.datamanager import pending
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.interfaces import ITaskQueueLayer
from collective.taskqueue.publisher.place import MAIN
from collective.taskqueue.publisher.request import publish
from collective.taskqueue.publisher.slot import Slots
from collective.taskqueue.queue import TaskQueue
from collective.taskqueue.schedules.job import entry
from collective.taskqueue.schedules.ticker import Ticker
from collective.taskqueue.storages import outage
from collective.taskqueue.storages.factory import make_storage
from collective.taskqueue.task import Outcome
from collective.taskqueue.webhook.client import WebHooks
from functools import partial
from types import FrameType
from typing import Any
from zope.component import adapter
from zope.component import getGlobalSiteManager
from zope.component import getUtility
from zope.processlifetime import IDatabaseOpenedWithRoot
from zope.processlifetime import IProcessStarting
from ZPublisher.interfaces import IPubStart
import atexit
import logging
import os
import signal
import sys
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: What `signal.getsignal` returns and `signal.signal` takes.
Handler = Callable[[int, FrameType | None], object] | int | None

#: Seconds at the end of the process for batches that the outbox relay has not finished yet.
UNFINISHED_TIMEOUT = 5.0


class _Process:
    """The consumers of this process, and whether it is a fork that has to start its own."""

    def __init__(self) -> None:
        self.database: Any = None
        #: Of zope.conf and the environment, when the database was opened.
        self.settings = Settings()
        #: Detects lost transactions by what the main database had when it was opened.
        self.restored: indoubt.Restored | None = None
        self.consumers: list[Consumer] = []
        #: Consumers that were told to stop, and wait for their tasks.
        self.leaving: list[Consumer] = []
        #: Queues the tasks of schedules; None without any.
        self.ticker: Ticker | None = None
        self.lock = threading.Lock()
        self.forked = False
        self.hooked = False
        #: Id of the process that has read zope.conf; a fork has another id.
        self.pid = 0
        self.serving = False


_process = _Process()


@adapter(IDatabaseOpenedWithRoot)
def build_queues(event: IDatabaseOpenedWithRoot) -> None:
    """Register a utility for each queue; scripts may enqueue from now on.

    Raises `ConfigurationError` for a storage that cannot be built, and ZConfig's for a mistake in
    zope.conf or in the environment.
    """
    report.install()
    sections = getattr(getConfiguration(), "product_config", None) or {}
    _process.settings = config.resolve(sections, os.environ)
    _process.database = event.database
    main = event.database.databases.get(MAIN)
    _process.restored = None if main is None else indoubt.Restored(main, time.time())
    for settings in _process.settings.queues:
        queue = TaskQueue(settings, make_storage(settings))
        _check(queue)
        getGlobalSiteManager().registerUtility(queue, ITaskQueue, name=queue.name)
        logger.info("queue %s: %s storage", queue.name, settings.type)
    if not _process.hooked:
        _process.hooked = True
        os.register_at_fork(after_in_child=_after_fork)
        _process.pid = os.getpid()
        atexit.register(_at_exit)


@adapter(IProcessStarting)
def start_consumers(event: IProcessStarting) -> None:
    """Start the consumers of the configuration, unless a script is about to run."""
    servers = _process.settings.servers
    _warn_of_queues_without_consumer(servers)
    if not servers:
        return
    if _is_script():
        logger.info("this is a script: tasks can be added, consumers are not started")
        return
    _start(servers)
    if not _process.serving:
        _process.serving = True
        atexit.register(stop_consumers)
        _stop_on_signals()


@adapter(IPubStart)
def start_consumers_after_fork(event: IPubStart) -> None:
    """Start the consumers of a worker that a server has forked, at its first request.

    Not right after the fork: the child may be no server at all.
    """
    if not _process.forked or ITaskQueueLayer.providedBy(event.request):
        return
    with _process.lock:
        forked, _process.forked = _process.forked, False
        if forked:
            _start(_process.settings.servers)


def _warn_of_queues_without_consumer(servers: Sequence[ServerSettings]) -> None:
    served = {server.queue for server in servers}
    for settings in _process.settings.queues:
        if settings.type == "local" and settings.queue not in served:
            logger.warning(
                "queue %s: in the memory of this process, which has no consumer for it:"
                " its tasks do not run",
                settings.queue,
            )


def stop_consumers() -> None:
    """Stop taking tasks and let running tasks finish; called at exit and on SIGTERM."""
    _process.leaving, _process.consumers = _process.consumers, []
    ticker, _process.ticker = _process.ticker, None
    if ticker is not None:
        ticker.begin_stop()
    # All consumers are told first and waited for afterwards, so that together they take no
    # longer than the longest grace period. In this thread: at exit no other can be started.
    for consumer in _process.leaving:
        consumer.begin_stop()
    for consumer in _process.leaving:
        consumer.end_stop()
    _process.leaving = []
    if ticker is not None:
        ticker.end_stop()
    events.flush()


def consumers() -> list[Consumer]:
    """Return the consumers of this process that were not told to stop."""
    return list(_process.consumers)


def stop_waiting() -> None:
    """Let `stop_consumers`, which waits in another thread, wait no longer."""
    for consumer in _process.leaving:
        consumer.stop_waiting()


def _at_exit() -> None:
    _tell_of_uncommitted_tasks()
    _close_storages()


def _tell_of_uncommitted_tasks() -> None:
    # At exit this is the main thread. A script or a prompt may leave a transaction open in it;
    # a server has ended each of its own. The transaction in a forked child is its parent's.
    if os.getpid() != _process.pid:
        return
    queues = getGlobalSiteManager().getUtilitiesFor(ITaskQueue)
    count = sum(len(pending(queue)) for _, queue in queues)
    if count:
        logger.warning(
            "%d tasks were added but the transaction was not committed, nothing was queued", count
        )


def _close_storages() -> None:
    outbox.close(UNFINISHED_TIMEOUT)
    events.flush()
    for name, queue in getGlobalSiteManager().getUtilitiesFor(ITaskQueue):
        try:
            queue.storage.close()
        except Exception:
            logger.exception("queue %s: its storage could not be closed", name)


def _check(queue: TaskQueue) -> None:
    try:
        outage.outage_of(queue.storage).call(queue.storage.admin.check)
    except StorageUnavailable as exc:
        # A site in production starts; its queue works once the storage is available.
        if getattr(getConfiguration(), "debug_mode", False):
            raise ConfigurationError(f"{queue.settings.place}: {exc}") from exc
        logger.warning("queue %s: tasks are refused until its storage is available", queue.name)


def _start(servers: Sequence[ServerSettings]) -> None:
    orders: dict[tuple[str, tuple[str, ...]], Order] = {}
    for settings in servers:
        queue = getUtility(ITaskQueue, name=settings.queue)
        consumer = Consumer(
            queue.storage,
            partial(_perform, queue.settings, WebHooks(queue.settings)),
            settings,
            queue.publish_event,
            ready=partial(_reached, _process.database),
            maintenance=partial(
                indoubt.resolve,
                queue.storage,
                _process.database.databases,
                promoting=queue.promoting,
            ),
        )
        slots = _slots(queue)
        if slots is not None:
            consumer.use_slots(slots, queue.settings.max_deliveries)
        if settings.order:
            key = settings.name, settings.order
            order = orders.setdefault(key, Order(settings.concurrent_limit))
            consumer.use_turn(order.add())
        _process.consumers.append(consumer)
    # An earlier queue of an order has its turn before a later one takes its first task.
    for consumer in _process.consumers:
        consumer.start()
    _start_ticker({server.queue for server in servers})


def _start_ticker(queues: Collection[str]) -> None:
    """Tick the schedules of the queues that this process consumes."""
    mine = [
        settings
        for settings in _process.settings.schedules
        if settings.enabled and settings.queue in queues
    ]
    if mine:
        _process.ticker = Ticker(entry(settings, _process.database) for settings in mine)
        _process.ticker.start()
        logger.info("schedules: %s", ", ".join(settings.name for settings in mine))


def _slots(queue: TaskQueue) -> Slots | None:
    if not IRemoteStorage.providedBy(queue.storage):
        # The tasks of a local queue are lost with the process that runs them.
        return None
    main = _process.database.databases.get(MAIN)
    if main is None:
        logger.warning(
            "queue %s: there is no database %s, a task whose process is lost may run twice",
            queue.name,
            MAIN,
        )
        return None
    return Slots(main, partial(classify, transient=queue.settings.transient_statuses))


def _perform(settings: QueueSettings, hooks: WebHooks, attempt: Attempt) -> Outcome:
    outcome = hooks.call(attempt) if attempt.task.is_hook else publish(attempt)
    return classify(outcome, settings.transient_statuses)


def _reached(database: Any, tid: bytes) -> bool:
    if _process.restored is not None:
        _process.restored.check(tid)
    main = database.databases.get(MAIN)
    return main is None or indoubt.reached(main, tid)


def _is_script() -> bool:
    # zconsole starts Zope just as a server does; only its module shows the difference.
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = "Zope2.utilities.zconsole"
    return name in sys.modules or getattr(main, "name", None) == name


def _after_fork() -> None:
    _process.lock = threading.Lock()
    _process.consumers = []
    _process.leaving = []
    _process.ticker = None
    _process.forked = _process.serving
    events.after_fork()
    outbox.after_fork()
    interrupt.after_fork()
    outage.after_fork()
    # The global registry, not the current site: a site would use a connection of the parent.
    for _, queue in getGlobalSiteManager().getUtilitiesFor(ITaskQueue):
        queue.after_fork()


def _stop_on_signals() -> None:
    # The server closes the database as soon as it gets the signal. So first the tasks that use
    # the database have to end, and then the previous handler is called.
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        # A worker has handlers of its own, which stop the consumers, too.
        if previous not in (signal.SIG_IGN, None) and not hasattr(previous, "stops_consumers"):
            signal.signal(number, _handler(previous))


def _handler(previous: Handler) -> Handler:
    def stop(number: int, frame: FrameType | None) -> None:
        if _process.leaving:
            # Second signal: the first call, interrupted while it waits, goes on at once.
            stop_waiting()
            return
        stop_consumers()
        if callable(previous):
            previous(number, frame)
        else:
            raise SystemExit(0)

    return stop
