"""How a storage outside of this process holds tasks, attempts and responses."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.storages import _process
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from dataclasses import asdict
from dataclasses import fields as fields_of
from functools import partial
from typing import Any
from typing import NamedTuple
from typing import TypeVar
import json
import msgpack


T = TypeVar("T")
R = TypeVar("R", AttemptRecord, Progress)

Changes = tuple[tuple[State, float], ...]

Response = tuple[int | None, tuple[tuple[str, str], ...], bytes, bool]

NO_RESPONSE: Response = (None, (), b"", False)

_ATTEMPT = tuple(field.name for field in fields_of(AttemptRecord))

#: What the fields of those must be to be shown.
_KINDS: dict[str, Any] = {
    "int": int,
    "str": str,
    "float": (int, float),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
}


def fields(tasks: Sequence[Task]) -> Iterator[bytes | str | float]:
    """Yield the seven strings of each task that the script works with."""
    for task in tasks:
        yield task.id
        yield encode(task)
        yield "" if task.due is None else task.due
        yield task.key or ""
        yield task.on_conflict
        yield task.user.id if task.user else ""
        yield "" if task.keep is None else task.keep


def encode(task: Task) -> bytes:
    """Return the stored body of a task."""
    body: bytes = msgpack.packb(task.encode())
    return body


class Staged(NamedTuple):
    """A task of a staged batch: what `fields` yields; empty texts are nothing."""

    id: str
    body: bytes
    due: float | str
    key: str
    mode: str
    user: str
    keep: float | str


def pack_batch(tasks: Sequence[Task]) -> bytes:
    """Return the stored form of a staged batch."""
    batch: bytes = msgpack.packb(list(fields(tasks)))
    return batch


def unpack_batch(batch: bytes) -> list[Staged]:
    """Return the tasks of a staged batch; their bodies are not looked at.

    Raises `TaskDecodeError` for anything else.
    """
    try:
        return _staged(msgpack.unpackb(batch))
    except Exception as exc:
        raise TaskDecodeError(f"no staged batch: {type(exc).__name__}: {exc}") from exc


def staged(tasks: Sequence[Task]) -> list[Staged]:
    """Return tasks as they come out of a staged batch."""
    return _staged(fields(tasks))


def _staged(values: Iterable[Any]) -> list[Staged]:
    values = iter(values)
    return [Staged(*task) for task in zip(*[values] * len(Staged._fields), strict=True)]


def decode(body: object) -> Task:
    """Return the task of a stored body; raises `TaskDecodeError` for anything else."""
    if not isinstance(body, bytes):
        raise TaskDecodeError("there is no body")
    try:
        record = msgpack.unpackb(body)
    except Exception as exc:
        raise TaskDecodeError(f"no msgpack: {exc}") from exc
    return Task.decode(record)


def end(lease: Lease, transition: Transition) -> list[bytes | str | float]:
    """Return the strings that tell Redis of the end of an attempt."""
    return [
        lease.task.id,
        lease.token,
        transition.state,
        transition.reason,
        "" if transition.due is None else transition.due,
        pack_attempt(transition.attempt),
        pack_response(transition),
        "1" if transition.counts else "0",
    ]


def pack_attempt(attempt: AttemptRecord) -> str:
    """Return one line of a history."""
    return json.dumps({name: getattr(attempt, name) for name in _ATTEMPT})


def lost_attempt(number: int, consumer: str, reason: str) -> str:
    """Return the line of an attempt that never started."""
    return pack_attempt(AttemptRecord(number, consumer, 0.0, 0.0, None, reason))


def pack_progress(progress: Progress) -> str:
    """Return the stored form of a progress."""
    return json.dumps(asdict(progress))


def pack_response(transition: Transition) -> bytes:
    """Return the stored form of a response."""
    response: bytes = msgpack.packb(
        [transition.attempt.status, transition.headers, transition.body, transition.truncated]
    )
    return response


def status(
    task_id: bytes, values: Sequence[bytes], history: Sequence[bytes], due: bytes | float | None
) -> TaskStatus:
    """Return the status that a stored record of Redis tells of."""
    record = {name.decode(): value for name, value in zip(values[::2], values[1::2], strict=True)}
    texts = ("state", "reason", "changes", "consumer")
    known = {name: record[name].decode(errors="replace") for name in texts if name in record}
    return status_of(
        {
            "state": None,
            "reason": "",
            "changes": "",
            "consumer": None,
            **known,
            "id": task_id.decode(),
            "body": record.get("body"),
            "due": float(due) if due else None,
            "progress": record.get("progress"),
            "cancel": "cancel" in record,
            "last": record.get("last"),
            "forgotten": "forgotten" in record,
        },
        history,
    )


def status_of(record: Mapping[str, Any], history: Iterable[bytes | str]) -> TaskStatus:
    """Return the status that a stored record tells of.

    What cannot be read is left out, and the reason says so: no record hides all others of a
    page. Of a body that cannot be decoded the task has the id only.
    """
    damaged: list[str] = []

    def read(part: str, decode: Callable[[Any], T], stored: Any, otherwise: T) -> T:
        try:
            return decode(stored)
        except Exception:
            damaged.append(part)
            return otherwise

    state = read("state", _state, record["state"], FAILED)
    task = read("task", decode, record["body"], Task(id=record["id"], queue="?", url="?"))
    found = [read("changes", _change, change, None) for change in record["changes"].split(";")]
    changes = tuple(change for change in found if change is not None)
    # Everybody else may count on that: the last change is that to its state.
    when = changes[-1][1] if changes else 0.0
    changes = read("changes", partial(_ending_in, state), changes, (*changes, (state, when)))
    attempts = [read("history", _attempt, line, None) for line in history]
    progress = read("progress", _progress, record["progress"], None)
    code, headers, body, truncated = read("response", _response, record["last"], NO_RESPONSE)
    return TaskStatus(
        task=task,
        state=state,
        reason=_with_damage(record["reason"], damaged),
        changes=changes,
        due=record["due"],
        consumer=record["consumer"],
        attempts=tuple(attempt for attempt in attempts if attempt is not None),
        progress=progress,
        cancel_requested=bool(record["cancel"]),
        status=code,
        headers=headers,
        body=body,
        truncated=truncated,
        forgotten=bool(record["forgotten"]),
    )


def consumer(member: bytes, age: bytes, running: Sequence[bytes]) -> ConsumerStatus:
    """Return the consumer that a member of the set of consumers tells of."""
    name, _, process = member.decode().partition(" ")
    ids = tuple(task_id.decode() for task_id in running)
    return ConsumerStatus(name, *_process.host_and_pid(process), max(0.0, float(age)), ids)


def _with_damage(reason: str, damaged: list[str]) -> str:
    if not damaged:
        return reason
    parts = ", ".join(dict.fromkeys(damaged))
    return f"{reason}; " * bool(reason) + f"its record is damaged, unreadable: {parts}"


def _state(name: Any) -> State:
    if name not in STATES:
        raise ValueError(name)
    state: State = name
    return state


def _change(text: str) -> tuple[State, float] | None:
    if not text:
        return None
    state, _, when = text.partition(" ")
    return _state(state), float(when)


def _ending_in(state: State, changes: Changes) -> Changes:
    if not changes or changes[-1][0] != state:
        raise ValueError(state)
    return changes


def _attempt(line: bytes | str) -> AttemptRecord:
    values = json.loads(line)
    return _checked(AttemptRecord(**{"status": None, **values}))


def _progress(packed: bytes | str | None) -> Progress | None:
    return _checked(Progress(**json.loads(packed))) if packed else None


def _checked(record: R) -> R:
    for field in fields_of(record):
        if not isinstance(getattr(record, field.name), _KINDS[str(field.type)]):
            raise TypeError(field.name)
    return record


def _response(packed: bytes | None) -> Response:
    if not packed:
        return NO_RESPONSE
    code, headers, body, truncated = msgpack.unpackb(packed)
    found = tuple((name, value) for name, value in headers)
    texts = all(isinstance(text, str) for header in found for text in header)
    if not (isinstance(code, _KINDS["int | None"]) and texts and isinstance(body, bytes)):
        raise TypeError("no response")
    return code, found, body, bool(truncated)
