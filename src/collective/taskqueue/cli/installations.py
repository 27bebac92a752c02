"""Finds out whether a consumer of a queue works on another database than this installation.

Two installations on one machine get mixed easily: both have the queue ``default`` on the default
port of Redis. Only processes of this machine can be looked at, and only with the rights to do so.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collective.taskqueue.storages import processes
from collective.taskqueue.task import ConsumerStatus
from configparser import ConfigParser
from configparser import Error as ParserError
from pathlib import Path
from typing import Any
from ZConfig import ConfigurationError


#: Where the kernel tells what a process is.
PROC = Path("/proc")


def strangers(
    source: Path | None, consumers: Iterable[ConsumerStatus]
) -> Iterator[tuple[str, str]]:
    """Yield name and zope.conf of each consumer that works on another database.

    `source` is our zope.conf, if there is one. A consumer whose database is not known is left out.
    """
    ours = None if source is None else _database(source)
    if ours is None:
        return
    machine, _ = processes.host_and_pid(processes.identity())
    for each in consumers:
        if not each.alive or each.host != machine or not each.pid:
            continue
        path = _configuration(each.pid)
        theirs = None if path is None else _database(path)
        if theirs is not None and theirs != ours:
            yield each.name, str(path)


def _configuration(pid: int) -> Path | None:
    """Return the zope.conf that a process was started with; None if it is not known."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        folder = (PROC / str(pid) / "cwd").readlink()
    except OSError:
        return None
    for word in reversed(words):
        # An option may have the file behind a sign: config_file=etc/zope.conf.
        path = folder / word.rpartition("=")[2]
        if path.suffix == ".conf" and path.is_file():
            return path
        if path.suffix == ".ini" and path.is_file():
            return _of_paste(path)
    return None


def _of_paste(path: Path) -> Path | None:
    parser = ConfigParser({"here": str(path.parent)})
    try:
        parser.read(path, encoding="utf-8")
        for section in parser.sections():
            if parser.has_option(section, "zope_conf"):
                return path.parent / parser.get(section, "zope_conf")
    except (ParserError, OSError, UnicodeError):
        pass
    return None


def _database(path: Path) -> tuple[Any, ...] | None:
    """Return what identifies the main database of a zope.conf; None if nothing does."""
    from Zope2.Startup.options import ZopeWSGIOptions

    try:
        databases = ZopeWSGIOptions(str(path))().configroot.databases
    except (ConfigurationError, ImportError, OSError, ValueError):
        return None
    for database in databases:
        if "/" in dict.fromkeys(point.partition(":")[0] for point in database.config.mount_points):
            return _place(database.config.storage)
    return None


def _place(storage: Any) -> tuple[Any, ...] | None:
    config = storage.config
    base = getattr(config, "base", None)
    if base is not None:
        # A storage around another one.
        return _place(base)
    if getattr(config, "server", None):
        servers = sorted(str(each.address) for each in config.server)
        return "ZEO", servers, config.storage
    if getattr(config, "adapter", None) is not None:
        adapter = config.adapter.config
        names = adapter.getSectionAttributes()
        # Compared, and never shown: it may have a password.
        return "RelStorage", repr([(name, getattr(adapter, name)) for name in names])
    if getattr(config, "path", None):
        return "file", str(Path(config.path).resolve())
    return None
