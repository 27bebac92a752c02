"""Ports of the loopback interface for servers of tests."""

import random
import socket


LOOPBACK = "127.0.0.1"

#: Below the ports that the system itself gives to connections: between the choice of a port and
#: the start of its server, no connection can take it.
PORTS = range(10_000, 32_000)

_choice = random.SystemRandom()


def free_port() -> int:
    """Return a port that no server listens on; other processes choose others, almost always."""
    while True:
        port = _choice.choice(PORTS)
        try:
            with socket.create_server((LOOPBACK, port)):
                return port
        except OSError:
            continue
