"""The stored form of tasks, attempts and responses in storages outside of this process."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.storages import processes
from collective.taskqueue.task import AttemptRecord
from collective.taskqueue.task import check_types
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import field_types
from collective.taskqueue.task import Progress
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any
from typing import NamedTuple
from typing import TypeVar
import json
import msgpack


T = TypeVar("T")
R = TypeVar("R", AttemptRecord, Progress)

Changes = tuple[tuple[State, float], ...]

Response = tuple[tuple[tuple[str, str], ...], bytes, bool]

NO_RESPONSE: Response = ((), b"", False)


def fields(tasks: Sequence[Task]) -> Iterator[bytes | str | float]:
    """Yield the nine values of each task that a storage needs, see `Staged`."""
    for task in tasks:
        yield task.id
        yield head(task)
        yield task.payload
        yield "" if task.due is None else task.due
        yield task.key or ""
        yield task.on_conflict
        yield task.user.id if task.user else ""
        yield task.user.person if task.user else ""
        yield "" if task.keep is None else task.keep


def head(task: Task) -> bytes:
    """Return the stored form of a task without its payload, which is stored separately."""
    record = task.encode()
    record.pop("payload", None)
    packed: bytes = msgpack.packb(record)
    return packed


class Staged(NamedTuple):
    """A task of a staged batch, the values that `fields` yields; empty text means None."""

    id: str
    head: bytes
    payload: bytes
    due: float | str
    key: str
    mode: str
    user: str
    person: str
    keep: float | str


def pack_batch(tasks: Sequence[Task]) -> bytes:
    """Return the stored form of a staged batch."""
    batch: bytes = msgpack.packb(list(fields(tasks)))
    return batch


def unpack_batch(batch: bytes) -> list[Staged]:
    """Return the tasks of a staged batch; their heads are not decoded.

    Raises `TaskDecodeError` if this is not a staged batch.
    """
    try:
        return [_sound(task) for task in _staged(msgpack.unpackb(batch))]
    except Exception as exc:
        raise TaskDecodeError(f"no staged batch: {type(exc).__name__}: {exc}") from exc


def staged(tasks: Sequence[Task]) -> list[Staged]:
    """Return tasks in the form of a staged batch."""
    return _staged(fields(tasks))


def _staged(values: Iterable[Any]) -> list[Staged]:
    values = iter(values)
    return [Staged(*task) for task in zip(*[values] * len(Staged._fields), strict=True)]


def _sound(task: Staged) -> Staged:
    for value, (name, types) in zip(task, field_types(Staged).items(), strict=True):
        if type(value) not in types:
            raise TypeError(f"{name} is of type {type(value).__name__}")
    for moment in (task.due, task.keep):
        if moment != "":
            _number(moment)
    return task


def decode(task_id: str, head: object, payload: object = b"") -> Task:
    """Return the task of a stored head, with the payload if that was loaded.

    Raises `TaskDecodeError` if this is not the stored form of that task.
    """
    if not isinstance(head, bytes):
        raise TaskDecodeError("there is no body")
    try:
        record = msgpack.unpackb(head)
    except Exception as exc:
        raise TaskDecodeError(f"no msgpack: {type(exc).__name__}") from exc
    task = Task.decode(record)
    if task.id != task_id:
        raise TaskDecodeError("it is the record of another task")
    _check_numbers(record)
    if not payload:
        return task
    if not isinstance(payload, bytes):
        raise TaskDecodeError(f"the payload is of type {type(payload).__name__}")
    return replace(task, payload=payload)


def pack_attempt(attempt: AttemptRecord) -> str:
    """Return the stored form of an attempt, one entry of a history."""
    return json.dumps(_values(attempt))


def lost_attempt(number: int, consumer: str, reason: str) -> str:
    """Return the stored form of an attempt that never started."""
    return pack_attempt(AttemptRecord(number, consumer, 0.0, 0.0, None, reason))


def pack_progress(progress: Progress) -> str:
    """Return the stored form of a progress."""
    return json.dumps(_values(progress))


def _values(record: AttemptRecord | Progress) -> dict[str, Any]:
    # `dataclasses.asdict` copies each value: six times as slow.
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def pack_response(transition: Transition) -> bytes:
    """Return the stored form of a response without its status: lists need that separately."""
    response: bytes = msgpack.packb([transition.headers, transition.body, transition.truncated])
    return response


def status_of(
    record: Mapping[str, Any], history: Iterable[bytes | str] | None = None
) -> TaskStatus:
    """Return the status from a stored record; without a history, a brief one.

    Unreadable parts are left out and named in the reason, so that a damaged record does not
    hide the others of a page. If the head cannot be decoded, the task has only its id. The
    record has `id` (a text), `state`, `reason`, `changes`, `consumer`, `head`, `due`, `number`
    (of started attempts), `progress`, `cancel`, `status` (of HTTP) and `forgotten`; unless it
    is brief, also `payload` and `last` (the response).
    """
    read = _Reader()
    brief = history is None
    state = read("state", _state, record["state"], FAILED)
    nothing = Task(id=record["id"], queue="?", url="?")
    payload = b"" if brief else record["payload"] or b""
    task = read("task", lambda head: decode(record["id"], head, payload), record["head"], nothing)
    lines = read("changes", _text, record["changes"], "").split(";")
    found = [read("changes", _change, change, None) for change in lines]
    changes = tuple(change for change in found if change is not None)
    # All callers rely on this: the last change is the change to the current state.
    when = changes[-1][1] if changes else 0.0
    changes = read("changes", partial(_ending_in, state), changes, (*changes, (state, when)))
    attempts = [read("history", _attempt, line, None) for line in history or ()]
    begun = read("number", _count, record["number"], 0)
    last = None if brief else record["last"]
    headers, body, truncated = read("response", _response, last, NO_RESPONSE)
    return TaskStatus(
        task=task,
        state=state,
        changes=changes,
        due=read("due", _moment, record["due"], None),
        consumer=read("consumer", _name, record["consumer"], None),
        attempts=tuple(attempt for attempt in attempts if attempt is not None),
        attempts_made=max(0, begun - (state == RUNNING)),
        progress=read("progress", _progress, record["progress"], None),
        cancel_requested=bool(record["cancel"]),
        status=read("status", _code, record["status"], None),
        headers=headers,
        body=body,
        truncated=truncated,
        forgotten=bool(record["forgotten"]),
        # Read last, because it names the unreadable parts.
        reason=read.with_damage(read("reason", _text, record["reason"], "")),
    )


def consumer(member: bytes, age: bytes, running: Sequence[bytes]) -> ConsumerStatus:
    """Return the status of a consumer from its member in the set of consumers."""
    name, _, process = member.decode(errors="replace").partition(" ")
    ids = tuple(task_id.decode(errors="replace") for task_id in running)
    seconds = max(0.0, float(age))
    alive = processes.is_alive(process, seconds, bool(ids))
    return ConsumerStatus(name, *processes.host_and_pid(process), seconds, ids, alive)


class _Reader:
    """Read the parts of a record, and remember which ones are unreadable."""

    def __init__(self) -> None:
        self._damaged: dict[str, None] = {}

    def __call__(self, part: str, decode: Callable[[Any], T], stored: object, otherwise: T) -> T:
        try:
            return decode(stored)
        except Exception:
            self._damaged[part] = None
            return otherwise

    def with_damage(self, reason: str) -> str:
        """Return a reason, extended by the names of the unreadable parts."""
        if not self._damaged:
            return reason
        parts = ", ".join(self._damaged)
        return f"{reason}; " * bool(reason) + f"its record is damaged, unreadable: {parts}"


def _text(stored: object) -> str:
    if isinstance(stored, bytes):
        return stored.decode()
    if not isinstance(stored, str):
        raise TypeError(stored)
    return stored


def _name(stored: object) -> str | None:
    return None if stored is None else _text(stored)


def _state(stored: object) -> State:
    name = _text(stored)
    if name not in STATES:
        raise ValueError(name)
    state: State = name
    return state


def _number(stored: Any) -> float:
    number = float(stored)
    if not isfinite(number):
        raise ValueError(number)
    return number


def _moment(stored: object) -> float | None:
    return None if stored is None else _number(stored)


def _count(stored: Any) -> int:
    count = int(stored or 0)
    if not 0 <= count < 2**53:
        raise ValueError(count)
    return count


def _code(stored: object) -> int | None:
    return _count(stored) if stored not in (None, b"", "") else None


def _change(text: str) -> tuple[State, float] | None:
    if not text:
        return None
    state, _, when = text.partition(" ")
    return _state(state), _number(when)


def _ending_in(state: State, changes: Changes) -> Changes:
    if not changes or changes[-1][0] != state:
        raise ValueError(state)
    return changes


def _attempt(line: bytes | str) -> AttemptRecord:
    return _record(AttemptRecord, {"status": None, **json.loads(line)})


def _progress(packed: bytes | str | None) -> Progress | None:
    return _record(Progress, json.loads(packed)) if packed else None


def _record(kind: type[R], values: dict[str, Any]) -> R:
    check_types(kind, values)
    _check_numbers(values)
    return kind(**values)


def _check_numbers(values: Mapping[str, object]) -> None:
    if not all(map(isfinite, [value for value in values.values() if isinstance(value, float)])):
        raise TaskDecodeError("a number of a record is not finite")


def _response(packed: bytes | None) -> Response:
    if not packed:
        return NO_RESPONSE
    headers, body, truncated = msgpack.unpackb(packed)
    found = tuple((name, value) for name, value in headers)
    texts = all(isinstance(text, str) for header in found for text in header)
    if not (texts and isinstance(body, bytes)):
        raise TypeError("no response")
    return found, body, bool(truncated)
