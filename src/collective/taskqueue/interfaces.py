"""The contracts. The life of a task:

* `add()` checks everything that can be wrong with a task, and joins the transaction;
* when the commit begins, the storage *stages* the batch, durably and invisibly, or vetoes;
* when the commit has ended, the storage *promotes* the batch, one atomic act, in add order;
* a consumer *reserves* the task: it moves to running under a lease with a fresh token;
* the publisher makes the request, and policy derives the next transition from the outcome;
* the storage *completes* the attempt if, and only if, the token still matches.

A consumer *releases* prefetched tasks that it cannot begin soon.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from collective.taskqueue.schedule import ScheduleState
from collective.taskqueue.task import Action
from collective.taskqueue.task import BulkResult
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
from contextlib import AbstractContextManager
from typing import Any
from zope.interface import Attribute
from zope.interface import Interface


class ITaskQueueLayer(Interface):
    """Provided by the request of a task, and by no request from outside."""


class ITaskStorage(Interface):
    """The backend of one queue: the road of a task. All methods may be called from any thread.

    Every method may raise `StorageUnavailable`.

    zope.conf names the class of a storage by its dotted path; the class is called with the
    queue's `QueueSettings`.
    """

    notify: Callable[[State, str], None] = Attribute(
        "Called with a new state and a task id after a change that no call asked for:"
        " a task replaced by a newer one of its key, or failed as poison."
        " Set by the queue; never called under a lock."
    )

    admin: ITaskAdmin = Attribute("Its `ITaskAdmin`; another one after `after_fork`.")

    def stage(batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None:
        """Store the batch durably and invisibly, together with the reference of its witness.

        Called before the ZODB votes, outside its commit lock. Everything that can fail happens
        here, serialisation included: an exception aborts the transaction.
        """

    def promote(batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        """Make a staged batch visible in add order, in one atomic act.

        `tid` is the ZODB transaction that committed the batch, if known. A task that makes
        another one pointless, or that others were skipped for, keeps the latest `tid` of all
        of them. Idempotent: a batch that was promoted or failed before stays as it is, and
        so does a task that is there already. If the storage has lost the staged batch, it
        uses `tasks`.

        The id of a skipped task resolves to the waiting task. The last 1000 such aliases are
        kept.
        """

    def discard(batch_id: str) -> None:
        """Delete a staged batch; nothing happens if there is none."""

    def fail_batch(batch_id: str, reason: str) -> None:
        """Make the tasks of a staged batch visible as failed, for a person to decide.

        Their history says that they were queued, but they are not queued, and they do not
        count for deduplication.
        For a batch of which it cannot be known whether its transaction has committed.
        """

    def reserve(
        consumer: str,
        limit: int = 1,
        timeout: float | None = None,
        lease: float = 30.0,
        slots: Sequence[str] = (),
    ) -> list[Lease]:
        """Move up to `limit` tasks, oldest first, to running and return their leases.

        Blocks until a task is due, `timeout` seconds (None: without limit) have passed
        or `wake` is called. In the latter two cases it returns an empty list; without a limit
        it may do so at any time. A storage that processes share must do so at least every 30
        seconds: between two calls a consumer resolves the batches that another process has
        lost. Reserves scheduled tasks that are due and tasks whose lease has expired, too.
        Removes expired records, a bounded number in each call. An entry that is no task, or a
        record that cannot be read, is put aside with one log line, and does not keep any other
        task from being reserved.

        `slots` are references that no task has, 96 hexadecimal digits each, one for each task
        that may be reserved. A task without a slot gets one of them; it keeps it until an attempt
        ends that has succeeded or `drops_slot`. A task that was lost without a slot has `NO_SLOT`
        instead.
        """

    def wake() -> None:
        """Make every blocked `reserve` in this process return now."""

    def renew(lease: Lease, seconds: float = 30.0) -> bool:
        """Extend the lease to `seconds` from now; return whether it was still valid."""

    def report(lease: Lease, progress: Progress | None = None) -> bool:
        """Store the progress, and return whether cancellation was requested.

        With a stale token nothing is stored, and the result is True.
        """

    def complete(lease: Lease, transition: Transition) -> State | None:
        """End the attempt with the transition that policy chose.

        The record of a task that is finished by it is kept for `LINGER` seconds at least.

        Returns the state the task is in now — cancelled, if that was requested in the
        meantime — or None if the token does not match any more: then nothing changed.
        """

    def release(leases: Sequence[Lease]) -> list[str]:
        """Return reserved tasks that have not begun to the front, in this order.

        They are as if never reserved: no attempt is counted. A task is cancelled instead if
        its cancellation was requested, or if a newer task of its key makes it pointless. A
        stale lease changes nothing. Returns the ids of the tasks that wait again.
        """

    def after_fork() -> None:
        """Called in a forked child before any other method: drop all locks, sockets and
        tasks of the parent."""

    def close() -> None:
        """Close connections; called once, at exit."""


class ITaskAdmin(Interface):
    """What an admin reads and changes in one queue. All methods may be called from any thread.

    Every method may raise `StorageUnavailable`; those that take a task id raise
    `UnknownTask` for an unknown id, and `ForbiddenTransition` if the state of the task does
    not allow the request. A refused request changes nothing.
    """

    def check() -> None:
        """Check whether the backend can be used, and log what is not as it should be.

        Called once, when the process starts. Raises `StorageUnavailable`.
        """

    def in_doubt(age: float = 0.0) -> list[StagedBatch]:
        """Return the batches that were staged at least `age` seconds ago, oldest first."""

    def recover() -> list[str]:
        """Return tasks whose lease expired to the front of the queue; return their ids.

        The history keeps the lost attempt. A task that was lost `max_deliveries` times is
        failed instead. `reserve` does the same by itself.
        """

    def counts(user: str | Identity | None = None) -> dict[State, int]:
        """Return the number of tasks in each state: of all, of a user id, or of one identity."""

    def get(task_id: str, brief: bool = False) -> TaskStatus:
        """Return what is known about a task.

        With `brief`, large parts are left out; see `TaskStatus`. Then the cost does not depend
        on the size of the task. The payload of a succeeded task is not kept. An expired record
        is unknown.
        """

    def tasks(
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        """Return one page of tasks, each one brief; see `TaskStatus`.

        `user` is a user id in any user folder, or one identity. The cost grows with
        `start + size` only, whatever else is in the queue, and whatever is asked for.

        Waiting tasks come in the order in which they will run, scheduled ones in the order of
        their due times, all others oldest first. Expired records are left out.
        """

    def search(filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage:
        """Return the next tasks that match a filter, in the order in which they were added.

        One call examines at most 1000 tasks, and returns at most `size` that match; so a page
        may be short, or empty, and there is more. `cursor` is that of the page before. A task
        that matches all the time is on exactly one page, whatever happens to other tasks; one
        that is added meanwhile may be missing. Expired records are left out.

        The cost does not depend on how many tasks there are. If at most 1000 tasks are in
        the states that the filter has, no other tasks are examined; if it has a user, only
        tasks of that user are. Batches are promoted in any order, so the time at which tasks
        were added does not grow with that order: `since` and `until` are compared with each
        task that is examined.

        Raises `InvalidTask` for a cursor that no page of the same filter had.
        """

    def change(
        action: Action, task_ids: Sequence[str], states: Collection[State]
    ) -> dict[str, State]:
        """Retry, cancel or remove each of these tasks that is in one of the states.

        In one atomic act, for at most 100 ids, each that of a task itself and no alias. For each
        task it does what `retry`, `cancel` or `remove` does. A task that is unknown, is in
        another state, or that the method would refuse, stays as it is. So does a running task
        whose cancellation was requested before.

        Returns the changed tasks, each with its state now; of a removed one, its last state.
        """

    def consumers() -> list[ConsumerStatus]:
        """Return the consumers that were seen within the last hour, by name.

        A consumer is seen whenever it calls `reserve` or `renew`. A consumer is not alive if
        its process is known to be dead, or if it was silent for a minute and runs nothing.
        """

    def forget_consumer(consumer: str) -> None:
        """Remove the consumer of this process from `consumers`: it has stopped.

        Nothing happens if it is unknown. It is listed again as soon as it is seen.
        """

    def throughput() -> dict[State, int]:
        """Return how many tasks have reached each final state in the last 60 minutes."""

    def cancel(task_id: str, reason: str = "cancelled") -> State:
        """Cancel a waiting task, or ask a running one to stop; return its state now.

        `reason` becomes the reason of a task that was waiting.
        """

    def retry(task_id: str) -> None:
        """Queue a failed or cancelled task again; its history stays.

        Its `max_age` counts from then on; see `TaskStatus.since`.
        """

    def remove(task_id: str) -> None:
        """Delete the record of a finished task."""

    def run_now(task_id: str) -> None:
        """Run a scheduled task now: queue it at the end of the queue, before it is due.

        Nothing happens to a queued one; a task in any other state is not waiting.
        """

    def forget_response(task_id: str) -> bool:
        """Delete the last response of a finished task, and keep the rest of its record.

        Returns whether there was one.
        """

    def clear() -> int:
        """Delete all waiting and scheduled tasks, log the id of each; return how many.

        Running tasks finish as usual, finished ones are kept.
        """

    def purge(state: State) -> int:
        """Delete all finished tasks of one state, log the id of each; return how many."""

    def pause() -> None:
        """Reserve no task until `resume`; running and prefetched tasks go on."""

    def resume() -> None:
        """Reserve tasks again."""

    def paused() -> bool:
        """Return whether the queue is paused."""

    def tick(schedule: str, at: float, task: Task | None = None, moves: bool = True) -> bool:
        """Queue the task of a tick of a schedule, unless another call has; return whether it did.

        `at` is the time of the tick. In one atomic act the last tick of the schedule becomes
        `at`, and the task is queued as `promote` does it. Nothing happens if the last tick is not
        earlier, if `at` is in the future by the clock of the storage, or if the schedule is
        paused. Without a task the tick is only noted.

        With `moves` false, the task is queued in any case, and the last tick stays: a person
        wants it now. A task that is known already is not queued again.

        What is kept of a schedule survives `clear` and `purge`.
        """

    def schedule(name: str) -> ScheduleState:
        """Return what is kept of a schedule, and the time; an unknown one has never ticked."""

    def pause_schedule(name: str) -> None:
        """Let a schedule have no more ticks until `resume_schedule`."""

    def resume_schedule(name: str) -> None:
        """Let a schedule tick again, from now on: ticks in the meantime are left out."""


class IRemoteStorage(Interface):
    """Optional, for a storage whose round trips take much longer than the work they request."""

    settings: Any = Attribute("The `QueueSettings` that it was made with.")

    in_process: bool = Attribute(
        "Whether it computes in this process, rather than wait for another."
    )

    delay: float = Attribute(
        "Seconds that a completion waits for others; twice that, if in_process."
    )

    most: int = Attribute(
        "Most completions, and most leases, of one call: so that others are served."
    )

    def complete_and_reserve(
        ends: Sequence[tuple[Lease, Transition]],
        consumer: str,
        limit: int = 1,
        seconds: float = 30.0,
        slots: Sequence[str] = (),
    ) -> tuple[list[State | None], list[Lease]]:
        """`complete` each of these, then `reserve` up to `limit` tasks without waiting.

        All in one round trip. A redelivered task is reserved alone or not at all: it may crash
        this process, too, and the tasks reserved with it would be lost.

        Returns what `complete` returns for each, and the leases. After an error it is unknown how
        much was done; the same call, repeated by the same thread, returns what had been done
        and reserved then.
        """


class ITaskQueue(Interface):
    """A queue, as a named utility. See `ITaskStorage` for the life of a task."""

    name: str = Attribute("The name of the queue, and of the utility.")

    storage: ITaskStorage = Attribute("Its `ITaskStorage`.")

    settings: Any = Attribute("Its frozen `QueueSettings`.")

    def __len__() -> int:
        """Return how many tasks wait: queued, not scheduled, not running."""

    def add(
        url: object,
        method: str | None = None,
        params: object = None,
        headers: Mapping[str, object] | None = None,
        payload: bytes | str | None = ...,
        *,
        view: str | None = None,
        **options: object,
    ) -> str:
        """Queue a task when the current transaction commits; see `taskqueue.add`.

        Without `payload` a POST, PUT or PATCH copies the body of the current request; with
        None the body is empty.
        """

    def put(task: Task) -> None:
        """Make a task visible at once, outside of any transaction.

        A task that is there already stays as it is.
        """

    def get(consumer_name: str = "script") -> Task | None:
        """Reserve the oldest task, without waiting; None if there is none.

        For scripts: this process holds the lease, and renews it, until `task_done`. The process
        is listed by this name among the consumers.
        """

    def task_done(
        task: Task,
        status_line: str = "HTTP/1.1 200 OK",
        consumer_name: str = "script",
        consumer_length: int = 0,
    ) -> None:
        """Finish a task that `get` returned, by a status line like ``HTTP/1.1 200 OK``.

        Raises `ValueError` for any other text. The task stays reserved then, and also if the
        storage fails.
        """

    def after_fork() -> None:
        """Drop what belongs to the parent, in a forked child; called by `startup`."""

    def reset() -> int:
        """Delete all waiting and scheduled tasks of this queue; return how many."""

    def status(task_id: str, brief: bool = False) -> TaskStatus:
        """Return what is known about a task; see `ITaskAdmin.get`."""

    def tasks(
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        """Return one page of tasks; see `ITaskAdmin.tasks`.

        Raises `ValueError` for a state that does not exist, and for a negative number.
        """

    def search(filter: TaskFilter, cursor: str | None = None, size: int = 50) -> TaskPage:
        """Return the next tasks that match a filter; see `ITaskAdmin.search`.

        Raises `InvalidTask` for a size below 1 or above 1000, and for a wrong cursor.
        """

    def bulk(
        action: Action,
        filter: TaskFilter,
        limit: int = 1000,
        cursor: str | None = None,
        allowed: Callable[[TaskStatus], bool] | None = None,
    ) -> BulkResult:
        """Retry, cancel or remove the tasks that match a filter, oldest first.

        Changes at most `limit` tasks, 1000 or fewer, and examines at most 100 000. Tasks in
        states that do not allow the action do not match; neither do tasks for which `allowed`
        returns False, and running tasks that are asked to stop already. A task that changed
        its state meanwhile, or that cannot be retried because a newer task of its key waits,
        is skipped. Each task has its log line and its event, as after a single call.

        Call it with the `cursor` of the last result until that is None: this tries each task
        once, even if it is retried and fails again. Without a cursor, a call begins with the
        oldest task. If the process dies, each task is either changed or not.

        Raises `InvalidTask` for an unknown action, and for a wrong limit or cursor.
        """

    def counts(user: str | Identity | None = None) -> dict[State, int]:
        """Return the number of tasks in each state: of all, of a user id, or of one identity."""

    def cancel(task_id: str, reason: str = "cancelled") -> State:
        """Cancel a waiting task, or ask a running one to stop; return its state now."""

    def retry(task_id: str) -> None:
        """Queue a failed or cancelled task again."""

    def remove(task_id: str) -> None:
        """Delete the record of a finished task."""

    def run_now(task_id: str) -> None:
        """Run a scheduled task now: queue it before it is due."""

    def forget_response(task_id: str) -> bool:
        """Delete the last response of a finished task; return whether there was one."""

    def purge(state: State) -> int:
        """Delete all finished tasks of one state; return how many."""

    def pause() -> None:
        """Start no task until `resume`; running tasks finish as usual."""

    def resume() -> None:
        """Start tasks again."""

    def publish_event(state: State, task_id: str) -> None:
        """Publish the event that a task has entered a state.

        Never raises. Called by the consumer, the storage and the queue itself.
        """

    def promoting(task_ids: Collection[str]) -> AbstractContextManager[None]:
        """Publish `ITaskQueued` for these tasks once the block has promoted them, and before
        this process publishes any other event of them.

        Called by the data manager.
        """

    def tick(schedule: str, at: float, task: Task) -> bool:
        """Queue the task of a tick, unless another process has; return whether it did.

        See `ITaskAdmin.tick`. Publishes `ITaskQueued` if it did, before this process publishes
        any other event of the task.
        """


class ITaskEvent(Interface):
    """A change in the life of a task.

    Subscribers run after the change, in a thread of their own. Each runs in its own
    transaction, which is committed when it returns. There is no site, user or request. An
    exception of a subscriber is logged, and has no other effect. One process publishes the
    events of a task in the order of the changes; each event is published where it happens.

    Subscribers are registered as any other, by ``<subscriber handler="…" />`` in ZCML, and
    globally: those of a site are not called. An event is published once, except `ITaskQueued`
    of a task whose process was lost: two processes that find it at once both publish it.
    """

    status: TaskStatus = Attribute("All that was known about the task at that moment.")


class ITaskQueued(ITaskEvent):
    """The task waits: its transaction has committed, or it was put or retried."""


class ITaskStarted(ITaskEvent):
    """An attempt has begun."""


class ITaskRetried(ITaskEvent):
    """An attempt has failed, and the next one is scheduled."""


class ITaskSucceeded(ITaskEvent):
    """The task has succeeded."""


class ITaskFailed(ITaskEvent):
    """The task has failed for good."""


class ITaskCancelled(ITaskEvent):
    """The task was cancelled, by a person or by a newer task of its key."""


class ITaskScheduleMissed(Interface):
    """Some ticks of a schedule got no task: no process was there, or the last task has not ended.

    Published in one process, in the thread that looks at schedules, without a site or a user.
    """

    schedule: str = Attribute("The name of the schedule.")
    queue: str = Attribute("The name of its queue.")
    number: int = Attribute("How many ticks, at most 1000.")
    reason: str = Attribute("Why, in one sentence.")
