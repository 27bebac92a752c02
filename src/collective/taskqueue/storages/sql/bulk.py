"""The ways in which each of the databases executes one statement for many rows."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.storages.sql.schema import NUMBERS
from collective.taskqueue.storages.sql.schema import TASK
from collective.taskqueue.storages.sql.states import HERE
from collective.taskqueue.storages.sql.states import one_of
from collective.taskqueue.task import RUNNING
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import case
from sqlalchemy import cast
from sqlalchemy import column
from sqlalchemy import ColumnElement
from sqlalchemy import CTE
from sqlalchemy import Double
from sqlalchemy import func
from sqlalchemy import Integer
from sqlalchemy import LargeBinary
from sqlalchemy import literal_column
from sqlalchemy import null
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import true
from sqlalchemy import Update
from sqlalchemy.dialects.postgresql import JSON
from typing import Any
import json


#: `Row`: the values of one row, by parameter name. `Given`: the expressions that stand for them.
Row = dict[str, Any]
Given = Mapping[str, ColumnElement[Any]]


#: The parameters of a completion, and the type of each. `place_` is for many at once only.
GIVEN: dict[str, Any] = {
    "id_": Text,
    "token_": Text,
    "done_": Text,
    "state_": Text,
    "reason_": Text,
    "attempt": Text,
    "due_": Double,
    "counts_": Integer,
    "status_": Integer,
    "last_": LargeBinary,
    "place_": BigInteger,
}


class InProcess:
    """SQLite: a library in this process, which reads the rows during the statement.

    One call of the driver is for all rows: after each call this thread may have to wait for the
    GIL, while other threads compute.
    """

    #: Whether one statement can complete attempts and claim tasks.
    at_once = False

    def given(self) -> Given:
        """Return the expressions that stand for the values of each row in a statement."""
        row = func.json_each(bindparam("rows", type_=Text)).table_valued("value", name="row")
        # JSON has no bytes: `last_` is where they begin in the parameter `bytes`, `length` how
        # many they are.
        places = {**GIVEN, "last_": Integer, "length": Integer}
        queue = bindparam("queue_", type_=Text).label("queue_")
        values = [
            func.json_extract(row.c.value, literal_column(f"'$[{number}]'"), type_=kind).label(name)
            for number, (name, kind) in enumerate(places.items())
        ]
        # A subquery with a limit is not merged into the statement: SQLite loops over these rows,
        # and finds each task by its whole primary key.
        given = select(queue, *values).limit(literal_column("-1")).subquery("given").c
        last = func.substr(bindparam("bytes", type_=LargeBinary), given.last_, given.length)
        return {**given, "last_": last}

    def of(self, given: Given) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions that a task belongs to a row."""
        return TASK.c.queue == given["queue_"], TASK.c.id == given["id_"]

    def packed(self, rows: Sequence[Row]) -> Row:
        """Return the parameters that hold all rows."""
        lists, parts, start = [], [], 1
        for row in rows:
            last = row["last_"]
            values = {**row, "last_": start}
            lists.append([*(values[name] for name in GIVEN), len(last)])
            parts.append(last)
            start += len(last)
        return {"rows": json.dumps(lists, ensure_ascii=False), "bytes": b"".join(parts)}


class OnServer:
    """PostgreSQL: a server, to which one message sends all rows."""

    at_once = True

    def given(self) -> Given:
        """Return the expressions that stand for the values of each row in a statement."""
        columns = [column(n, Text if n == "last_" else kind) for n, kind in GIVEN.items()]
        rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
        given = rows.table_valued(*columns).render_derived(name="row", with_types=True).c
        return {**given, "last_": func.decode(given.last_, "base64")}

    def of(self, given: Given) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions that a task belongs to a row."""
        # Without statistics of the table, a planner would read all tasks of the queue. The
        # condition `running` lets it use the partial index, which it sees is short.
        return HERE, one_of(RUNNING), TASK.c.id == given["id_"]

    def packed(self, rows: Sequence[Row]) -> Row:
        """Return the parameters that hold all rows."""
        return {"rows": json.dumps(rows, default=_base64, ensure_ascii=False)}


def single() -> dict[str, ColumnElement[Any]]:
    """Return the parameters of a statement that completes one attempt."""
    return {name: bindparam(name, type_=kind) for name, kind in GIVEN.items() if name != "place_"}


def numbered(given: Given) -> Given:
    """Return the same rows in their order, each with a new, larger number as its place."""
    rows = select(*(value.label(name) for name, value in given.items()))
    ordered = rows.order_by(given["place_"]).subquery("ordered").c
    values = [ordered[name] for name in GIVEN if name != "place_"]
    found = select(*values, NUMBERS.next_value().label("place_")).cte("given")
    return dict(found.prefix_with("MATERIALIZED", dialect="postgresql").c)


def ended(finish: Update) -> CTE:
    """Return the statement that completes many attempts as a CTE, a part of another statement."""
    return finish.returning(TASK.c.done).cte("ended")


def once(ending: CTE) -> ColumnElement[bool]:
    """Return a condition that is true once `ending` has completed the attempts.

    So the completion locks its rows before the claim does.
    """
    return select(func.count()).select_from(ending).scalar_subquery() >= 0


def complete_and_reserve(ending: CTE, claim: Update) -> Select[Any]:
    """Return the statement that does both; it returns a row at least.

    Each row has `done` of all completed attempts, or NULL if all were completed. NULL keeps the
    answer small: it comes in one piece, and each row would repeat them.
    """
    every = func.count() == bindparam("count_", type_=Integer)
    some = func.coalesce(func.json_agg(ending.c.done), cast("[]", JSON))
    found = case((every, null()), else_=some)
    tokens = select(found.label("ended")).select_from(ending).subquery("tokens")
    claimed = claim.cte("claimed")
    both = select(tokens.c.ended, claimed).select_from(tokens.outerjoin(claimed, true()))
    # Sorted, no row is sent before the last one is there.
    return both.order_by(claimed.c.place)


def _base64(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value)} cannot be sent to the database")
    return b64encode(value).decode()
