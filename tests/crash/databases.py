"""The databases that transactions of the crash tests are committed to."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from persistent.mapping import PersistentMapping
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
import subprocess
import sys
import time


#: Servers start in a moment; this is for a busy machine.
START_TIMEOUT = 30.0


class Opener:
    """Opens a database; called in each process that uses it, and again after a crash.

    `restart` restarts its server, if it has one.
    """

    def __init__(
        self, opener: Callable[[], DB], restart: Callable[[], None] = lambda: None
    ) -> None:
        self._opener = opener
        self.restart = restart

    def __call__(self) -> DB:
        return self._opener()


@contextmanager
def file_storage(folder: Path) -> Iterator[Opener]:
    """A database in a file, which one process at a time can open."""
    yield Opener(lambda: DB(FileStorage(str(folder / "Data.fs")), database_name="main"))


@contextmanager
def zeo(folder: Path) -> Iterator[Opener]:
    """A database of a ZEO server, which is a process of its own."""
    server = ZEOServer(folder).start()
    try:
        yield Opener(server.open, server.restart)
    finally:
        server.stop()


class ZEOServer:
    """A `runzeo` process with a FileStorage, on a unix socket."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "zeo.sock")
        self._log = folder / "zeo.log"
        self._command = [sys.executable, "-m", "ZEO.runzeo", "-a", self.address]
        self._command += ["-f", str(folder / "Zeo.fs")]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> ZEOServer:
        """Start the process and wait until a client can use it."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT
        while not Path(self.address).exists():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"ZEO does not start: {self._log.read_text()}")
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """End the process as a power failure would."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait(START_TIMEOUT)
            Path(self.address).unlink(missing_ok=True)

    def restart(self) -> None:
        """End the process as an operator does, by SIGTERM, and start another one."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait(START_TIMEOUT)
        Path(self.address).unlink(missing_ok=True)
        self.start()

    def stop(self) -> None:
        """End the process; nothing of value is in it."""
        self.kill()

    def open(self, address: Any = None, **options: Any) -> DB:
        """Return a database whose client is connected."""
        from ZEO.ClientStorage import ClientStorage

        options = {"wait_timeout": START_TIMEOUT, **options}
        storage = ClientStorage(address or self.address, **options)
        return DB(storage, database_name="main")


@contextmanager
def rel_storage(folder: Path, keep_history: bool) -> Iterator[Opener]:
    """A database of RelStorage in SQLite, which needs no server."""
    from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage

    def opener() -> DB:
        options = Options(keep_history=keep_history, driver="auto")
        adapter = Sqlite3Adapter(str(folder / "rel"), {}, options=options)
        return DB(RelStorage(adapter, options=options), database_name="main")

    yield Opener(opener)


def commit_objects(database: DB, transactions: int = 3, objects: int = 40) -> None:
    """Commit new objects, as any site does: they get the next object ids."""
    for _ in range(transactions):
        with database.transaction() as connection:
            connection.root()["objects"] = [PersistentMapping() for _ in range(objects)]
