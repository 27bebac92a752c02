"""Names of processes, and whether a process of this machine is dead."""

from __future__ import annotations

from pathlib import Path
import os
import socket
import uuid


#: A consumer that waits for tasks makes a call within these seconds, in every storage.
SILENCE = 60.0

_NONCE = uuid.uuid4().hex[:8]


def identity() -> str:
    """Return a name for this process that no other process ever has.

    The name has the host, its boot, the process id and the start time of the process.
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

    Returns False for processes of other machines: their leases expire.
    """
    machine, _, rest = name.rpartition("|")
    machine, _, pid = machine.rpartition("|")
    number = _number(pid)
    if not machine or machine != _machine() or not number:
        return False
    # If /proc hides processes of other users, their start time is unknown.
    started = _started(number)
    return started != rest if started else not _exists(number)


def _number(pid: str) -> int:
    # The stored name may be damaged; no process id has more digits.
    return int(pid) if pid.isascii() and pid.isdigit() and len(pid) <= 9 else 0


def is_alive(name: str, age: float, busy: bool) -> bool:
    """Return whether a consumer in the process of that name takes tasks, as far as is known.

    Its last call was `age` seconds ago. A `busy` consumer, with a lease, may be silent.
    """
    return (busy or age < SILENCE) and not is_dead(name)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # A process id is only valid within one namespace.
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return f"{socket.gethostname()}|{boot}|{space}"


def _started(pid: int) -> str:
    """Return the start of a process in ticks after the boot; empty if that cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The command name is in brackets and may contain any characters.
    fields = stat.rpartition(")")[2].split()
    # A zombie runs no code any more.
    return "zombie" if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # The process belongs to another user.
        pass
    return True
