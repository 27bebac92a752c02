"""The tables of a SQL queue; migrations.py turns each version of them into the next.

taskqueue_task      all known tasks; the primary key is the queue and the id
taskqueue_alias     the id of a task that was skipped for its key → the task that waits
taskqueue_batch     staged batches: the tasks as msgpack, the witness, and the time
taskqueue_promoted  batches that were promoted or failed; deleted after two hours
taskqueue_consumer  consumers, and when each was last seen of
taskqueue_ended     how many tasks reached each final state, by minute, for one hour
taskqueue_queue     a row for each queue: whether it is paused, and SQLite's numbers
taskqueue_count     how many tasks are in each state; see counters.py
taskqueue_schedule  schedules: the last tick, whether it is paused, and the last runs as JSON
taskqueue_schema    one row: the version of these tables

Many queues share the tables. Times are seconds since the epoch by the clock of the database.
``number`` counts tasks as they were queued. ``place`` orders the tasks of one state; it is
negative for tasks put back to the front. ``claim`` counts reservations. Queries of the hot path
have partial indexes, so that a finished task is in none of these.

``body`` is the task without its payload, ``status`` is that of the last response, ``last`` the
rest of the response. Finished tasks have ``ended``, the time when they finished, and ``size``,
their bytes. Columns that may be large are at the end of a row, for SQLite reads a row up to the
last column that is asked for. The lists of a user have indexes by ``user`` and ``person``. ``user``
and ``key`` are digests if they are long; see `indexed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from hashlib import blake2b
from sqlalchemy import BigInteger
from sqlalchemy import Boolean
from sqlalchemy import Column
from sqlalchemy import ColumnElement
from sqlalchemy import Double
from sqlalchemy import ForeignKeyConstraint
from sqlalchemy import Index
from sqlalchemy import Integer
from sqlalchemy import LargeBinary
from sqlalchemy import literal_column
from sqlalchemy import MetaData
from sqlalchemy import Sequence
from sqlalchemy import Table
from sqlalchemy import Text


#: All places are larger, unless they are damaged.
FIRST = "-9000000000000000000"

#: All numbers are smaller, unless they are damaged.
LAST = "4611686018427387904"

#: States that a task enters on no usual road; their tasks have an index by number.
RARE: tuple[State, ...] = (SCHEDULED, FAILED, CANCELLED)

#: Most bytes of a text that is stored in an index as it is.
LONGEST = 500

METADATA = MetaData()

#: PostgreSQL's numbers; SQLite has a counter in the table of queues.
NUMBERS = Sequence("taskqueue_number", metadata=METADATA)

SCHEMA = Table("taskqueue_schema", METADATA, Column("version", Integer, nullable=False))

QUEUE = Table(
    "taskqueue_queue",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("paused", Boolean, nullable=False),
    Column("number", BigInteger, nullable=False),
)

TASK = Table(
    "taskqueue_task",
    METADATA,
    Column("queue", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("place", BigInteger, nullable=False),
    Column("due", Double),
    Column("key", Text),
    Column("mode", Text, nullable=False),
    Column("user", Text),
    Column("person", Text),
    Column("keep", Double),
    Column("tid", LargeBinary),
    Column("reason", Text, nullable=False),
    # Each change is "state seconds;".
    Column("changes", Text, nullable=False),
    Column("token", Text),
    # The id of the call that completed or released the last attempt; see calls.py.
    Column("done", Text),
    Column("consumer", Text),
    Column("process", Text),
    Column("claim", BigInteger),
    Column("started", Double),
    Column("expires", Double),
    Column("attempts", Integer, nullable=False),
    Column("counted", Integer, nullable=False),
    Column("lost", Integer, nullable=False),
    Column("cancel", Boolean, nullable=False),
    Column("progress", Text),
    Column("forgotten", Boolean, nullable=False),
    Column("forget_at", Double),
    Column("status", Integer),
    Column("ended", Double),
    Column("size", BigInteger),
    # Reference to the slot of the attempts, see publisher/slot.py.
    Column("slot", Text),
    Column("body", LargeBinary, nullable=False),
    # One line of JSON for each attempt.
    Column("history", Text, nullable=False),
    Column("last", LargeBinary),
    Column("payload", LargeBinary),
)

ALIAS = Table(
    "taskqueue_alias",
    METADATA,
    Column("queue", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["queue", "task"], ["taskqueue_task.queue", "taskqueue_task.id"], ondelete="CASCADE"
    ),
    Index("taskqueue_alias_task", "queue", "task", "number"),
)

BATCH = Table(
    "taskqueue_batch",
    METADATA,
    Column("queue", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("staged", Double, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("witness", Text),
    Column("tasks", LargeBinary, nullable=False),
)

PROMOTED = Table(
    "taskqueue_promoted",
    METADATA,
    Column("queue", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("since", Double, nullable=False),
    Index("taskqueue_promoted_since", "queue", "since"),
)


CONSUMER = Table(
    "taskqueue_consumer",
    METADATA,
    Column("queue", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("process", Text, primary_key=True),
    Column("seen", Double, nullable=False),
)

ENDED = Table(
    "taskqueue_ended",
    METADATA,
    Column("queue", Text, primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

SCHEDULE = Table(
    "taskqueue_schedule",
    METADATA,
    Column("queue", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("last", Double),
    Column("paused", Boolean, nullable=False),
    Column("runs", Text, nullable=False),
)

#: Each database has a form of its own of this table; see counters.py.
COUNT = Table(
    "taskqueue_count",
    METADATA,
    Column("queue", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
)


def indexed(text: str) -> str:
    """Return the name of a user or a key as the indexes have it: as it is, or as a digest.

    PostgreSQL refuses a text that is too long for a page of the index, or has a zero in it.
    """
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= LONGEST and "\0" not in text:
        return text
    return f"blake2b {blake2b(data, digest_size=32).hexdigest()}"


def _names(states: Iterable[State]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _partial(name: str, condition: str, *columns: str) -> None:
    where: ColumnElement[bool] = literal_column(condition)
    Index(
        f"taskqueue_{name}",
        *(TASK.c[column] for column in ("queue", *columns)),
        postgresql_where=where,
        sqlite_where=where,
    )


# The bounds on `place` are true for all sound rows, and all statements that use these indexes
# have them, too. Without the bounds a planner without statistics of the table would use these
# indexes for the tasks of one person, too.
_partial("waiting", f"state = 'queued' AND place > {FIRST}", "place")
_partial("scheduled", f"state = 'scheduled' AND place != {FIRST}", "due", "place")
_partial("running", "state = 'running'", "expires")
_partial(
    "finished",
    f"state IN ({_names(FINISHED)}) AND place != {FIRST}",
    *("state", "place", "size", "number"),
)
_partial("expiry", "forget_at IS NOT NULL", "forget_at", "state")
_partial("key", "key IS NOT NULL AND state IN ('queued', 'scheduled', 'running')", "key")
_partial("person", '"user" IS NOT NULL', "user", "person", "number")
_partial("person_state", '"user" IS NOT NULL', "user", "person", "state", "place")
_partial(
    "person_scheduled",
    "\"user\" IS NOT NULL AND state = 'scheduled'",
    *("user", "person", "due", "place"),
)
_partial("strange", f"state NOT IN ({_names(STATES)}) OR place <= {FIRST}", "place")
# The order of searches, see candidates.py. A task that waits, runs and succeeds is in none of them,
# unless it is moved. The bound on `number` keeps planners from using them for anything else.
_RARE = f"state IN ({_names(RARE)}) AND number < {LAST}"
_partial("rare", _RARE, "state", "number")
_partial("moved", f"state = 'queued' AND place != number AND number < {LAST}", "state", "number")
_partial("person_rare", f'"user" IS NOT NULL AND {_RARE}', "user", "person", "state", "number")
Index("taskqueue_number_of_task", TASK.c.queue, TASK.c.number)
