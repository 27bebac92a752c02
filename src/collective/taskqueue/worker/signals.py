"""The signals of a worker, as commands that its main thread takes from a queue."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from types import FrameType
import signal


class Command(Enum):
    """What a worker can be told, by a signal or by its supervisor."""

    STOP = "stop"
    NOW = "now"
    REST = "rest"
    RESUME = "resume"
    LEAVE = "leave"
    STACKS = "stacks"


#: What each command does, for people.
EFFECTS = {
    Command.STOP: "Take no more tasks, give the running ones their grace period, and end. The"
    " second of these signals ends the grace period at once; tasks that are left run again.",
    Command.REST: "Take no more tasks; those that run finish.",
    Command.RESUME: "Take tasks again.",
    Command.STACKS: "Write the stacks of all threads to the log.",
    Command.LEAVE: "With --processes: replace the processes, one after the other. Otherwise: take"
    " no more tasks, and end when the running ones have finished, however long they take.",
}

#: What each signal means.
SIGNALS = {
    signal.SIGTERM: Command.STOP,
    signal.SIGINT: Command.STOP,
    signal.SIGTSTP: Command.REST,
    signal.SIGCONT: Command.RESUME,
    signal.SIGTTIN: Command.STACKS,
    signal.SIGHUP: Command.LEAVE,
}


def names_of(command: Command) -> str:
    """Return the names of the signals with this meaning, as `kill` takes them."""
    names = [number.name for number, meant in SIGNALS.items() if meant is command]
    return ", ".join(name.removeprefix("SIG") for name in names)


class Signals:
    """Handlers that do nothing but pass a command on, to `send`; the second STOP is NOW.

    The handlers of TERM and INT have an attribute `stops_consumers`: `startup` leaves them.
    """

    def __init__(self, send: Callable[[Command], object]) -> None:
        self._send = send
        self._stops = 0
        #: Whether STOP ends the main thread at once: while it loads Zope, and takes no commands.
        self.ends_at_once = False

    def install(self) -> None:
        """Handle the signals from now on, except those that the parent lets us ignore."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handler)

    def _handler(self, number: int, frame: FrameType | None) -> None:
        command = SIGNALS[signal.Signals(number)]
        if command is Command.STOP:
            self._stops += 1
            if self._stops > 1:
                command = Command.NOW
        self._send(command)
        if self.ends_at_once and command is Command.STOP:
            raise SystemExit(0)

    # A bound method has no attributes of its own, but shows those of its function.
    _handler.stops_consumers = True  # type: ignore[attr-defined]
