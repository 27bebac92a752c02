"""The task, its options and its status: frozen, pure data, with a wire form.

Nothing here knows Zope, a storage or a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.errors import TaskDecodeError
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from typing import get_args
from typing import Literal


#: Version of the wire form; a reader refuses what it does not know.
FORMAT = 1

#: Seconds a finished record is kept unless the queue or the task says otherwise.
KEEP_SUCCEEDED = 3600.0
KEEP_FAILED = 7 * 86400.0

#: Seconds it is kept at least, so that whoever is told of the end can still look at it.
LINGER = 10.0

#: Skipped tasks whose ids lead to the one that waits; the oldest give way.
ALIASES = 1000

State = Literal["queued", "scheduled", "running", "succeeded", "failed", "cancelled"]

QUEUED: State = "queued"
SCHEDULED: State = "scheduled"
RUNNING: State = "running"
SUCCEEDED: State = "succeeded"
FAILED: State = "failed"
CANCELLED: State = "cancelled"
STATES: tuple[State, ...] = get_args(State)
FINISHED: tuple[State, ...] = (SUCCEEDED, FAILED, CANCELLED)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who queued a task: a user id means nothing without its user folder."""

    #: Physical path of the user folder, such as ``/Plone/acl_users``.
    folder: str
    #: The user id in that folder.
    id: str
    #: Grows when a user of this id is deleted: who gets the id afterwards is somebody else.
    generation: int = 0

    @property
    def person(self) -> str:
        """A short text that no two persons share, for the indexes of a storage."""
        return _digest(self.folder, self.id, self.generation)


@lru_cache(maxsize=1000)
def _digest(*parts: str | int) -> str:
    # Of fixed length, whatever the id: an index of PostgreSQL refuses what is too long for a page.
    return blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a task was queued: what it takes to build the same public urls."""

    #: Scheme, host and port, such as ``https://www.example.org``.
    server_url: str
    #: Path in front of the virtual root as the public sees it, such as ``/cms``.
    script: str = ""
    #: Physical path of the virtual root, such as ``/Plone``; None without one.
    root: str | None = None
    #: The language that was negotiated for the queuing request, if one was.
    language: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request to be made later; complete, so that any process can make it."""

    #: ``str(uuid.uuid4())``, known before the commit.
    id: str
    #: Name of the queue the task belongs to.
    queue: str
    #: Physical path from the Zope root, or an absolute url; with the query string.
    url: str
    #: The object that the path began with when the task was added; it may move meanwhile.
    uid: str | None = None
    #: The end of the path that is not the object's, quoted: what is called on it.
    view: str = ""
    method: str = "GET"
    #: Header names and values; names are unique without regard to case.
    headers: tuple[tuple[str, str], ...] = ()
    payload: bytes = b""
    #: Who it runs as; None runs as whoever the headers authenticate.
    user: Identity | None = None
    #: Where it was queued; None for a task queued without a request.
    origin: Origin | None = None
    #: Seconds since the epoch, UTC.
    created: float = 0.0
    #: Not before this moment, seconds since the epoch; None is at once.
    due: float | None = None
    #: Seconds one attempt may take; None is without limit.
    timeout: float | None = None
    #: Dispatches before the task is given up.
    max_attempts: int = 1
    #: ``exponential`` or ``linear``.
    backoff: str = "exponential"
    #: Seconds before the second attempt, and the longest pause between two.
    min_backoff: float = 2.0
    max_backoff: float = 7200.0
    #: Seconds after it was added, or queued again, from which on no further attempt is made.
    max_age: float | None = None
    #: Tasks of one key in one queue are the same work.
    key: str | None = None
    #: What to do if a task of that key waits: ``skip``, ``replace``, ``after_running``.
    on_conflict: str = "skip"
    #: A label for people.
    description: str = ""
    #: Seconds the record is kept once finished, `LINGER` at least; None is the queue's default.
    keep: float | None = None

    @property
    def is_hook(self) -> bool:
        """Whether this is a web hook: its url is absolute."""
        return self.url.startswith(("http://", "https://"))

    def encode(self) -> dict[str, Any]:
        """Return the wire form: a mapping of str, bytes, numbers and lists.

        What is at its default is left out.
        """
        record: dict[str, Any] = {"format": FORMAT}
        for name, default in _DEFAULTS:
            value = getattr(self, name)
            if value != default:
                record[name] = value
        record["headers"] = [list(pair) for pair in self.headers]
        for name in ("user", "origin"):
            if name in record:
                record[name] = {key: getattr(record[name], key) for key in record[name].__slots__}
        if "user" in record and not record["user"]["generation"]:
            del record["user"]["generation"]
        return record

    @classmethod
    def decode(cls, record: object) -> Task:
        """Return the task of a wire form that came from outside this process.

        Raises `TaskDecodeError` for anything that `encode` cannot have written.
        """
        if not isinstance(record, Mapping) or record.get("format") != FORMAT:
            raise TaskDecodeError(f"not a task record of format {FORMAT}")
        values = {**record}
        del values["format"]
        if not _TYPES.keys() >= values.keys() >= _REQUIRED:
            raise TaskDecodeError("unknown or missing fields in a task record")
        for name, value in values.items():
            # What comes out of msgpack is of these very types; and True is no number.
            if type(value) not in _TYPES[name]:
                raise TaskDecodeError(f"field {name!r} of a task record is no {_TYPES[name]}")
        try:
            values["headers"] = tuple([_header(pair) for pair in values.get("headers", ())])
            for name, kind in _PARTS:
                if values.get(name) is not None:
                    values[name] = _part(kind, values[name])
            return cls(**values)
        except (TypeError, ValueError) as exc:
            raise TaskDecodeError(f"malformed task record: {type(exc).__name__}") from exc


def _header(pair: Any) -> tuple[str, str]:
    if type(pair) in _LIST:
        name, value = pair
        if type(name) is str is type(value):
            return name, value
    # Its value may be a secret.
    raise TypeError("a header is no pair of texts")


def _part(kind: type[Any], record: Mapping[str, Any]) -> Any:
    part = kind(**record)
    for name, allowed in _FIELDS[kind]:
        value = getattr(part, name)
        if type(value) not in allowed:
            raise TypeError(f"{name} is of type {type(value).__name__}")
    return part


_LIST = frozenset({list, tuple})
_NUMBER = frozenset({int, float})
_NONE = frozenset({type(None)})
_TEXT = frozenset({str})
_INTEGER = frozenset({int})
_TYPES: dict[str, frozenset[type[Any]]] = {
    "headers": _LIST,
    "payload": frozenset({bytes}),
    "max_attempts": _INTEGER,
    **dict.fromkeys(("user", "origin"), frozenset({dict}) | _NONE),
    **dict.fromkeys(("created", "min_backoff", "max_backoff"), _NUMBER),
    **dict.fromkeys(("due", "timeout", "max_age", "keep"), _NUMBER | _NONE),
    **dict.fromkeys(("uid", "key"), _TEXT | _NONE),
}
_TYPES |= {f.name: _TEXT for f in fields(Task) if f.name not in _TYPES}
_REQUIRED = {"id", "queue", "url"}
_DEFAULTS = tuple((f.name, f.default) for f in fields(Task))
_PARTS: tuple[tuple[str, type[Any]], ...] = (("user", Identity), ("origin", Origin))
#: The names of their fields, and the types that each may have.
_KINDS = {"str": _TEXT, "int": _INTEGER, "str | None": _TEXT | _NONE}
_FIELDS = {kind: [(f.name, _KINDS[str(f.type)]) for f in fields(kind)] for _, kind in _PARTS}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one dispatch led to, before policy decides what follows from it."""

    #: HTTP status of the response; None if there was none.
    status: int | None
    #: One sentence saying what went wrong; empty if nothing did.
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    #: The response body, capped.
    body: bytes = b""
    truncated: bool = False
    #: Traceback of a failure, capped.
    error: str = ""
    #: Seconds the other side asked to wait (`Retry-After`, `RetryLater`).
    retry_after: float | None = None
    #: What the task itself has decided, ``postpone`` if it could not even start; else policy does.
    verdict: Literal["", "retry", "discard", "postpone"] = ""
    #: Seconds since the epoch, and seconds it took.
    started: float = 0.0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether this is a success: any 2xx or 3xx, and no reason why it is none."""
        return self.status is not None and 200 <= self.status < 400 and not self.reason


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One line of a task's history."""

    #: The first attempt is 1.
    number: int
    consumer: str
    started: float
    seconds: float
    status: int | None
    #: Why it did not succeed; empty if it did.
    reason: str = ""
    #: Traceback, capped.
    error: str = ""


@dataclass(frozen=True, slots=True)
class Transition:
    """What policy decided after an attempt; the storage carries it out."""

    #: succeeded, failed or scheduled.
    state: State
    #: The history line of the attempt that ended.
    attempt: AttemptRecord
    #: One sentence: why this state.
    reason: str = ""
    #: When the next attempt is due; for scheduled only.
    due: float | None = None
    #: Whether the attempt counts against `max_attempts`.
    counts: bool = True
    #: The response of the attempt.
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """A consumer's time-limited right to finish one attempt of one task."""

    task: Task
    #: The fence: only its holder may renew, report and finish.
    token: str
    consumer: str
    #: Number of this attempt; the first is 1.
    attempt: int
    #: Attempts that already counted against `max_attempts`.
    counted: int
    #: Seconds since the epoch at which the right ends unless renewed.
    expires: float
    #: The transaction that queued the task, if known: the task must see it.
    tid: bytes | None = None


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """A batch whose transaction has not ended, or died on the way."""

    id: str
    #: How to find the witness in the database; None if nothing was written there.
    witness: str | None
    #: Seconds since it was staged.
    age: float
    #: The ids of its tasks, in add order.
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """A process that takes tasks under the name of a consumer."""

    name: str
    #: The machine and the process id; empty and 0 if nobody knows.
    host: str
    pid: int
    #: Seconds since the storage has heard of it.
    age: float
    #: Ids of the tasks that it runs, oldest first.
    running: tuple[str, ...] = ()
    #: Whether it takes tasks, as far as the storage can know.
    alive: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running task says it has come."""

    done: float
    total: float | None
    message: str
    time: float


@dataclass(frozen=True, slots=True)
class Result:
    """The last response of a finished task."""

    #: HTTP status; None if there was no response.
    status: int | None
    headers: tuple[tuple[str, str], ...]
    #: The body, capped; `truncated` if there was more.
    body: bytes
    truncated: bool
    #: Seconds since the epoch.
    started: float
    finished: float
    #: Seconds the last attempt took.
    elapsed: float
    #: How many attempts were made.
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """All that is known about a task at one moment.

    A *brief* one, as lists have, has no payload, no `attempts`, no `headers` and no `body`.
    """

    task: Task
    state: State
    #: One sentence: why it is in this state; empty if there is nothing to say.
    reason: str = ""
    #: Seconds since the epoch of each change of state, oldest first.
    changes: tuple[tuple[State, float], ...] = ()
    #: When the next attempt is due; for scheduled tasks.
    due: float | None = None
    #: The consumer that runs or last ran it.
    consumer: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    #: How many attempts have ended; `attempts` has the last hundred of them.
    attempts_made: int = 0
    progress: Progress | None = None
    #: Somebody asked for cancellation while it ran.
    cancel_requested: bool = False
    #: The last response.
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    truncated: bool = False
    #: There was one, but somebody has removed it.
    forgotten: bool = False

    @property
    def id(self) -> str:
        """The id of the task."""
        return self.task.id

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in FINISHED

    def time_of(self, state: State) -> float | None:
        """Return when the task last entered `state`, or None if it never did."""
        return next((when for name, when in reversed(self.changes) if name == state), None)

    @property
    def since(self) -> float:
        """When its life began: it was added, or last queued again by a person.

        Seconds since the epoch; what counts for `max_age`.
        """
        for before, (_, when) in zip(self.changes[-2::-1], self.changes[::-1], strict=False):
            if before[0] in FINISHED:
                return when
        return self.task.created

    @property
    def result(self) -> Result | None:
        """The last response; None unless the task has finished after an attempt."""
        if not self.finished or not self.attempts or self.forgotten:
            return None
        last = self.attempts[-1]
        return Result(
            status=self.status,
            headers=self.headers,
            body=self.body,
            truncated=self.truncated,
            started=last.started,
            finished=self.changes[-1][1],
            elapsed=last.seconds,
            attempts=last.number,
        )

    @property
    def elapsed(self) -> float | None:
        """Seconds the last attempt took; None before the first one ended."""
        return self.attempts[-1].seconds if self.attempts else None
