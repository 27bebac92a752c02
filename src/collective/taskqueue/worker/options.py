"""The options of a worker: the same on the command line and in a zope.ini."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.config import datatypes
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.exits import WorkerError
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any
from typing import NamedTuple
import json


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker was asked for; `OPTIONS` describes the fields."""

    #: Absolute path of the zope.ini.
    ini: str
    #: Variables of the zope.ini; may contain passwords.
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    queue: tuple[str, ...] = ()
    burst: bool = False
    processes: int = 1
    max_tasks: int | None = None
    #: Bytes.
    max_memory: int | None = None
    probe_port: int | None = None
    probe_host: str = "127.0.0.1"

    def consumers(self) -> list[tuple[str, int | None]] | None:
        """Return names of queues, each with its limit or None; None if zope.conf decides."""
        parts = [text.partition(":") for text in self.queue]
        return [(name, int(limit) if limit else None) for name, _, limit in parts] or None

    def dumps(self) -> str:
        """Return the options as one line for another process."""
        return json.dumps({**asdict(self), "variables": dict(self.variables)})

    @classmethod
    def loads(cls, line: str) -> WorkerOptions:
        """Return the options of a line that `dumps` has made."""
        values = json.loads(line)
        return cls(**{**values, "queue": tuple(values["queue"])})


class Option(NamedTuple):
    """One option: how a text becomes its value, and what it is for."""

    metavar: str
    read: Callable[[str], Any]
    help: str
    #: On the command line it is given once for each value; in a zope.ini blanks separate them.
    multiple: bool = False


def queue_and_limit(text: str) -> str:
    """Return `NAME` or `NAME:LIMIT` as it was written; raises `ValueError`."""
    name, colon, limit = text.partition(":")
    datatypes.name(name)
    if (colon and not limit.isascii()) or (colon and not limit.isdigit()):
        raise ValueError(f"{limit!r} is no number of tasks; write {name}:2")
    return text


def port(text: str) -> int:
    """Return a number of a TCP port; raises `ValueError`."""
    number = int(text)
    if not 0 < number < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    return number


def flag(text: str) -> bool:
    """Return a boolean of a zope.ini; raises `ValueError`."""
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"{text!r} is neither on nor off")
    return words[text.lower()]


OPTIONS = {
    "queue": Option(
        "NAME[:LIMIT]",
        queue_and_limit,
        "Run tasks of this queue, LIMIT at the same time. Repeat it for more queues. It wins"
        " over TASKQUEUE_CONSUMERS; without both, the consumers of zope.conf are started.",
        multiple=True,
    ),
    "burst": Option(
        "",
        flag,
        "Run until the queues have no task that is due or running, and end. Tasks that are"
        " scheduled for later are left.",
    ),
    "processes": Option(
        "N",
        datatypes.positive_integer,
        "Keep this number of worker processes running, each with all consumers. Each opens the"
        " database: use ZEO or RelStorage.",
    ),
    "max_tasks": Option(
        "N",
        datatypes.positive_integer,
        "After so many attempts the process takes no more, lets the running ones finish, and is"
        " replaced.",
    ),
    "max_memory": Option(
        "SIZE",
        datatypes.size,
        "Above this size, such as 512MB, the process takes no more tasks, lets the running ones"
        " finish, and is replaced. Needs the extra collective.taskqueue[worker].",
    ),
    "probe_port": Option(
        "PORT",
        port,
        "Answer GET /live and GET /ready on this port, with 200 or 503.",
    ),
    "probe_host": Option(
        "ADDRESS",
        str,
        "The address of that port; a container needs 0.0.0.0. Default: 127.0.0.1",
    ),
}


def worker_options(
    ini: str, variables: Sequence[str] | Mapping[str, str], texts: Mapping[str, Sequence[str]]
) -> WorkerOptions:
    """Return the options of these texts, by the name of the option.

    `variables` are `key=value` texts, or a mapping. Raises `WorkerError`.
    """
    values: dict[str, Any] = {}
    for name, found in texts.items():
        if name not in OPTIONS:
            known = ", ".join(OPTIONS)
            raise WorkerError(f"a worker has no option {name} (known: {known})", Exit.USAGE)
        option = OPTIONS[name]
        try:
            read = [option.read(text) for text in found]
        except ValueError as exc:
            raise WorkerError(f"{name}: {exc}", Exit.USAGE) from exc
        if read:
            values[name] = tuple(read) if option.multiple else read[-1]
    _refuse_twice(values.get("queue", ()))
    path = Path(ini)
    if not path.is_file():
        raise WorkerError(f"there is no file {path}; name the zope.ini", Exit.CONFIGURATION)
    return WorkerOptions(ini=str(path.resolve()), variables=_variables(variables), **values)


def _refuse_twice(queues: Sequence[str]) -> None:
    names = [text.partition(":")[0] for text in queues]
    for name in names:
        if names.count(name) > 1:
            raise WorkerError(f"queue: {name} is named twice", Exit.USAGE)


def _variables(variables: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(variables, Mapping):
        return {str(name): str(value) for name, value in variables.items()}
    for text in variables:
        if "=" not in text:
            message = f"{text!r} is no variable of zope.ini; write key=value"
            raise WorkerError(message, Exit.USAGE)
    return dict(text.split("=", 1) for text in variables)
