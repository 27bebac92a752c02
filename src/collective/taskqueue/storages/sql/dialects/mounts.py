"""A file of SQLite may only be on a file system of this machine."""

from __future__ import annotations

from collective.taskqueue.config import QueueSettings
from collective.taskqueue.errors import ConfigurationError
from pathlib import Path
import re


#: File systems on which one machine does not see the locks of another.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|ocfs2|gfs2|fuse\.(sshfs|.*gluster.*)"
)


#: The list of mounted file systems, on Linux.
MOUNTS = Path("/proc/self/mountinfo")


def refuse_network(settings: QueueSettings, path: Path) -> None:
    """Raise `ConfigurationError` for a path on a network file system, if that can be known."""
    kind = _file_system(path)
    if kind and NETWORK.fullmatch(kind):
        raise ConfigurationError(
            f"{settings.place}: {path} is on a network file system ({kind}), where SQLite"
            " loses data; use a local disk or PostgreSQL"
        )


def _file_system(path: Path) -> str:
    """Return the type of the file system of a path; empty if it cannot be known."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    place, found = path.absolute().resolve(), ("", "")
    for line in lines:
        mount, _, rest = line.partition(" - ")
        # Blanks in the mount point are written in octal.
        point = mount.split()[4].encode().decode("unicode_escape")
        # Of two file systems on one mount point the later one is in use.
        if place.is_relative_to(point) and len(point) >= len(found[0]):
            found = point, rest.split()[0]
    return found[1]
