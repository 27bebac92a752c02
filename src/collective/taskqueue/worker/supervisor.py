"""Keeps several worker processes running; never loads Zope, and forks nothing that has loaded it.

The processes notice the end of the supervisor by their socket, and stop.
"""

from __future__ import annotations

from collections import deque
from collective.taskqueue.worker.child import Child
from collective.taskqueue.worker.child import described
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.health import Health
from collective.taskqueue.worker.logs import configure_logging
from collective.taskqueue.worker.notifier import Notifier
from collective.taskqueue.worker.options import WorkerOptions
from collective.taskqueue.worker.probe import serve_probes
from collective.taskqueue.worker.signals import Command
from collective.taskqueue.worker.signals import Signals
from collective.taskqueue.worker.slots import Slot
from dataclasses import replace
import logging
import os
import selectors
import signal
import socket
import time


logger = logging.getLogger("collective.taskqueue")

#: Seconds between two looks at the processes; what they say is heard at once.
INTERVAL = 1.0

#: Seconds between two looks while a process ends, which nothing tells us.
SOON = 0.05

#: Seconds after a second signal in which the processes have to end.
LAST_MOMENT = 10.0


class Supervisor:
    """See the module."""

    def __init__(self, options: WorkerOptions, notifier: Notifier) -> None:
        self._options = options
        self._of_child = replace(options, processes=1, probe_port=None)
        self._notifier = notifier
        self._commands: deque[Command] = deque()
        self._slots = [Slot(number + 1) for number in range(options.processes)]
        #: Slots whose processes are to be replaced, one after the other.
        self._rolling: list[Slot] = []
        #: Processes that were replaced, and finish their tasks.
        self._leaving: list[Child] = []
        self._rests = False
        self._stops = False
        #: Monotonic time at which the processes are killed.
        self._killed_at = float("inf")
        self._told_ready = False
        self._code = Exit.DONE
        self._failed = 0

    def run(self) -> Exit:
        """Run until all processes have ended; return the exit code. Raises `WorkerError`."""
        configure_logging(self._options)
        serve_probes(self._options, self.health)
        logger.info("worker: supervisor %d of %d processes", os.getpid(), len(self._slots))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            # A signal wakes the selector, also if it comes right before the wait.
            signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            Signals(self._commands.append).install()
            try:
                while not self._ended():
                    self._step(ours)
            finally:
                signal.set_wakeup_fd(-1)
                for child in self._children():
                    child.close()
        logger.info("worker: supervisor ends, exit code %d", self._exit_code())
        return self._exit_code()

    def health(self) -> Health:
        """Return the state of all processes together; called by any thread."""
        dead, unready = [], []
        for slot in self._slots:
            child = slot.child
            if child is None:
                unready.append(f"process {slot.number} does not run")
                continue
            dead += [f"process {child.pid}: {text}" for text in child.health.dead]
            unready += [f"process {child.pid}: {text}" for text in child.health.unready]
        return Health(tuple(dead), tuple(unready))

    def _step(self, wakeup: socket.socket) -> None:
        self._start()
        with selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ)
            for child in self._children():
                # The socket of one that ends would be ready for ever.
                if not child.silenced:
                    selector.register(child.socket, selectors.EVENT_READ)
            for key, _ in selector.select(self._pause()):
                if key.fileobj is wakeup:
                    wakeup.recv(4096)
        for child in self._children():
            child.read()
        while self._commands:
            self._obey(self._commands.popleft())
        self._bury()
        self._roll()
        self._report()

    def _start(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.starts(now) and not self._stops:
                slot.child = self._spawn()

    def _pause(self) -> float:
        if any(child.silenced for child in self._children()):
            return SOON
        watchdog = self._notifier.watchdog
        return INTERVAL if watchdog is None else min(INTERVAL, watchdog / 3)

    def _children(self) -> list[Child]:
        return [*(child for slot in self._slots for child in slot.children()), *self._leaving]

    def _spawn(self) -> Child:
        child = Child(self._of_child)
        logger.info("worker: process %d started", child.pid)
        if self._rests:
            child.tell(Command.REST)
        return child

    def _ended(self) -> bool:
        over = self._stops or all(slot.done for slot in self._slots)
        return over and not self._children()

    def _exit_code(self) -> Exit:
        if self._code is Exit.DONE and self._options.burst and self._failed:
            return Exit.FAILED
        return self._code

    def _obey(self, command: Command) -> None:
        if command is Command.LEAVE:
            if not self._stops:
                logger.info("worker: replaces its processes, one after the other")
                self._rolling = list(self._slots)
            return
        if command is Command.STOP:
            self._stop()
        elif command is Command.NOW:
            self._stop()
            self._killed_at = time.monotonic() + LAST_MOMENT
        elif command in (Command.REST, Command.RESUME):
            self._rests = command is Command.REST
        for child in self._children():
            child.tell(command)

    def _stop(self) -> None:
        if not self._stops:
            logger.info("worker: told to stop, stopping its processes")
            self._notifier.send("STOPPING=1")
            self._stops = True
            self._rolling = []

    def _bury(self) -> None:
        for slot in self._slots:
            if slot.successor is not None and (code := slot.successor.code()) is not None:
                self._close(slot.successor)
                slot.successor, self._rolling = None, []
                logger.error(
                    "worker: a new process has ended (%s) before it was ready, the old ones go on",
                    described(code),
                )
            if slot.child is not None and (code := slot.child.code()) is not None:
                child, slot.child = slot.child, None
                self._close(child)
                self._child_has_ended(slot, child, code)
        for child in list(self._leaving):
            if (code := child.code()) is not None:
                self._leaving.remove(child)
                self._close(child)
                logger.info("worker: process %d has left (%s)", child.pid, described(code))
                self._note_loss(child, code)

    def _close(self, child: Child) -> None:
        self._failed += child.failed
        child.close()

    def _child_has_ended(self, slot: Slot, child: Child, code: int) -> None:
        how = described(code)
        if self._stops:
            logger.info("worker: process %d has ended (%s)", child.pid, how)
            self._note_loss(child, code)
        elif code == Exit.REPLACE and child.finished:
            logger.info("worker: process %d has left (%s), another one starts", child.pid, how)
            slot.deaths = 0
        elif self._options.burst and code in (Exit.DONE, Exit.FAILED):
            slot.done = True
        elif self._is_hopeless(code):
            logger.error("worker: process %d has ended (%s), stopping all", child.pid, how)
            self._code = Exit(code)
            self._obey(Command.STOP)
        else:
            self._note_loss(child, code)
            pause = slot.buried(child)
            logger.error(
                "worker: process %d has ended (%s), another one starts in %g s",
                child.pid,
                how,
                pause,
            )

    def _is_hopeless(self, code: int) -> bool:
        """Return whether another start is pointless: none was ready, and this one cannot start."""
        if self._told_ready:
            return False
        return code == Exit.CONFIGURATION or (self._options.burst and code == Exit.UNAVAILABLE)

    def _note_loss(self, child: Child, code: int) -> None:
        # A process that was replaced is no loss, unless its tasks had to be done by this run. One
        # that loads Zope has no task, and at first no handler of signals.
        lost = code < 0 and (child.loaded or code != -signal.SIGTERM)
        if lost and (self._stops or self._options.burst) and self._code is Exit.DONE:
            self._code = Exit.LOST

    def _roll(self) -> None:
        for slot in self._slots:
            if slot.successor is not None and slot.successor.loaded and not self._stops:
                if slot.child is not None:
                    logger.info(
                        "worker: process %d is ready, %d takes no more tasks and leaves",
                        slot.successor.pid,
                        slot.child.pid,
                    )
                    slot.child.tell(Command.LEAVE)
                    self._leaving.append(slot.child)
                slot.child, slot.successor, slot.deaths = slot.successor, None, 0
        if self._rolling and not any(slot.successor for slot in self._slots):
            slot = self._rolling.pop(0)
            if slot.child is not None:
                slot.successor = self._spawn()

    def _report(self) -> None:
        now = time.monotonic()
        for child in self._children():
            silent = self._is_silent(child, now)
            if (silent or now > self._killed_at) and not child.killed:
                why = "silent for too long" if silent else "does not end"
                logger.error("worker: process %d %s, killed", child.pid, why)
                child.kill()
        if not self._told_ready and all(slot.has_started() for slot in self._slots):
            self._told_ready = True
            logger.info("worker: ready, all %d processes", len(self._slots))
            self._notifier.send("READY=1")
        if self._notifier.watchdog is not None:
            self._notifier.send("WATCHDOG=1")

    def _is_silent(self, child: Child, now: float) -> bool:
        """Return whether systemd would kill this process, if it watched it and not us."""
        watchdog = self._notifier.watchdog
        if watchdog is None or child.ends or not child.loaded:
            return False
        return now - child.heard > watchdog
