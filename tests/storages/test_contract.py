"""The contract suite, run on every storage of this package."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.local import LocalStorage
from collective.taskqueue.testing.contract import ManualClock
from collective.taskqueue.testing.contract import StorageContract
from typing import Any
import pytest


class TestLocalStorage(StorageContract):
    """The reference."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def make_storage(self, clock: ManualClock) -> Callable[..., Any]:
        return lambda **settings: LocalStorage(QueueSettings(**settings), clock)
