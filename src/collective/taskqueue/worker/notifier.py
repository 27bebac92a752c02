"""Tells systemd that a worker is ready, stops, or is alive: the protocol of ``sd_notify``."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import MutableMapping
import logging
import os
import socket


logger = logging.getLogger("collective.taskqueue")

#: The variables that systemd sets for the process that it has started.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Sends messages to the socket that the environment names; without one it does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # Systemd writes the zero byte of an abstract socket as an at sign.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        #: Seconds after which systemd kills a process that is silent; None without a watchdog.
        self.watchdog = _watchdog(environ)

    def send(self, *messages: str) -> None:
        """Send messages, such as READY=1; never raises and never waits."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(messages).encode(), self._address)
        except OSError as exc:
            logger.warning("worker: systemd was not told %s (%s)", messages[0], exc)


def forget(environ: MutableMapping[str, str]) -> None:
    """Remove what is meant for this process alone, before others are started."""
    for name in VARIABLES:
        environ.pop(name, None)


def _watchdog(environ: Mapping[str, str]) -> float | None:
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or not int(text) or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1_000_000
