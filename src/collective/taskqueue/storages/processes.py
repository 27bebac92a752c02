"""Which process is which, and whether one of this machine is dead."""

from __future__ import annotations

from pathlib import Path
import os
import socket
import uuid


#: Seconds in which a consumer that waits for tasks is heard of, whatever its storage.
SILENCE = 60.0

_NONCE = uuid.uuid4().hex[:8]


def identity() -> str:
    """Return a name for this process that no other one has, ever.

    Made of the host, its boot, the process id and the time the process started.
    """
    pid = os.getpid()
    return "|".join((_machine(), str(pid), _started(pid) or _NONCE))


def host_and_pid(name: str) -> tuple[str, int]:
    """Return machine and process id of the process of that name; empty and 0 if unknown."""
    parts = name.split("|")
    pid = parts[-2] if len(parts) > 1 else ""
    return parts[0], _number(pid)


def is_dead(name: str) -> bool:
    """Return whether the process of that name is known not to run any more.

    Of another machine nothing is known: its leases expire.
    """
    machine, _, rest = name.rpartition("|")
    machine, _, pid = machine.rpartition("|")
    number = _number(pid)
    if not machine or machine != _machine() or not number:
        return False
    # Where other people's processes are hidden, this tells nothing.
    started = _started(number)
    return started != rest if started else not _exists(number)


def _number(pid: str) -> int:
    # What a storage has of it may be damaged; no process has a longer id.
    return int(pid) if pid.isascii() and pid.isdigit() and len(pid) <= 9 else 0


def is_alive(name: str, age: float, busy: bool) -> bool:
    """Return whether a consumer in the process of that name takes tasks, as far as is known.

    It was heard of `age` seconds ago. One that is `busy`, under a lease, may be silent.
    """
    return (busy or age < SILENCE) and not is_dead(name)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Process ids mean something within one namespace only.
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return f"{socket.gethostname()}|{boot}|{space}"


def _started(pid: int) -> str:
    """Ticks between the boot and the start of a process; empty if that cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name of the command is in brackets and may contain anything.
    fields = stat.rpartition(")")[2].split()
    # A zombie runs nothing any more.
    return "zombie" if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is somebody else's.
        pass
    return True
