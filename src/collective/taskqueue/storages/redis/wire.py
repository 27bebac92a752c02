"""What a Redis storage sends to its scripts and reads from their results, by name."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.storages import codec
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import lowered
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from typing import Any
import msgpack


#: A map in a result of a script: texts are bytes, missing values are left out.
Record = Mapping[str, Any]

#: Most tasks, and about the most bytes, of one packed list of tasks.
PORTION = 100
PORTION_BYTES = 1_000_000


def packed(value: Any) -> bytes:
    """Return a value in the form of msgpack that the scripts read."""
    # They know one type of strings only.
    found: bytes = msgpack.packb(value, use_bin_type=False)
    return found


def unpacked(reply: bytes) -> dict[str, Any]:
    """Return the reply of a script, with the names in its maps as `str`."""
    found: dict[str, Any] = msgpack.unpackb(reply, raw=True, object_pairs_hook=_named)
    return found


def _named(pairs: Iterable[tuple[bytes, Any]]) -> dict[str, Any]:
    return {name.decode(): value for name, value in pairs}


def portions(tasks: Sequence[Task]) -> Iterator[bytes]:
    """Yield the tasks of a batch in packed lists."""
    portion: list[dict[str, Any]] = []
    size = 0
    for task in tasks:
        portion.append(_staged(task))
        size += len(task.payload)
        if len(portion) == PORTION or size > PORTION_BYTES:
            yield packed(portion)
            portion, size = [], 0
    if portion:
        yield packed(portion)


def _staged(task: Task) -> dict[str, Any]:
    record: dict[str, Any] = {"id": task.id, "body": codec.head(task)}
    if task.payload:
        record["payload"] = task.payload
    if task.due is not None:
        record["due"] = task.due
    if task.key:
        record["key"] = task.key
        record["mode"] = task.on_conflict
    if task.user:
        record["user"] = task.user.id
        record["person"] = task.user.person
    if task.keep is not None:
        record["keep"] = str(task.keep)
    return record


def completion(lease: Lease, transition: Transition) -> dict[str, Any]:
    """Return the arguments that complete an attempt."""
    status = transition.attempt.status
    return {
        "id": lease.task.id,
        "token": lease.token,
        "state": transition.state,
        "reason": transition.reason,
        "due": transition.due,
        "attempt": codec.pack_attempt(transition.attempt),
        "status": "" if status is None else status,
        "last": codec.pack_response(transition),
        "counts": int(transition.counts),
        "drops_slot": transition.drops_slot,
    }


def conditions(filter: TaskFilter) -> dict[str, Any]:
    """Return the arguments of a search, except those that name the user."""
    found: dict[str, Any] = {
        "states": list(dict.fromkeys(filter.states)),
        "since": filter.since,
        "before": filter.until,
    }
    if filter.url is not None:
        found["url"] = filter.url.encode("utf-8", "surrogatepass")
    if filter.reason is not None:
        found["reason"] = lowered(filter.reason)
    return found


def unreadable(record: Record, consumer: str, reason: str) -> dict[str, Any]:
    """Return the arguments that fail a reserved task that cannot be decoded."""
    return {
        "id": record["id"],
        "token": record["token"],
        "state": FAILED,
        "reason": reason,
        "attempt": codec.lost_attempt(int(record["number"]), consumer, reason),
        "status": "",
        "last": b"",
        "counts": 1,
    }


def lease(record: Record, consumer: str) -> Lease:
    """Return a lease; raises `TaskDecodeError` or `ValueError` if its task cannot be decoded."""
    task = codec.decode(record["id"].decode(), record.get("body"), record.get("payload", b""))
    return Lease(
        task,
        record["token"].decode(),
        consumer,
        int(record["number"]),
        int(record["counted"]),
        float(record["expires"]),
        bytes.fromhex(record.get("tid", b"").decode()) or None,
        record.get("slot", b"").decode(errors="replace") or None,
        int(record["lost"]),
    )


def state(text: bytes | None) -> State | None:
    """Return the state of a completed task; None if its lease was lost."""
    return text.decode() or None if text else None  # type: ignore[return-value]


def staged_batch(record: Record) -> StagedBatch:
    """Return a batch in doubt."""
    name, ids = (record[field].decode(errors="replace") for field in ("id", "ids"))
    witness = record.get("witness", b"").decode(errors="replace")
    return StagedBatch(name, witness or None, float(record["age"]), tuple(ids.split()))


def status(record: Record, brief: bool) -> TaskStatus:
    """Return the status of a task; a brief one if the record has only the fields of that."""
    fields = {
        "state": record.get("state"),
        "reason": record.get("reason") or "",
        "changes": record.get("changes") or "",
        "head": record.get("body"),
        **{name: record.get(name) for name in _AS_THEY_ARE},
    }
    history = None if brief else record["history"]
    return codec.status_of({"id": record["id"].decode(errors="replace"), **fields}, history)


_AS_THEY_ARE = (
    *("consumer", "payload", "due", "number", "progress", "cancel"),
    *("status", "last", "forgotten"),
)
