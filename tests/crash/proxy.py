"""A proxy between a client and its server that loses a reply when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
import contextlib
import socket
import threading


class Proxy:
    """Forwards a unix socket; `lose_reply` cuts a connection at the worst moment."""

    def __init__(self, target: str, path: Path) -> None:
        self.address = str(path)
        self._target = target
        self._word: bytes | None = None
        self._sockets: list[socket.socket] = []
        self.lost = threading.Event()
        #: Called between the reply of the server and the end of the connection.
        self.meanwhile = lambda: None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def lose_reply(self, word: bytes) -> None:
        """Let the next request with that word through, and lose what the server answers."""
        self.lost.clear()
        self._word = word

    def close(self) -> None:
        """End all connections."""
        self._closed.set()
        self._end(self._listener, *self._sockets)
        for thread in self._threads:
            thread.join()
        for item in (self._listener, *self._sockets):
            item.close()

    def _start(self, call: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=call, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                while not self._closed.is_set() and server.connect_ex(self._target):
                    # The server is not back yet; its client waits.
                    self._closed.wait(0.01)
                cut = threading.Event()
                self._start(self._requests, client, server, cut)
                self._start(self._replies, client, server, cut)

    def _requests(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._word is not None and self._word in data:
                    self._word = None
                    cut.set()
                server.sendall(data)
        self._end(client, server)

    def _replies(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():
                    self.meanwhile()
                    self.lost.set()
                    self._end(client, server)
                    return
                client.sendall(data)
        self._end(client, server)

    def _end(self, *sockets: socket.socket) -> None:
        for item in sockets:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
