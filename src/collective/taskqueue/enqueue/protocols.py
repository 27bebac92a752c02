"""The contract of a queue for a type checker; `interfaces` says what each method does."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.enqueue.params import Params
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import Action
from collective.taskqueue.task import BulkResult
from collective.taskqueue.task import Identity
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from contextlib import AbstractContextManager
from typing import Protocol


class Queue(Protocol):
    """See `ITaskQueue`."""

    name: str
    storage: Storage
    settings: QueueSettings

    def __len__(self) -> int: ...

    def add(
        self,
        url: object,
        method: str | None = None,
        params: Params = None,
        headers: Mapping[str, object] | None = None,
        payload: bytes | str | None = ...,
        *,
        view: str | None = None,
        **options: object,
    ) -> str: ...

    def put(self, task: Task) -> None: ...

    def get(self, consumer_name: str = "script") -> Task | None: ...

    def task_done(
        self,
        task: Task,
        status_line: str = "HTTP/1.1 200 OK",
        consumer_name: str = "script",
        consumer_length: int = 0,
    ) -> None: ...

    def after_fork(self) -> None: ...

    def reset(self) -> int: ...

    def status(self, task_id: str, brief: bool = False) -> TaskStatus: ...

    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]: ...

    def search(self, filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage: ...

    def bulk(
        self,
        action: Action,
        filter: TaskFilter,
        limit: int = 1000,
        cursor: str | None = None,
        allowed: Callable[[TaskStatus], bool] | None = None,
    ) -> BulkResult: ...

    def counts(self, user: str | Identity | None = None) -> dict[State, int]: ...

    def cancel(self, task_id: str, reason: str = "cancelled") -> State: ...

    def retry(self, task_id: str) -> None: ...

    def remove(self, task_id: str) -> None: ...

    def run_now(self, task_id: str) -> None: ...

    def forget_response(self, task_id: str) -> bool: ...

    def purge(self, state: State) -> int: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def publish_event(self, state: State, task_id: str) -> None: ...

    def tick(self, schedule: str, at: float, task: Task) -> bool: ...

    def promoting(self, task_ids: Collection[str]) -> AbstractContextManager[None]: ...
