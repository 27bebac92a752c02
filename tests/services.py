"""Servers that the tests start as private processes, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from subprocess import Popen
import shutil
import signal
import socket
import subprocess
import time


#: Servers start in a moment; this is for a busy machine.
START_TIMEOUT = 30.0


class RedisServer:
    """A redis-server on a unix socket; `persistent` writes every change to a file."""

    def __init__(
        self, folder: Path, binary: str = "redis-server", persistent: bool = False
    ) -> None:
        path = shutil.which(binary)
        if path is None:
            raise RuntimeError(f"{binary} is missing; type: apt-get install {binary}")
        self.folder = folder
        self.socket = str(folder / "redis.sock")
        self._command = [path, "--port", "0", "--unixsocket", self.socket, "--dir", str(folder)]
        self._command += ["--save", "", "--logfile", str(folder / "redis.log")]
        if persistent:
            self._command += ["--appendonly", "yes", "--appendfsync", "always"]
        self.process: Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Start the process and wait until it answers."""
        self.process = subprocess.Popen(self._command)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} does not start, see {self.folder}")
            time.sleep(0.01)
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process by a signal and wait for it."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            process.wait(START_TIMEOUT)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(self.socket)
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith(b"+PONG")
            except OSError:
                return False
