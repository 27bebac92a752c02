"""The tables of a SQL queue; how each version of them becomes the next is told in migrations.py.

taskqueue_task      every task that is known; the key is the queue and the id
taskqueue_alias     the id of a task that was skipped for its key → the task that waits
taskqueue_batch     staged batches: the tasks as msgpack, the witness, and when
taskqueue_promoted  batches that were promoted or condemned; forgotten after two hours
taskqueue_consumer  who takes tasks, and when it was last heard of
taskqueue_ended     how many tasks came to each final state, by minute, for one hour
taskqueue_queue     a row for each queue: whether it is paused, and SQLite's numbers
taskqueue_count     how many tasks are in each state; see counters.py
taskqueue_schema    one row: the version of these tables

Many queues share the tables. Times are seconds since the epoch by the clock of the database.
``number`` counts tasks as they were queued, ``place`` orders those of one state: negative
for what is recovered to the front. ``claim`` counts reservations. What is read while a
queue works has a partial index, so that a task that has finished stands in none of them.

``body`` is the task without its payload, ``status`` that of the last response, ``last`` the rest
of it. ``ended`` and ``size`` are of finished tasks: when they came to their end, and how many
bytes they take. What may be large is at the end of a row, for SQLite reads a row up to the last
column that it is asked for. The lists of a user have indexes by ``user`` and ``person``, of which
``user`` and ``key`` are digests if they are long; see `indexed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from collective.taskqueue.task import FINISHED
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


#: All places are greater, unless they are damaged.
FIRST = "-9000000000000000000"

#: Bytes of a text that stands in an index as it is.
LONGEST = 500

METADATA = MetaData()

#: PostgreSQL's numbers; SQLite counts in the table of queues.
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
    # Each one "state seconds;".
    Column("changes", Text, nullable=False),
    Column("token", Text),
    # The token of the attempt that ended last: a repeated call is told what it did.
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
    Column("heard", Double, nullable=False),
)

ENDED = Table(
    "taskqueue_ended",
    METADATA,
    Column("queue", Text, primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

#: Each database has it in a form of its own.
COUNT = Table(
    "taskqueue_count",
    METADATA,
    Column("queue", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
)


def indexed(text: str) -> str:
    """Return what stands in an index for the name of a user or a key.

    PostgreSQL refuses what is too long for a page of it, and a text with a zero in it.
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


# With a condition that is true of all rows, as all statements have it that use them: a
# planner that knows nothing of a table yet would take them for the tasks of one person, too.
_partial("waiting", f"state = 'queued' AND place > {FIRST}", "place")
_partial("scheduled", f"state = 'scheduled' AND place != {FIRST}", "due", "place")
_partial("running", "state = 'running'", "expires")
_partial(
    "finished", f"state IN ({_names(FINISHED)}) AND place != {FIRST}", "state", "place", "size"
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
Index("taskqueue_number_of_task", TASK.c.queue, TASK.c.number)
