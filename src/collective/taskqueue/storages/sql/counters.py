"""Counters of the tasks of a SQL queue in each state: triggers count tasks as they change.

A trigger writes to the table `taskqueue_count` in the transaction that changes a task. SQLite has
one row for each queue and state. PostgreSQL has more: each statement inserts its changes as new
rows, so that no transaction waits for the row of another one, and now and then a statement merges
the rows of its queue. A counter is the sum of its rows. If counters are missing or damaged when
they are read, the tasks of the queue are counted again.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.storages.sql.schema import COUNT
from collective.taskqueue.storages.sql.schema import FIRST
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import STATES
from sqlalchemy import bindparam
from sqlalchemy import Connection
from sqlalchemy import delete
from sqlalchemy import func
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import text
from typing import Any


#: PostgreSQL: the share of statements that merge rows, and the most rows that one merges.
SHARE, MOST = 1 / 32, 1000

#: No queue has more tasks; a larger number is damaged.
LIMIT = 10**12


def counters() -> Select[Any]:
    """Return the statement that reads the counters of one queue, by state."""
    mine = COUNT.c.queue == bindparam("queue_", type_=Text)
    number = func.sum(COUNT.c.number).label("number")
    return select(COUNT.c.state, number).where(mine).group_by(COUNT.c.state)


def install(connection: Connection) -> None:
    """Create the table of the counters, and the triggers; all queues will be counted again."""
    is_sqlite = connection.dialect.name == "sqlite"
    # Drop existing triggers only: DROP TRIGGER takes a lock that waits for all readers.
    for name in _triggers(connection):
        on_table = "" if is_sqlite else "ON taskqueue_task"
        connection.exec_driver_sql(f"DROP TRIGGER {name} {on_table}")
    COUNT.drop(connection, checkfirst=True)
    for statement in _SQLITE if is_sqlite else _POSTGRESQL:
        connection.exec_driver_sql(statement)
    if not is_sqlite:
        connection.exec_driver_sql(_function(_full_name(connection)))
        for statement in _TRIGGERS:
            connection.exec_driver_sql(statement)


def _triggers(connection: Connection) -> Sequence[str]:
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'taskqueue_task'::regclass"
    names = connection.exec_driver_sql(query).scalars()
    return [name for name in names if name.startswith("taskqueue_count_")]


def _full_name(connection: Connection) -> str:
    """Return the name of PostgreSQL's table with its schema.

    A session that changes a task may have another search path: its trigger must use this table.
    """
    return str(
        connection.exec_driver_sql(
            "SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class"
            " JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE pg_class.oid = 'taskqueue_count'::regclass"
        ).scalar_one()
    )


def recount(connection: Connection, queue: str) -> None:
    """Correct the counters of a queue; no other transaction may do so at the same time.

    PostgreSQL: a single statement reads tasks and counters, so it sees both at the same moment.
    """
    if connection.dialect.name == "sqlite":
        # Delete all rows: a value that is no number cannot be corrected. No other transaction
        # can write to the file in between.
        connection.execute(delete(COUNT).where(COUNT.c.queue == queue))
    else:
        damaged = ~COUNT.c.number.between(-LIMIT, LIMIT)
        connection.execute(delete(COUNT).where(COUNT.c.queue == queue, damaged))
    connection.execute(text(_RECOUNT), {"queue": queue})


_NAMES = ", ".join(f"'{state}'" for state in STATES)


def _parts() -> Iterator[str]:
    """Yield the queries that count the tasks of a queue by state, each by an index of its own."""
    start = "SELECT state, count(*) FROM taskqueue_task WHERE queue = :queue"
    finished = ", ".join(f"'{state}'" for state in FINISHED)
    conditions = (
        *(f"state = '{state}'" for state in ("queued", "running")),
        f"state = 'scheduled' AND place != {FIRST}",
        f"state IN ({finished}) AND place != {FIRST}",
    )
    yield from (f"{start} AND {one} AND place > {FIRST} GROUP BY state" for one in conditions)
    # Damaged rows are in another index.
    yield f"{start} AND (state NOT IN ({_NAMES}) OR place <= {FIRST}) GROUP BY state"


_RECOUNT = f"""
INSERT INTO taskqueue_count (queue, state, number)
SELECT :queue, state, sum(number) FROM (
  {" UNION ALL ".join(f"SELECT '{state}' AS state, 0 AS number" for state in STATES)}
  {" ".join(f"UNION ALL {part}" for part in _parts())}
  UNION ALL SELECT state, -number FROM taskqueue_count WHERE queue = :queue
) AS changes
WHERE state IN ({_NAMES}) GROUP BY state
"""


_COLUMNS = "queue TEXT NOT NULL, state TEXT NOT NULL, number BIGINT NOT NULL"
_KEY = "PRIMARY KEY (queue, state)) WITHOUT ROWID"


def _trigger_of_rows(name: str, event: str, *steps: tuple[str, int]) -> str:
    """Return the statement that creates a trigger of SQLite.

    A step is OLD or NEW, and the number to add to the counter of that row's state.
    """
    updates = (
        f"UPDATE taskqueue_count SET number = number + {number}"
        f" WHERE queue = {row}.queue AND state = {row}.state;"
        for row, number in steps
    )
    return f"CREATE TRIGGER taskqueue_count_{name} AFTER {event} BEGIN {' '.join(updates)} END"


_SQLITE = [
    f"CREATE TABLE taskqueue_count ({_COLUMNS}, {_KEY}",
    _trigger_of_rows("insert", "INSERT ON taskqueue_task", ("NEW", 1)),
    _trigger_of_rows("delete", "DELETE ON taskqueue_task", ("OLD", -1)),
    _trigger_of_rows(
        "update",
        "UPDATE OF queue, state ON taskqueue_task"
        " WHEN NEW.state IS NOT OLD.state OR NEW.queue IS NOT OLD.queue",
        *(("OLD", -1), ("NEW", 1)),
    ),
]

_INSERTED = "SELECT queue, state, 1 AS step FROM inserted"
_DELETED = "SELECT queue, state, -1 AS step FROM deleted"


def _insert_changes(count: str, changes: str) -> str:
    """Return the statement by which a trigger of PostgreSQL counts the changed rows."""
    return f"""
    WITH counted AS (
      INSERT INTO {count} (queue, state, number)
      SELECT queue, state, sum(step) FROM ({changes}) AS changes
      WHERE state IN ({_NAMES}) GROUP BY queue, state HAVING sum(step) <> 0
      RETURNING queue
    ) SELECT min(queue) INTO changed FROM counted;
    """


def _function(count: str) -> str:
    """Return the statement that creates the function of PostgreSQL's triggers.

    `inserted` and `deleted` exist only in the branches of the events that define them. A merge
    leaves out rows that another transaction is merging, and damaged rows, which may have no sum.
    """
    return f"""
    CREATE OR REPLACE FUNCTION taskqueue_count_changes() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE changed text;
    BEGIN
      IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM {count};
      ELSIF TG_OP = 'INSERT' THEN {_insert_changes(count, _INSERTED)}
      ELSIF TG_OP = 'DELETE' THEN {_insert_changes(count, _DELETED)}
      ELSE {_insert_changes(count, f"{_INSERTED} UNION ALL {_DELETED}")}
      END IF;
      IF changed IS NOT NULL AND random() < {SHARE} THEN
        WITH old AS (
          DELETE FROM {count} WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {count}
            WHERE queue = changed AND number BETWEEN -{LIMIT} AND {LIMIT}
            LIMIT {MOST} FOR UPDATE SKIP LOCKED
          )) RETURNING queue, state, number
        )
        INSERT INTO {count} (queue, state, number)
        SELECT queue, state, sum(number) FROM old GROUP BY queue, state;
      END IF;
      RETURN NULL;
    END $$
    """


_CALL = "FOR EACH STATEMENT EXECUTE FUNCTION taskqueue_count_changes()"


def _trigger_of_statements(event: str, tables: str) -> str:
    name = f"taskqueue_count_{event.lower()}"
    return f"CREATE TRIGGER {name} AFTER {event} ON taskqueue_task {tables} {_CALL}"


_NEW, _OLD = "NEW TABLE AS inserted", "OLD TABLE AS deleted"

_POSTGRESQL = [
    f"CREATE TABLE taskqueue_count ({_COLUMNS})",
    "CREATE INDEX taskqueue_count_of ON taskqueue_count (queue, state)",
    # The table has no primary key, and a publication of all tables asks for an identity.
    "ALTER TABLE taskqueue_count REPLICA IDENTITY FULL",
    # Most rows are merged, and so deleted, soon: vacuum early.
    "ALTER TABLE taskqueue_count SET (autovacuum_vacuum_scale_factor = 0.01)",
    "ALTER TABLE taskqueue_count SET (autovacuum_vacuum_threshold = 1000)",
    "ALTER TABLE taskqueue_count SET (autovacuum_vacuum_cost_delay = 0)",
]

_TRIGGERS = [
    _trigger_of_statements("INSERT", f"REFERENCING {_NEW}"),
    _trigger_of_statements("DELETE", f"REFERENCING {_OLD}"),
    _trigger_of_statements("UPDATE", f"REFERENCING {_NEW} {_OLD}"),
    _trigger_of_statements("TRUNCATE", ""),
]
