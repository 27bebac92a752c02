"""The steps that migrate the tables of a SQL queue from each version to the next."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.errors import TaskDecodeError
from collective.taskqueue.storages import codec
from collective.taskqueue.storages.sql.counters import install
from collective.taskqueue.storages.sql.schema import BATCH
from collective.taskqueue.storages.sql.schema import indexed
from collective.taskqueue.storages.sql.schema import METADATA
from collective.taskqueue.storages.sql.schema import SCHEDULE
from collective.taskqueue.storages.sql.schema import TASK
from contextlib import suppress
from sqlalchemy import and_
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import inspect
from sqlalchemy import or_
from sqlalchemy import select
from sqlalchemy import Table
from sqlalchemy import text
from sqlalchemy import update
from typing import Any
import msgpack


#: Most rows that are read at a time.
PORTION = 1000


def _first(connection: Connection) -> None:
    METADATA.create_all(connection)
    if connection.dialect.name == "postgresql":
        # Rows change state a few times and then are deleted. So leave room for updates in each
        # page, and vacuum long before a fifth of a table with a backlog are dead rows.
        connection.execute(
            text(
                "ALTER TABLE taskqueue_task SET (fillfactor = 70,"
                " autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500,"
                " autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)"
            )
        )


def _second(connection: Connection) -> None:
    """Add columns: payload and response status apart from the body, person, time of the end."""
    known = {column["name"] for column in inspect(connection).get_columns(TASK.name)}
    if "payload" in known:
        # The first step has made the table just now, with all columns.
        return
    for name in ("person", "status", "ended", "size", "payload"):
        kind = TASK.c[name].type.compile(connection.dialect)
        connection.execute(text(f"ALTER TABLE taskqueue_task ADD COLUMN {name} {kind}"))
    for name in ("user", "waiting", "scheduled", "finished", "expiry"):
        connection.execute(text(f"DROP INDEX taskqueue_{name}"))
    shown = ("body", "last", "history", "changes", "forget_at", "user", "key")
    for row in _rows(connection, TASK, *shown):
        connection.execute(update(TASK).where(*_mine(TASK, row)).values(_apart(row)))
    for row in _rows(connection, BATCH, "tasks"):
        # A batch that cannot be read stays in doubt.
        with suppress(Exception):
            tasks = codec.pack_batch(_staged(row.tasks))
            connection.execute(update(BATCH).where(*_mine(BATCH, row)).values(tasks=tasks))
    for index in sorted(TASK.indexes, key=lambda index: str(index.name)):
        index.create(connection, checkfirst=True)


def _fourth(connection: Connection) -> None:
    """Add the column of the slot."""
    known = {column["name"] for column in inspect(connection).get_columns(TASK.name)}
    if "slot" not in known:
        connection.execute(text("ALTER TABLE taskqueue_task ADD COLUMN slot TEXT"))


def _fifth(connection: Connection) -> None:
    """Add the indexes of searches, and the number to that of the finished tasks."""
    indexes = {str(index.name): index for index in TASK.indexes}
    known = {index["name"]: index for index in inspect(connection).get_indexes(TASK.name)}
    finished = known.get("taskqueue_finished")
    if finished is not None and "number" not in finished["column_names"]:
        connection.execute(text("DROP INDEX taskqueue_finished"))
    for name in ("finished", "moved", "person_rare", "rare"):
        indexes[f"taskqueue_{name}"].create(connection, checkfirst=True)


def _sixth(connection: Connection) -> None:
    """Add the table of schedules."""
    SCHEDULE.create(connection, checkfirst=True)


def _rows(connection: Connection, table: Table, *columns: str) -> Iterator[Any]:
    key = table.c.queue, table.c.id
    query = select(*key, *(table.c[name] for name in columns)).order_by(*key).limit(PORTION)
    rows = connection.execute(query).all()
    while rows:
        yield from rows
        queue, last = rows[-1][:2]
        later = or_(key[0] > queue, and_(key[0] == queue, key[1] > last))
        rows = connection.execute(query.where(later)).all()


def _mine(table: Table, row: Any) -> tuple[ColumnElement[bool], ...]:
    return table.c.queue == row.queue, table.c.id == row.id


def _apart(row: Any) -> dict[str, Any]:
    """Return the new values of a task whose body has its payload in it."""
    values: dict[str, Any] = {name: getattr(row, name) for name in ("user", "key")}
    values = {name: value and indexed(value) for name, value in values.items()}
    # A body that cannot be read stays, and is shown as damaged, as before.
    with suppress(TaskDecodeError):
        task = codec.decode(row.id, row.body)
        values |= {"body": codec.head(task), "payload": task.payload or None}
        values["person"] = task.user and task.user.person
    with suppress(Exception):
        status, *response = msgpack.unpackb(row.last)
        values |= {"status": status, "last": msgpack.packb(response)}
    if row.forget_at is not None:
        with suppress(ValueError):
            values["ended"] = float(row.changes.rpartition(" ")[2].rstrip(";"))
        values["size"] = sum(len(part or "") for part in (row.body, row.last, row.history))
    return values


def _staged(batch: bytes) -> list[Any]:
    """Return the tasks of a batch in the old format, which has seven strings for each task."""
    strings = msgpack.unpackb(batch)
    return [codec.decode(*pair) for pair in zip(strings[::7], strings[1::7], strict=True)]


#: Step n migrates version n - 1 to version n. Steps are added, never changed.
STEPS: list[Callable[[Connection], None]] = [
    *(_first, _second, install, _fourth),
    *(_fifth, _sixth),
]
