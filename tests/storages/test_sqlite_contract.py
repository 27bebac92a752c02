"""The contract suite on SQLite."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.contract import ManualClock
from collective.taskqueue.contract import StorageContract
from collective.taskqueue.storages.sql import SqlStorage
from pathlib import Path
from typing import Any
import pytest


class TestSQLite(StorageContract):
    """See `ITaskStorage`; every sentence of it."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def make_storage(
        self, clock: ManualClock, tmp_path: Path
    ) -> Iterator[Callable[..., Any]]:
        made: list[SqlStorage] = []

        def make(**settings: Any) -> SqlStorage:
            settings = {"url": f"sqlite:///{tmp_path}/queue.sqlite", "type": "sql", **settings}
            made.append(SqlStorage(QueueSettings(**settings), clock))
            return made[-1]

        yield make
        for storage in made:
            storage.close()
