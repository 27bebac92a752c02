"""What the main thread of a worker does: take commands, look at the limits, report its health."""

from __future__ import annotations

from collective.taskqueue.consumer.tally import tally
from collective.taskqueue.interfaces import ITaskQueue
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.task import FAILED
from collective.taskqueue.worker.channel import Channel
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from collective.taskqueue.worker.health import Health
from collective.taskqueue.worker.limits import Emptiness
from collective.taskqueue.worker.limits import Memory
from collective.taskqueue.worker.notifier import Notifier
from collective.taskqueue.worker.options import WorkerOptions
from collective.taskqueue.worker.signals import Command
from collective.taskqueue.worker.signals import Signals
from collective.taskqueue.worker.stacks import log_stacks
from queue import Empty
from queue import SimpleQueue
from zope.component import getUtility
import logging
import os
import signal
import sys
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds between two looks at the limits, and while the worker comes to an end.
INTERVAL = 1.0
SOON = 0.25

#: Seconds after which the main thread is stuck: it waits for no more than one call to a storage.
STUCK = 120.0


class Loop:
    """The main thread of a worker from `begin` to `end`; commands come from any thread."""

    def __init__(
        self, options: WorkerOptions, notifier: Notifier, channel: Channel | None = None
    ) -> None:
        self._options = options
        self._notifier = notifier
        self._channel = channel
        self._memory = None if options.max_memory is None else Memory(options.max_memory)
        self._emptiness: Emptiness | None = None
        # `put` may be called by a signal handler that has interrupted another `put` or `get`.
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._signals = Signals(self._commands.put)
        self._moved = time.monotonic()
        self._loaded = False
        self._rests = False
        #: Why the process is leaving: it takes no more tasks, and the running ones finish.
        self._leaves: Exit | None = None
        #: Whether running tasks are left as they are.
        self._now = False
        #: Stops the consumers, within their grace period.
        self._stopper: threading.Thread | None = None

    def begin(self) -> None:
        """Take commands from now on; called in the main thread before Zope is loaded."""
        self._signals.ends_at_once = True
        self._signals.install()

    def told(self, command: Command) -> None:
        """Take a command of the supervisor, in another thread."""
        if command is Command.STOP and self._signals.ends_at_once:
            # The main thread is busy, but for signals.
            os.kill(os.getpid(), signal.SIGTERM)
        self._commands.put(command)

    def run(self) -> Exit:
        """Obey commands until the consumers have stopped; return the exit code.

        Called when Zope is loaded. Raises `WorkerError` if there is no consumer.
        """
        self._signals.ends_at_once = False
        consumers = _startup().consumers()
        if not consumers:
            message = "this worker has no consumer; name a queue with --queue, or in zope.conf"
            raise WorkerError(f"{message} with <taskqueue-server>", Exit.CONFIGURATION)
        if self._options.burst:
            self._emptiness = Emptiness({each.settings.queue for each in consumers})
        if self._options.max_tasks is not None:
            tally.alarm(self._options.max_tasks, self._has_run_enough)
        self._loaded = True
        logger.info("worker: ready, process %d, %d consumers", os.getpid(), len(consumers))
        self._notifier.send("READY=1")
        while True:
            self._moved = time.monotonic()
            self._report()
            if self._stopper is not None and not self._stopper.is_alive():
                return self._code()
            try:
                self._obey(self._commands.get(timeout=self._pause()))
            except Empty:
                self._look()

    def end(self) -> None:
        """Stop the consumers if they still run; called before the databases are closed."""
        if self._stopper is None and "collective.taskqueue.startup" in sys.modules:
            _startup().stop_consumers()

    def health(self) -> Health:
        """Return the state of this worker; called by any thread, and never waits."""
        if not self._loaded:
            return Health(unready=("Zope is being loaded",))
        consumers = _startup().consumers()
        dead = [f"thread {name} is stuck" for each in consumers for name in each.stuck()]
        if time.monotonic() - self._moved > STUCK:
            dead.append("the main thread is stuck")
        names = sorted({each.settings.queue for each in consumers})
        unready = [f"queue {name}: storage unavailable" for name in names if _unavailable(name)]
        if self._rests or self._leaves is not None or self._stopper is not None:
            unready.append("it takes no more tasks")
        return Health(tuple(dead), tuple(unready))

    def _pause(self) -> float:
        busy = self._options.burst or self._rests or self._leaves is not None or self._stopper
        # A watchdog wants to hear from us more often than that.
        return min(SOON if busy else INTERVAL, (self._notifier.watchdog or 60.0) / 3)

    def _report(self) -> None:
        health = self.health()
        if health.live and self._notifier.watchdog is not None:
            self._notifier.send("WATCHDOG=1")
        if self._channel is not None:
            counts = tally.counts()
            self._channel.report(health, sum(counts.values()), counts.get(FAILED, 0))

    def _obey(self, command: Command) -> None:
        if command in (Command.STOP, Command.NOW):
            self._now = command is Command.NOW
            self._leaves = None
            self._stop("told to stop")
            self._look()
        elif command is Command.LEAVE:
            self._leave("told to leave", Exit.REPLACE)
        elif command is Command.STACKS:
            log_stacks()
        elif command is Command.REST:
            self._rests = True
            self._rest()
            logger.info("worker: takes no more tasks until CONT")
        elif command is Command.RESUME and self._rests:
            self._rests = False
            if self._leaves is None:
                logger.info("worker: takes tasks again")
                for consumer in _startup().consumers():
                    consumer.resume()

    def _look(self) -> None:
        if self._stopper is not None:
            if self._now:
                # Again and again: the other thread may be about to wait.
                _startup().stop_waiting()
            return
        if self._rests or self._leaves is not None:
            if self._rest() and self._leaves is not None:
                self._stop("no task runs any more")
        elif self._memory is not None and (used := self._memory.over()):
            megabytes, limit = used // 1024**2, self._memory.limit // 1024**2
            self._leave(f"{megabytes} MB of memory, limit {limit} MB", Exit.REPLACE)
        elif self._emptiness is not None and self._emptiness.seen():
            self._leave("the queues are empty", Exit.DONE)

    def _rest(self) -> bool:
        # All of them, not only up to the first that still works.
        rested = [consumer.rest() for consumer in _startup().consumers()]
        return all(rested)

    def _has_run_enough(self) -> None:
        # In the thread that has finished the last task, so that it takes no other.
        self._leave(f"{self._options.max_tasks} attempts finished", Exit.REPLACE)

    def _leave(self, why: str, code: Exit) -> None:
        if self._leaves is None and self._stopper is None:
            self._leaves = code
            self._rest()
            logger.info("worker: %s, takes no more tasks and ends when none runs", why)

    def _stop(self, why: str) -> None:
        if self._stopper is None:
            logger.info("worker: %s, stopping its consumers", why)
            self._notifier.send("STOPPING=1")
            self._stopper = threading.Thread(
                target=_startup().stop_consumers, name="taskqueue-stop", daemon=True
            )
            self._stopper.start()

    def _code(self) -> Exit:
        code = Exit.DONE if self._leaves is None else self._leaves
        if code is Exit.DONE and self._options.burst and tally.counts().get(FAILED):
            return Exit.FAILED
        return code


def _unavailable(name: str) -> bool:
    # By the last calls of others; makes no call.
    return outage_of(getUtility(ITaskQueue, name=name).storage).lasts()


def _startup():  # type: ignore[no-untyped-def]
    # Not before Zope is loaded: the import of its modules is a part of that.
    from collective.taskqueue import startup

    return startup
