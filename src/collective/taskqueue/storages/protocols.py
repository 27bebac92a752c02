"""The contracts of storages for a type checker; `interfaces` says what each method does."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.task import Action
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.task import TaskPage
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from typing import Protocol


class Admin(Protocol):
    """See `ITaskAdmin`."""

    def check(self) -> None: ...

    def in_doubt(self, age: float = 0.0) -> list[StagedBatch]: ...

    def recover(self) -> list[str]: ...

    def counts(self, user: str | Identity | None = None) -> dict[State, int]: ...

    def get(self, task_id: str, brief: bool = False) -> TaskStatus: ...

    def tasks(
        self,
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]: ...

    def search(self, filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage: ...

    def change(
        self, action: Action, task_ids: Sequence[str], states: Collection[State]
    ) -> dict[str, State]: ...

    def consumers(self) -> list[ConsumerStatus]: ...

    def forget_consumer(self, consumer: str) -> None: ...

    def throughput(self) -> dict[State, int]: ...

    def cancel(self, task_id: str, reason: str = "cancelled") -> State: ...

    def retry(self, task_id: str) -> None: ...

    def remove(self, task_id: str) -> None: ...

    def run_now(self, task_id: str) -> None: ...

    def forget_response(self, task_id: str) -> bool: ...

    def clear(self) -> int: ...

    def purge(self, state: State) -> int: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def paused(self) -> bool: ...

    def tick(
        self, schedule: str, at: float, task: Task | None = None, moves: bool = True
    ) -> bool: ...

    def schedule(self, name: str) -> ScheduleState: ...

    def pause_schedule(self, name: str) -> None: ...

    def resume_schedule(self, name: str) -> None: ...


class Storage(Protocol):
    """See `ITaskStorage`."""

    notify: Callable[[State, str], None]

    @property
    def admin(self) -> Admin: ...

    def stage(self, batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None: ...

    def promote(
        self, batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()
    ) -> None: ...

    def discard(self, batch_id: str) -> None: ...

    def fail_batch(self, batch_id: str, reason: str) -> None: ...

    def reserve(
        self,
        consumer: str,
        limit: int = 1,
        timeout: float | None = None,
        lease: float = 30.0,
        slots: Sequence[str] = (),
    ) -> list[Lease]: ...

    def wake(self) -> None: ...

    def renew(self, lease: Lease, seconds: float = 30.0) -> bool: ...

    def report(self, lease: Lease, progress: Progress | None = None) -> bool: ...

    def complete(self, lease: Lease, transition: Transition) -> State | None: ...

    def release(self, leases: Sequence[Lease]) -> list[str]: ...

    def after_fork(self) -> None: ...

    def close(self) -> None: ...


class RemoteStorage(Storage, Protocol):
    """See `IRemoteStorage`."""

    settings: QueueSettings
    in_process: bool
    delay: float
    most: int

    def complete_and_reserve(
        self,
        ends: Sequence[tuple[Lease, Transition]],
        consumer: str,
        limit: int = 1,
        seconds: float = 30.0,
        slots: Sequence[str] = (),
    ) -> tuple[list[State | None], list[Lease]]: ...
