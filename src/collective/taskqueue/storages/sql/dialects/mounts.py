"""Which file systems a file of SQLite may be on: those of this machine."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from pathlib import Path
import re


#: File systems on which a lock of one machine is not seen by another.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|ocfs2|gfs2|fuse\.(sshfs|.*gluster.*)"
)


#: What is mounted where, on Linux.
MOUNTS = Path("/proc/self/mountinfo")


def refuse_network(settings: QueueSettings, path: Path) -> None:
    """Raises `ConfigurationError` for a path on a network file system, if it can be told."""
    kind = _file_system(path)
    if kind and NETWORK.fullmatch(kind):
        raise ConfigurationError(
            f"{settings.place}: {path} is on a network file system ({kind}), where SQLite"
            " loses data; use a local disk or PostgreSQL"
        )


def _file_system(path: Path) -> str:
    """Return the type of the file system of a path; empty if it cannot be told."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    place, found = path.absolute().resolve(), ("", "")
    for line in lines:
        mount, _, rest = line.partition(" - ")
        # Blanks are written in octal.
        point = mount.split()[4].encode().decode("unicode_escape")
        # Of two on one point the later one is seen.
        if place.is_relative_to(point) and len(point) >= len(found[0]):
            found = point, rest.split()[0]
    return found[1]
