"""The status of a task from its row."""

from __future__ import annotations

from collective.taskqueue.storages import codec
from collective.taskqueue.storages.sql.damage import shown
from collective.taskqueue.task import TaskStatus
from typing import Any


def status_of(row: Any, brief: bool = False) -> TaskStatus:
    """Return the status of a task from its row, even if values in it are damaged."""
    record = {**row._mapping, "id": shown(row.id), "head": row.body, "number": row.attempts}
    return codec.status_of(record, None if brief else shown(row.history).splitlines())
