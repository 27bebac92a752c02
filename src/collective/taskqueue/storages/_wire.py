"""How a storage outside of this process holds tasks, attempts and responses."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.storages import _process
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from dataclasses import asdict
from dataclasses import fields as fields_of
from typing import Any
from typing import NamedTuple
import json
import msgpack


_ATTEMPT = tuple(field.name for field in fields_of(AttemptRecord))


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
    known = {name: record[name].decode() for name in texts if name in record}
    return status_of(
        {
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

    A body that cannot be decoded still has a status: its task has the id only.
    """
    code, headers, body, truncated = _response(record["last"])
    return TaskStatus(
        task=_task(record["id"], record["body"]),
        state=record["state"],
        reason=record["reason"],
        changes=tuple(_changes(record["changes"])),
        due=record["due"],
        consumer=record["consumer"],
        attempts=tuple(_attempt(line) for line in history),
        progress=_progress(record["progress"]),
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


def _task(task_id: str, body: object) -> Task:
    try:
        return decode(body)
    except TaskDecodeError:
        return Task(id=task_id, queue="?", url="?")


def _changes(text: str) -> Iterator[tuple[Any, float]]:
    for change in text.split(";")[:-1]:
        state, _, when = change.partition(" ")
        yield state, float(when)


def _attempt(line: bytes | str) -> AttemptRecord:
    values = json.loads(line)
    return AttemptRecord(**{"status": None, **values})


def _progress(packed: bytes | str | None) -> Progress | None:
    return Progress(**json.loads(packed)) if packed else None


def _response(packed: bytes | None) -> tuple[Any, ...]:
    if not packed:
        return None, (), b"", False
    code, headers, body, truncated = msgpack.unpackb(packed)
    return code, tuple((name, value) for name, value in headers), body, truncated
