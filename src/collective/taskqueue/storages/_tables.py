"""The tables of a SQL queue, and how each version of them becomes the next.

taskqueue_task      every task that is known; the key is the queue and the id
taskqueue_alias     the id of a task that was skipped for its key → the task that waits
taskqueue_batch     staged batches: the tasks as msgpack, the witness, and when
taskqueue_promoted  batches that were promoted or condemned; forgotten after two hours
taskqueue_consumer  who takes tasks, and when it was last heard of
taskqueue_ended     how many tasks came to each final state, by minute, for one hour
taskqueue_queue     a row for each queue: whether it is paused, and SQLite's numbers
taskqueue_schema    one row: the version of these tables

Many queues share the tables. Times are seconds since the epoch by the clock of the database.
``number`` counts tasks as they were queued, ``place`` orders those of one state: negative
for what is recovered to the front. ``claim`` counts reservations. What is read while a
queue works has a partial index, so that a task that has finished stands in none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from sqlalchemy import BigInteger
from sqlalchemy import Boolean
from sqlalchemy import Column
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
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
from sqlalchemy import text


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
    Column("keep", Double),
    Column("tid", LargeBinary),
    Column("body", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    # Each one "state seconds;".
    Column("changes", Text, nullable=False),
    # One line of JSON for each attempt.
    Column("history", Text, nullable=False),
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
    Column("last", LargeBinary),
    Column("forgotten", Boolean, nullable=False),
    Column("forget_at", Double),
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


def _partial(name: str, condition: str, *columns: str) -> None:
    where: ColumnElement[bool] = literal_column(condition)
    Index(
        f"taskqueue_{name}",
        *(TASK.c[column] for column in ("queue", *columns)),
        postgresql_where=where,
        sqlite_where=where,
    )


_partial("waiting", "state = 'queued'", "place")
_partial("scheduled", "state = 'scheduled'", "due", "place")
_partial("running", "state = 'running'", "expires")
_partial("finished", "state IN ('succeeded', 'failed', 'cancelled')", "state", "place")
_partial("expiry", "forget_at IS NOT NULL", "forget_at")
_partial("key", "key IS NOT NULL AND state IN ('queued', 'scheduled', 'running')", "key")
_partial("user", '"user" IS NOT NULL', "user", "number")
Index("taskqueue_number_of_task", TASK.c.queue, TASK.c.number)


def _first(connection: Connection) -> None:
    METADATA.create_all(connection)
    if connection.dialect.name == "postgresql":
        # Rows change state a few times and then go: room for that in each page, and dead
        # rows are cleared away long before they are a fifth of a table with a backlog.
        connection.execute(
            text(
                "ALTER TABLE taskqueue_task SET (fillfactor = 70,"
                " autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500,"
                " autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)"
            )
        )


#: Step n makes version n of what version n - 1 was. Steps are added, never changed.
STEPS: list[Callable[[Connection], None]] = [_first]
