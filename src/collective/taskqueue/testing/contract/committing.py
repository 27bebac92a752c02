"""Adding tasks: stage, promote, discard."""

from __future__ import annotations

from collections.abc import Callable
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import ITaskStorage
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Origin
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import STATES
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.testing.contract.base import add
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import aside
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import BOUND
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import everything
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import near
from collective.taskqueue.testing.contract.base import new_task
from collective.taskqueue.testing.contract.base import refused
from collective.taskqueue.testing.contract.base import take
from collective.taskqueue.testing.contract.base import take_all
from collective.taskqueue.testing.contract.base import unchanged
from typing import Any
from zope.interface.verify import verifyObject
import time


def _full_task(now: float) -> Task:
    """Return a task with no field at its default."""
    return new_task(
        url="/Plone/ä?a=1&a=2",
        method="POST",
        headers=(("Accept-Language", "fi"), ("X-Text", "ä €")),
        payload=b"\x00\xff\xfe{}" * 100,
        user=Identity("/Plone/acl_users", "jäne", 3),
        origin=Origin("https://www.example.org", "/cms", "/Plone", "fi"),
        created=now - 0.125,
        due=now - 0.0625,
        timeout=12.5,
        max_attempts=7,
        backoff="linear",
        min_backoff=0.5,
        max_backoff=99.5,
        max_age=1e6,
        key="schlüssel",
        on_conflict="after_running",
        description="Ein Täsk",
        keep=77.5,
    )


class Committing(Base):
    """All tasks of a batch are added in order and once, or none is."""

    def test_it_provides_the_interface(self, storage: Any) -> None:
        """The storage has every method, with the arguments of the interface."""
        assert verifyObject(ITaskStorage, storage)
        assert ITaskStorage.implementedBy(type(storage))

    def test_a_new_queue_is_empty(self, storage: Any) -> None:
        """U01: a new queue has no tasks and no batches in doubt."""
        assert storage.admin.counts()["queued"] == 0
        assert not any(storage.admin.counts().values())
        assert everything(storage) == []
        assert storage.admin.in_doubt() == []
        assert storage.reserve("consumer", timeout=0) == []

    def test_what_is_staged_is_invisible(self, storage: Any) -> None:
        """C30: no call shows, runs or changes a task before its transaction has committed."""
        task = new_task()
        storage.stage("batch", [task])
        assert storage.admin.counts()["queued"] == 0
        assert not any(storage.admin.counts().values())
        assert everything(storage) == []
        assert storage.reserve("consumer", timeout=0) == []
        for method in (
            storage.admin.get,
            storage.admin.cancel,
            storage.admin.retry,
            storage.admin.remove,
        ):
            with refused(storage, UnknownTask, task.id):
                method(task.id)
        assert storage.admin.clear() == 0
        assert ids(storage.admin.in_doubt()) == ["batch"]
        storage.promote("batch")
        assert take_all(storage) == [task.id]

    def test_promoted_tasks_are_queued(self, storage: Any, clock: Any) -> None:
        """C30, N40: a promoted task is visible, and has no attempts yet."""
        storage.stage("batch", [new_task()])
        storage.promote("batch", b"\x03\xfe\x00\x00\x00\x00\x00\x01")
        (status,) = everything(storage)
        assert storage.admin.counts()["queued"] == 1
        expected = TaskStatus(task=status.task, state=QUEUED, changes=status.changes)
        assert status == expected
        assert status.changes == ((QUEUED, near(clock())),)
        assert storage.admin.in_doubt() == []

    def test_every_field_of_a_task_survives(self, storage: Any, clock: Any) -> None:
        """C74: bytes stay bytes, text stays text, and no field is lost."""
        task = _full_task(clock())
        add(storage, task)
        assert storage.admin.get(task.id).task == task
        assert take(storage).task == task

    def test_the_batch_is_what_it_was_when_it_was_staged(self, storage: Any) -> None:
        """The batch does not change if the caller changes the list afterwards."""
        tasks = [new_task(), new_task()]
        expected = ids(tasks)
        storage.stage("batch", tasks)
        tasks.clear()
        storage.promote("batch")
        assert take_all(storage) == expected

    def test_tasks_of_a_batch_keep_their_order(self, storage: Any) -> None:
        """C37, D02: tasks run in the order they were added, also with two and three digits."""
        tasks = add(storage, *(new_task() for _ in range(250)))
        assert take_all(storage) == ids(tasks)

    def test_batches_come_in_the_order_they_were_promoted(self, storage: Any) -> None:
        """Tasks run in the order of commits, whatever the order of staging."""
        first, second, third = new_task(), new_task(), new_task()
        storage.stage("a", [third])
        storage.stage("b", [first])
        storage.stage("c", [second])
        storage.promote("b")
        storage.promote("c")
        storage.promote("a")
        assert take_all(storage) == ids([first, second, third])

    def test_promoting_again_changes_nothing(self, storage: Any) -> None:
        """`promote` is idempotent while a task waits, runs, has finished, and once removed."""
        task = new_task()
        storage.stage("batch", [task])
        storage.promote("batch")
        lease = None
        for step in ("queued", "running", "finished", "removed"):
            if step == "running":
                lease = take(storage)
            elif step == "finished" and lease is not None:
                storage.complete(lease, completed(lease))
            elif step == "removed":
                storage.admin.remove(task.id)
            with unchanged(storage):
                storage.promote("batch")
                storage.promote("batch", None, [task])

    def test_a_lost_batch_is_replaced_by_its_tasks(self, storage: Any) -> None:
        """A storage that lost a staged batch adds the committed tasks from the call, once."""
        tasks = [new_task(), new_task()]
        storage.promote("lost", None, tasks)
        with unchanged(storage):
            storage.promote("lost", None, tasks)
        assert take_all(storage) == ids(tasks)

    def test_tasks_of_a_batch_that_is_not_lost_are_not_added_twice(self, storage: Any) -> None:
        """If the batch is still staged, the same tasks in the call are ignored."""
        tasks = [new_task(), new_task()]
        storage.stage("batch", tasks)
        storage.promote("batch", None, tasks)
        assert take_all(storage) == ids(tasks)

    def test_promoting_nothing_does_not_use_up_the_batch(self, storage: Any) -> None:
        """An empty call must not discard tasks that another process still holds in memory."""
        task = new_task()
        with unchanged(storage):
            storage.promote("lost")
        storage.promote("lost", None, [task])
        assert take_all(storage) == [task.id]

    def test_every_lease_tells_the_commit(self, storage: Any, clock: Any) -> None:
        """Guarantee 4: the lease names the transaction that the consumer's database must show."""
        tid = b"\x03\xfe\x00\xff\n \x00\x01"
        storage.stage("batch", [new_task(), new_task()])
        storage.promote("batch", tid)
        first, second = take(storage), take(storage)
        assert (first.tid, second.tid) == (tid, tid)
        storage.complete(first, completed(first, SCHEDULED, due=clock()))
        assert take(storage).tid == tid
        storage.promote("lost", tid, [new_task()])
        assert take(storage).tid == tid
        add_one(storage)
        assert take(storage).tid is None

    def test_what_is_discarded_never_comes(self, storage: Any) -> None:
        """C31: an aborted transaction queues nothing."""
        storage.stage("batch", [new_task()])
        storage.discard("batch")
        assert storage.admin.in_doubt() == []
        storage.promote("batch")
        assert everything(storage) == []

    def test_what_is_condemned_is_for_a_person_to_decide(self, storage: Any, clock: Any) -> None:
        """The tasks are failed with the reason, subscribers are notified, and a retry works."""
        told: list[tuple[str, str]] = []
        storage.notify = lambda state, task_id: told.append((state, task_id))
        waiting = add_one(storage, key="k")
        tasks = [new_task(key="k", max_attempts=3), new_task(due=clock() + 100)]
        storage.stage("batch", tasks)
        assert storage.fail_batch("batch", "the end is unknown") is None
        assert ids(storage.admin.in_doubt()) == []
        assert ids(storage.admin.tasks(FAILED)) == ids(tasks)
        assert [storage.admin.get(task.id).reason for task in tasks] == ["the end is unknown"] * 2
        assert told == [(FAILED, task.id) for task in tasks]
        clock.advance(200)
        assert take_all(storage) == [waiting.id]
        for task in tasks:
            storage.admin.retry(task.id)
        assert take_all(storage) == ids(tasks)

    def test_what_is_condemned_stands_in_no_line(self, storage: Any, clock: Any) -> None:
        """Its record has all fields of the task, but the task does not count for deduplication."""
        user = Identity("/acl_users", "jane")
        task = new_task(key="k", on_conflict="replace", due=clock() + 100, user=user)
        storage.stage("batch", [task])
        storage.fail_batch("batch", "the end is unknown")
        status = storage.admin.get(task.id)
        assert status.task == task
        assert [name for name, _ in status.changes] == [QUEUED, FAILED]
        assert ids(storage.admin.tasks(user="jane")) == [task.id]
        other = add_one(storage, key="k")
        assert take_all(storage) == [other.id]
        storage.admin.retry(task.id)
        assert take(storage).task == task

    def test_what_was_condemned_is_not_promoted(self, storage: Any) -> None:
        """A late `promote` has no effect, also after an admin has removed or retried the tasks."""
        tasks = [new_task(), new_task()]
        storage.stage("batch", tasks)
        storage.fail_batch("batch", "the end is unknown")
        storage.admin.remove(tasks[0].id)
        with unchanged(storage):
            storage.promote("batch")
            storage.promote("batch", None, tasks)
        storage.admin.retry(tasks[1].id)
        with unchanged(storage):
            storage.promote("batch", None, tasks)
        assert take_all(storage) == [tasks[1].id]

    def test_a_task_that_is_there_is_not_added_again(self, storage: Any, clock: Any) -> None:
        """A known task is ignored in any state and any batch; the others of the batch are added."""
        for state in STATES:
            known = bring_to(storage, clock, state)
            before = storage.admin.get(known.id)
            other = new_task()
            storage.stage(known.id, [known, other, known])
            storage.promote(known.id)
            assert storage.admin.get(known.id) == before
            assert storage.admin.get(other.id).state == QUEUED
            storage.admin.clear()
        skipped = [add_one(storage, key="k") for _ in range(2)][1]
        with unchanged(storage):
            add(storage, skipped)
            storage.stage("condemned", [skipped])
            storage.fail_batch("condemned", "the end is unknown")

    def test_condemning_what_is_not_staged_does_nothing(self, storage: Any) -> None:
        """An unknown batch is ignored, and one that has been promoted."""
        storage.stage("batch", [new_task()])
        storage.promote("batch")
        with unchanged(storage):
            storage.fail_batch("unknown", "the end is unknown")
            storage.fail_batch("batch", "the end is unknown")

    def test_discarding_what_is_not_staged_does_nothing(self, storage: Any) -> None:
        """An unknown batch is ignored, and one that has been promoted."""
        storage.stage("batch", [new_task()])
        storage.promote("batch")
        with unchanged(storage):
            storage.discard("unknown")
            storage.discard("batch")

    def test_batches_in_doubt_come_oldest_first(self, storage: Any, clock: Any) -> None:
        """A batch is listed until it is promoted or discarded."""
        for batch in ("3", "1", "2"):
            storage.stage(batch, [new_task()])
            clock.advance(10)
        assert ids(storage.admin.in_doubt()) == ["3", "1", "2"]
        storage.promote("1")
        assert ids(storage.admin.in_doubt()) == ["3", "2"]
        storage.discard("3")
        assert ids(storage.admin.in_doubt()) == ["2"]

    def test_a_batch_in_doubt_tells_what_decides_about_it(self, storage: Any, clock: Any) -> None:
        """The batch has its witness, its age in seconds, and the ids of its tasks."""
        tasks = [new_task() for _ in range(250)]
        storage.stage("old", tasks[:249], "main:0a")
        clock.advance(100)
        storage.stage("young", tasks[249:])
        old, young = storage.admin.in_doubt()
        assert old == StagedBatch("old", "main:0a", near(100), tuple(ids(tasks[:249])))
        assert young == StagedBatch("young", None, near(0), (tasks[249].id,))
        assert ids(storage.admin.in_doubt(50.0)) == ["old"]
        assert storage.admin.in_doubt(200.0) == []

    def test_no_batch_in_doubt_is_overlooked(self, storage: Any) -> None:
        """Batches are listed even if a thousand older ones are still in doubt."""
        batches = [str(number) for number in range(1001)]
        task = new_task()
        for batch in batches:
            storage.stage(batch, [task])
        assert ids(storage.admin.in_doubt()) == batches

    def test_a_batch_becomes_visible_at_once(self, storage: Any) -> None:
        """H19: `promote` is atomic: no reader ever sees a part of a batch."""
        for number in range(20):
            storage.stage(str(number), [new_task() for _ in range(50)])
            seen = aside(lambda: _lengths_until(storage, 50))
            storage.promote(str(number))
            assert seen.result(BOUND) <= {0, 50}
            storage.admin.clear()

    def test_a_task_without_an_earlier_moment_is_due_at_once(
        self, storage: Any, clock: Any
    ) -> None:
        """N40: a task whose due time has passed is queued, not scheduled."""
        task = add_one(storage, due=clock() - 100)
        assert storage.admin.get(task.id).state == QUEUED
        assert take_all(storage) == [task.id]

    def test_the_queues_of_one_process_are_independent(
        self, make_storage: Callable[..., Any]
    ) -> None:
        """C51, D25, O09: an operation on one queue does not change another queue."""
        one, other = make_storage(queue="mail"), make_storage(queue="mailhost")
        task = add_one(other, queue="mailhost")
        assert one.admin.counts()["queued"] == 0
        add_one(one, queue="mail")
        one.admin.pause()
        assert one.admin.clear() == 1
        assert take_all(other) == [task.id]


def _lengths_until(storage: Any, last: int) -> set[int]:
    seen: set[int] = set()
    deadline = time.monotonic() + BOUND
    while last not in seen and time.monotonic() < deadline:
        seen.add(storage.admin.counts()["queued"])
    return seen
