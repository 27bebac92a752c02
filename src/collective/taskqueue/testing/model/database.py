"""The database that the tasks of the model write into, as far as their slots show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from collective.taskqueue.consumer.redelivery import Found
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task


class Database:
    """Remembers which slots were committed; without packs. See `consumer.redelivery.Slots`."""

    def __init__(self) -> None:
        #: By the reference to a slot, the id of the task that has committed it.
        self._committed: dict[str, str] = {}
        self._allocated = 0
        #: How often each task has committed.
        self.commits: Counter[str] = Counter()
        #: How often an attempt of a task that had committed was completed.
        self.completed: Counter[str] = Counter()

    def take(self, number: int) -> list[str]:
        """Return references to as many slots that no task has."""
        first = self._allocated + 1
        self._allocated += number
        return [f"{n:096x}" for n in range(first, first + number)]

    def put_back(self, references: Collection[str]) -> None:
        """Take back references that no task was given: there are enough others."""

    def find(self, reference: str, task: Task) -> Found:
        """Return the slot of a task if it was committed."""
        if reference not in self._committed:
            return Found()
        assert self._committed[reference] == task.id, "two tasks have the same slot"
        return Found(True, True, Outcome(200))

    def commit(self, lease: Lease) -> None:
        """Commit the work of a lease with its slot, unless that is a conflict."""
        assert lease.slot is not None
        if lease.slot not in self._committed:
            self._committed[lease.slot] = lease.task.id
            self.commits[lease.task.id] += 1

    def check(self) -> None:
        """No task has committed twice, unless it was retried after it had committed."""
        for task_id, number in self.commits.items():
            assert number <= 1 + self.completed[task_id], f"task {task_id} has committed twice"
