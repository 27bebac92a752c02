"""How one statement is executed for many rows, by each of the databases."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.storages._tables import NUMBERS
from collective.taskqueue.storages._tables import TASK
from sqlalchemy import BigInteger
from sqlalchemy import bindparam
from sqlalchemy import cast
from sqlalchemy import column
from sqlalchemy import ColumnElement
from sqlalchemy import Connection
from sqlalchemy import CTE
from sqlalchemy import Double
from sqlalchemy import func
from sqlalchemy import Integer
from sqlalchemy import LargeBinary
from sqlalchemy import Select
from sqlalchemy import select
from sqlalchemy import Text
from sqlalchemy import true
from sqlalchemy import Update
from sqlalchemy.dialects.postgresql import JSON
from typing import Any
import json


#: The values of one row, by the name of their parameter.
Row = dict[str, Any]


#: What is said of an attempt that ends, and the type of each. `place_` is for many at once.
GIVEN: dict[str, Any] = {
    "id_": Text,
    "token_": Text,
    "state_": Text,
    "reason_": Text,
    "attempt": Text,
    "due_": Double,
    "counts_": Integer,
    "last_": LargeBinary,
    "place_": BigInteger,
}


class OneByOne:
    """The driver of a database in this process executes the statement for each row."""

    #: Whether one statement can end tasks and claim others.
    at_once = False

    def given(self, types: Mapping[str, Any]) -> dict[str, ColumnElement[Any]]:
        """Return what stands in a statement for the values of each row."""
        return {name: bindparam(name, type_=kind) for name, kind in types.items()}

    def change(
        self, connection: Connection, statement: Any, common: Row, rows: Sequence[Row]
    ) -> int:
        """Execute a statement with `given` for each of the rows; return how many it changed."""
        result = connection.execute(statement, [{**common, **row} for row in rows])
        return int(result.rowcount)


class AsOne:
    """All rows are one parameter: to send a statement for each would take longer."""

    at_once = True

    def given(self, types: Mapping[str, Any]) -> dict[str, ColumnElement[Any]]:
        """Return what stands in a statement for the values of each row."""
        binary = {name for name, kind in types.items() if kind is LargeBinary}
        columns = [column(n, Text if n in binary else kind) for n, kind in types.items()]
        rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
        table = rows.table_valued(*columns).render_derived(name="given", with_types=True)
        return {
            name: func.decode(table.c[name], "base64") if name in binary else table.c[name]
            for name in types
        }

    def change(
        self, connection: Connection, statement: Any, common: Row, rows: Sequence[Row]
    ) -> int:
        """Execute a statement with `given` for all of the rows; return how many it changed."""
        result = connection.execute(statement, {**common, "rows": packed(rows)})
        return int(result.rowcount)


def single() -> dict[str, ColumnElement[Any]]:
    """Return what stands in a statement for the end of one attempt."""
    return {name: bindparam(name, type_=kind) for name, kind in GIVEN.items() if name != "place_"}


def packed(rows: Sequence[Row]) -> str:
    """Return rows as the one parameter that they are."""
    return json.dumps(rows, default=_base64, ensure_ascii=False)


def numbers() -> CTE:
    """Return as many numbers, each larger than the one before, as `count_` says, from 1."""
    last = bindparam("count_", type_=Integer)
    series = func.generate_series(1, last).table_valued("n").render_derived()
    found = select(series.c.n, NUMBERS.next_value().label("number"))
    return found.cte("numbers").prefix_with("MATERIALIZED", dialect="postgresql")


def ended(finish: Update) -> CTE:
    """Return what ends many tasks, as a part of a statement."""
    return finish.returning(TASK.c.done).cte("ended")


def once(ending: CTE) -> ColumnElement[bool]:
    """Return what is true once it has ended them: who locks rows does it in this order."""
    return select(func.count()).select_from(ending).scalar_subquery() >= 0


def exchange(ending: CTE, claim: Update) -> Select[Any]:
    """Return the statement that does both: a row at least, with the tokens of all that ended."""
    tokens = select(func.json_agg(ending.c.done).label("ended")).subquery("tokens")
    claimed = claim.cte("claimed")
    return select(tokens.c.ended, claimed).select_from(tokens.outerjoin(claimed, true()))


def _base64(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value)} cannot be sent to the database")
    return b64encode(value).decode()
