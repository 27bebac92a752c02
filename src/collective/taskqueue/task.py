"""The task, its options and its status: frozen, pure data, with a wire form.

Nothing here imports Zope or a storage, or reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.errors import InvalidTask
from collective.taskqueue.errors import TaskDecodeError
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from functools import cache
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from types import UnionType
from typing import Any
from typing import get_args
from typing import get_type_hints
from typing import Literal


#: Version of the wire form; a reader refuses any other version.
FORMAT = 1

#: Seconds a finished record is kept unless the queue or the task says otherwise.
KEEP_SUCCEEDED = 3600.0
KEEP_FAILED = 7 * 86400.0

#: Minimum number of seconds, so that a client that is notified of the end can still read it.
LINGER = 10.0

#: Ids of skipped tasks kept as aliases of the waiting task; older ones are dropped.
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

Action = Literal["retry", "cancel", "remove"]

#: What can be done to many tasks at once, and to tasks in which states.
ACTIONS: dict[Action, tuple[State, ...]] = {
    "retry": (FAILED, CANCELLED),
    "cancel": (QUEUED, SCHEDULED, RUNNING),
    "remove": FINISHED,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that queued a task; a user id is only unique within its user folder."""

    #: Physical path of the user folder, such as ``/Plone/acl_users``.
    folder: str
    #: The user id in that folder.
    id: str
    #: Grows when a user of this id is deleted: a later user of the same id is another one.
    generation: int = 0

    @property
    def person(self) -> str:
        """A short text that is unique for each user, for the indexes of a storage."""
        return _digest(self.folder, self.id, self.generation)


@lru_cache(maxsize=1000)
def _digest(*parts: str | int) -> str:
    # Fixed length, whatever the id: PostgreSQL refuses index entries too long for a page.
    return blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a task was queued: the data needed to build the same public urls."""

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
    """One request to be made later, with all data, so that any process can make it."""

    #: ``str(uuid.uuid4())``, known before the commit.
    id: str
    #: Name of the queue the task belongs to.
    queue: str
    #: Physical path from the Zope root, or an absolute url; with the query string.
    url: str
    #: UID of the object that the path began with when the task was added; it may move later.
    uid: str | None = None
    #: The quoted rest of the path after the object: the view that is called on the object.
    view: str = ""
    method: str = "GET"
    #: Header names and values; names are unique without regard to case.
    headers: tuple[tuple[str, str], ...] = ()
    payload: bytes = b""
    #: The user it runs as; None: the user that its headers authenticate.
    user: Identity | None = None
    #: Where it was queued; None for a task queued without a request.
    origin: Origin | None = None
    #: Seconds since the epoch, UTC.
    created: float = 0.0
    #: Earliest start in seconds since the epoch; None: at once.
    due: float | None = None
    #: Seconds that one attempt may take; None: no limit.
    timeout: float | None = None
    #: Dispatches before the task is given up.
    max_attempts: int = 1
    #: ``exponential`` or ``linear``.
    backoff: str = "exponential"
    #: Seconds before the second attempt, and the longest pause between two attempts.
    min_backoff: float = 2.0
    max_backoff: float = 7200.0
    #: No attempt begins later than so many seconds after the task was added, or queued again.
    max_age: float | None = None
    #: Fail, instead of run again, if it is not known whether an earlier attempt has committed.
    once: bool = False
    #: Deduplication key: tasks of one key in one queue are the same work.
    key: str | None = None
    #: What to do if a task of that key is waiting: ``skip``, ``replace``, ``after_running``.
    on_conflict: str = "skip"
    #: A label that is shown to people.
    description: str = ""
    #: Seconds the record is kept once finished, `LINGER` at least; None is the queue's default.
    keep: float | None = None

    @property
    def is_hook(self) -> bool:
        """Whether this is a web hook: its url is absolute."""
        return self.url.startswith(("http://", "https://"))

    def encode(self) -> dict[str, Any]:
        """Return the wire form: a mapping of str, bytes, numbers and lists.

        Fields at their default are left out.
        """
        record = {"format": FORMAT, **_given(self)}
        record["headers"] = [list(pair) for pair in self.headers]
        for name in _PARTS & record.keys():
            record[name] = _given(record[name])
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
        check_types(cls, values)
        values["headers"] = tuple([_header(pair) for pair in values.get("headers", ())])
        try:
            for name, kind in _PARTS.items():
                if values.get(name) is not None:
                    check_types(kind, values[name])
                    values[name] = kind(**values[name])
            return cls(**values)
        except TypeError as exc:
            raise TaskDecodeError("a field of a task record is missing") from exc


def check_types(kind: type, values: Mapping[str, object]) -> None:
    """Check that values from outside this process can be the fields of this dataclass.

    Raises `TaskDecodeError` for an unknown field, and for a value of another type than the
    annotation says.
    """
    types = field_types(kind)
    for name, value in values.items():
        # msgpack and JSON return exactly these types; `isinstance` would take True for a number.
        if type(value) not in types.get(name, ()):
            raise TaskDecodeError(f"{kind.__name__}: {name!r} cannot be {type(value).__name__}")


@cache
def field_types(kind: type) -> dict[str, frozenset[type]]:
    """Return the types that the fields of a class have in the wire form, by its annotations."""
    kinds = {
        name: get_args(hint) if isinstance(hint, UnionType) else (hint,)
        for name, hint in get_type_hints(kind).items()
    }
    return {
        name: frozenset().union(*(_FORMS.get(each, {each}) for each in found))
        for name, found in kinds.items()
    }


def _given(record: Task | Identity | Origin) -> dict[str, Any]:
    found = {}
    for name, default in _DEFAULTS[type(record)]:
        value = getattr(record, name)
        if value != default:
            found[name] = value
    return found


def _header(pair: object) -> tuple[str, str]:
    if isinstance(pair, (list, tuple)) and len(pair) == 2 and type(pair[0]) is str is type(pair[1]):
        return pair[0], pair[1]
    # Do not quote the header: its value may be a secret.
    raise TaskDecodeError("a header of a task record is no pair of texts")


_PARTS: dict[str, type[Identity | Origin]] = {"user": Identity, "origin": Origin}
_DEFAULTS = {
    kind: [(each.name, each.default) for each in fields(kind)] for kind in (Task, Identity, Origin)
}
#: What the wire form has instead of values of other types.
_FORMS: dict[object, set[type]] = {
    float: {float, int},
    tuple[tuple[str, str], ...]: {list, tuple},
    Identity: {dict},
    Origin: {dict},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one dispatch, from which policy derives the next transition."""

    #: HTTP status of the response; None if there was none.
    status: int | None
    #: One sentence that says what went wrong; empty if nothing did.
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    #: The response body, capped.
    body: bytes = b""
    truncated: bool = False
    #: Traceback of a failure, capped.
    error: str = ""
    #: Seconds to wait, as the server or the view has asked for (`Retry-After`, `RetryLater`).
    retry_after: float | None = None
    #: What the task itself decided, ``postpone`` if it could not start; empty: policy decides.
    verdict: Literal["", "retry", "discard", "postpone"] = ""
    #: Whether the slot of the attempt is used up, or of no use: the next one gets another.
    drops_slot: bool = False
    #: What the history says of an attempt that succeeded.
    note: str = ""
    #: Start in seconds since the epoch, and duration in seconds.
    started: float = 0.0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the attempt succeeded: a status of 2xx or 3xx, and no reason."""
        return self.status is not None and 200 <= self.status < 400 and not self.reason


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One ended attempt in the history of a task."""

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
    """The change of state that policy chose after an attempt; the storage applies it."""

    #: succeeded, failed or scheduled.
    state: State
    #: The record of the attempt that ended.
    attempt: AttemptRecord
    #: One sentence: why this state.
    reason: str = ""
    #: When the next attempt is due; for scheduled only.
    due: float | None = None
    #: Whether the attempt counts against `max_attempts`.
    counts: bool = True
    #: Whether the slot of the attempt is used up, or of no use: the next one gets another.
    drops_slot: bool = False
    #: The response of the attempt.
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    truncated: bool = False


#: Instead of a reference to a slot: a process was lost that ran the task without a slot.
NO_SLOT = "none"


def is_lost_for_good(lost: int, slot: str | None, max_deliveries: int) -> bool:
    """Return whether a task that was lost so often is failed by its storage.

    With a slot it is delivered once more: it does not run then, but its consumer looks whether it
    has committed.
    """
    has_slot = slot is not None and slot != NO_SLOT
    return lost >= max_deliveries + has_slot


@dataclass(frozen=True, slots=True)
class Lease:
    """A consumer's time-limited right to finish one attempt of one task."""

    task: Task
    #: The fencing token: only its holder may renew, report and finish.
    token: str
    consumer: str
    #: Number of this attempt; the first is 1.
    attempt: int
    #: Earlier attempts that count against `max_attempts`.
    counted: int
    #: Seconds since the epoch at which the lease ends unless renewed.
    expires: float
    #: The transaction that queued the task, if known; the task must see its changes.
    tid: bytes | None = None
    #: Reference to the slot of this attempt, see `publisher.slot`; None if it has none, `NO_SLOT`
    #: if a process was lost that ran the task without one.
    slot: str | None = None
    #: How often a process was lost that ran the task, since it was added or a person retried it.
    lost: int = 0

    @property
    def is_redelivered(self) -> bool:
        """Whether a process was lost that ran the task; it may have done the work."""
        return self.lost > 0


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """A staged batch whose transaction has not ended, or was lost before it ended."""

    id: str
    #: The key of the witness in the database; None if nothing was written there.
    witness: str | None
    #: Seconds since it was staged.
    age: float
    #: The ids of its tasks, in add order.
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """A process that reserves tasks under the name of a consumer."""

    name: str
    #: Host name and process id; empty and 0 if unknown.
    host: str
    pid: int
    #: Seconds since the storage last heard from it.
    age: float
    #: Ids of the tasks that it runs, oldest first.
    running: tuple[str, ...] = ()
    #: Whether it is alive, as far as the storage can know.
    alive: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress that a running task has reported."""

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

    A *brief* status, as in lists, has no payload, no `attempts`, no `headers` and no `body`.
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
    #: Cancellation was requested while it ran.
    cancel_requested: bool = False
    #: The last response.
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    truncated: bool = False
    #: There was a response, but it was removed.
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
        """When the task was added, or last queued again by a person.

        Seconds since the epoch; `max_age` counts from here.
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


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to search for: those that fulfil all conditions that are given.

    Raises `InvalidTask` with the name of the field that is wrong.
    """

    #: One of these states; empty for any.
    states: tuple[State, ...] = ()
    #: The url begins with this text.
    url: str | None = None
    #: The user that queued the task: a user id in any user folder, or one identity.
    user: str | Identity | None = None
    #: Added at this moment or later, and before `until`; in seconds since the epoch.
    since: float | None = None
    until: float | None = None
    #: The reason has this text in it. Upper and lower case of A to Z are the same.
    reason: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.states, tuple):
            raise InvalidTask("states", f"states is a tuple of states, not {self.states!r}")
        for state in self.states:
            if state not in STATES:
                known = ", ".join(STATES)
                raise InvalidTask("states", f"there is no state {state!r} (known: {known})")
        _check_text("url", self.url)
        if not isinstance(self.user, Identity):
            _check_text("user", self.user)
        _check_text("reason", self.reason)
        _check_moment("since", self.since)
        _check_moment("until", self.until)
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise InvalidTask("until", "until is a later moment than since")

    def matches(self, task: Task, state: State, reason: str) -> bool:
        """Return whether a task in this state, for this reason, fulfils all conditions."""
        return (
            (not self.states or state in self.states)
            and (self.url is None or task.url.startswith(self.url))
            and (self.user is None or self._is_users(task))
            and (self.since is None or task.created >= self.since)
            and (self.until is None or task.created < self.until)
            and (self.reason is None or lowered(self.reason) in lowered(reason))
        )

    def _is_users(self, task: Task) -> bool:
        return task.user is not None and self.user in (task.user, task.user.id)


def lowered(text: str) -> bytes:
    """Return a text for comparisons that do not distinguish upper and lower case of A to Z."""
    # The script of Redis can lower no other letters: so all storages find the same.
    return text.encode("utf-8", "surrogatepass").lower()


def _check_text(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and value):
        raise InvalidTask(name, f"{name} is a text that is not empty, not {value!r}")


def _check_moment(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise InvalidTask(name, f"{name} is a number of seconds since the epoch, not {value!r}")


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A part of what a search finds."""

    #: Each one brief; see `TaskStatus`.
    tasks: tuple[TaskStatus, ...]
    #: Where to go on; None if there is no more.
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What one call has done to the tasks that match a filter."""

    #: How many tasks were changed.
    done: int
    #: How many that match are left. If `cursor` is not None there may be more: then it is at
    #: least 1.
    left: int
    #: Where the next call goes on; None if all that match were tried.
    cursor: str | None = None
