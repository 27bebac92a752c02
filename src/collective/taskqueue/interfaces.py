"""The contracts. The life of a task:

* `add()` checks everything that can be wrong with a task, and joins the transaction;
* the commit begins: the storage *stages* the batch, durably and invisibly, or vetoes;
* the commit has ended: the storage *promotes* the batch, one atomic act, in add order;
* a consumer *reserves* the task: it moves to running under a lease with a fresh token;
* the publisher makes the request, and policy decides from its outcome what follows;
* the storage *finishes* the attempt if, and only if, the token still matches.

What a consumer has reserved ahead and cannot begin soon it *gives back*.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
from collective.taskqueue.task import ConsumerStatus
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Lease
from collective.taskqueue.task import Progress
from collective.taskqueue.task import StagedBatch
from collective.taskqueue.task import State
from collective.taskqueue.task import Task
from collective.taskqueue.task import TaskStatus
from collective.taskqueue.task import Transition
from contextlib import AbstractContextManager
from typing import Any
from zope.interface import Attribute
from zope.interface import Interface


class ITaskQueueLayer(Interface):
    """Provided by the request of a task, and by no request from outside."""


class ITaskStorage(Interface):
    """The backend of one queue. All methods may be called from any thread.

    Every method may raise `StorageUnavailable`; those that take a task id raise
    `UnknownTask` if there is none, and `ForbiddenTransition` if its state does not
    allow the request. A refused request changes nothing.

    A class is made a storage of a queue by its dotted path in zope.conf; it is called
    with the queue's `QueueSettings`.
    """

    notify: Callable[[State, str], None] = Attribute(
        "Called with a new state and a task id after a change nobody asked this process for:"
        " a task replaced by a newer one of its key, or failed as poison."
        " Set by the queue; never called under a lock."
    )

    def stage(batch_id: str, tasks: Sequence[Task], witness: str | None = None) -> None:
        """Hold the batch durably and invisibly, together with the reference of its witness.

        Called before the ZODB votes, outside its commit lock. All serialisation and all
        that can fail happens here: whatever is raised aborts the transaction.
        """

    def promote(batch_id: str, tid: bytes | None = None, tasks: Sequence[Task] = ()) -> None:
        """Make a staged batch visible in add order, in one atomic act.

        `tid` is the ZODB transaction the batch was committed in, if known. Of a task that
        makes another one pointless, and of one that others were skipped for, the latest
        transaction of all of them counts. Idempotent: a batch that was promoted or condemned
        before stays as it is, and so does a task that is there already. If the storage has
        lost the staged batch, `tasks` take its place.

        A skipped task goes by the id of the one that waits. Of its names, a thousand are
        remembered; the oldest give way.
        """

    def discard(batch_id: str) -> None:
        """Forget a staged batch; nothing happens if there is none."""

    def condemn(batch_id: str, reason: str) -> None:
        """Make the tasks of a staged batch visible as failed, for a person to decide.

        They were queued, says their history, but they stand in no line: nothing is skipped
        or replaced for them.
        For a batch of which nobody can know whether its transaction has committed.
        """

    def reserve(
        consumer: str, limit: int = 1, timeout: float | None = None, lease: float = 30.0
    ) -> list[Lease]:
        """Move up to `limit` tasks, oldest first, to running and return their leases.

        Blocks until a task is due, `timeout` seconds (None: without limit) have passed
        or `wake` is called; returns an empty list for the latter two, and without a limit
        may return one at any time. A storage that processes share must do so now and then,
        every 30 seconds at least: between two calls a consumer looks after the batches that
        another process has lost. Scheduled tasks that are due and tasks whose lease
        expired come along. Records whose time is over are removed, a bounded number in each
        call. An entry that is no task, or a record that cannot be read, is put out of the way
        with one log line, and keeps no other task from being reserved.
        """

    def wake() -> None:
        """Make every `reserve` that blocks in this process return now."""

    def renew(lease: Lease, seconds: float = 30.0) -> bool:
        """Extend the lease to `seconds` from now; return whether it was still valid."""

    def finish(lease: Lease, transition: Transition) -> State | None:
        """End the attempt as policy decided.

        The record of a task that ends so is kept for `LINGER` seconds at least.

        Returns the state the task is in now — cancelled, if that was asked for in the
        meantime — or None if the token does not match any more: then nothing changed.
        """

    def give_back(leases: Sequence[Lease]) -> list[str]:
        """Return tasks that were reserved and not begun to the front, in this order.

        As if they had not been reserved: no attempt is counted. What a reserved task may not
        be any more is cancelled instead: one that was asked to stop, or that a newer one of
        its key makes pointless. A stale lease changes nothing. Returns the ids of those that
        wait again.
        """

    def report(lease: Lease, progress: Progress | None = None) -> bool:
        """Store the progress, and return whether cancellation was asked for.

        Nothing is stored for a stale token; its holder is told that it is cancelled.
        """

    def recover() -> list[str]:
        """Return tasks whose lease expired to the front of the queue; return their ids.

        The lost attempt stands in the history. A task lost `max_deliveries` times is
        failed instead. `reserve` does the same by itself.
        """

    def in_doubt(age: float = 0.0) -> list[StagedBatch]:
        """Return the batches that were staged at least `age` seconds ago, oldest first."""

    def __len__() -> int:
        """Return how many tasks wait: queued, not scheduled, not running."""

    def counts(user: str | Identity | None = None) -> dict[State, int]:
        """Return the number of tasks in each state: of all, of a user id, or of one person."""

    def get(task_id: str, brief: bool = False) -> TaskStatus:
        """Return what is known about a task.

        With `brief`, without what may be large; see `TaskStatus`. Then the cost does not
        depend on the size of the task. The payload of a succeeded task is not kept. A
        record whose time is over is unknown.
        """

    def tasks(
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        """Return one page of tasks, each one brief; see `TaskStatus`.

        `user` is a user id, whatever the user folder, or one person. The cost grows with
        `start + size` only, whatever else is in the queue, and whatever is asked for.

        Waiting tasks come in the order they will run, scheduled ones in the order they
        fall due, all others oldest first. Records whose time is over are left out.
        """

    def consumers() -> list[ConsumerStatus]:
        """Return the consumers that were heard of within the last hour, by name.

        A consumer is heard of whenever it calls `reserve` or `renew`. One whose process is
        known to be dead, or that was silent for a minute and runs nothing, is not alive.
        """

    def forget_consumer(consumer: str) -> None:
        """The consumer of this process has stopped: `consumers` does not return it any more.

        Nothing happens if it is unknown. It is known again as soon as it is heard of.
        """

    def throughput() -> dict[State, int]:
        """Return how many tasks have come to each final state in the last 60 minutes."""

    def cancel(task_id: str, reason: str = "cancelled") -> State:
        """Cancel a waiting task, or ask a running one to stop; return its state now.

        `reason` is that of the state of a task that waited.
        """

    def retry(task_id: str) -> None:
        """Queue a failed or cancelled task again; its history stays.

        From then on, says `TaskStatus.since`, its `max_age` counts.
        """

    def remove(task_id: str) -> None:
        """Forget a finished task."""

    def hasten(task_id: str) -> None:
        """Queue a scheduled task now, at the end of the line, whenever it would be due.

        Nothing happens to a queued one; a task in any other state does not wait.
        """

    def forget_response(task_id: str) -> bool:
        """Forget the last response of a finished task, and keep all else of its record.

        Returns whether there was one.
        """

    def clear() -> int:
        """Forget all waiting and scheduled tasks, log the id of each; return how many.

        Running tasks end as usual, finished ones are kept.
        """

    def purge(state: State) -> int:
        """Forget all finished tasks of one state, log the id of each; return how many."""

    def pause() -> None:
        """Hand out no task until `resume`; running ones go on."""

    def resume() -> None:
        """Hand out tasks again."""

    def paused() -> bool:
        """Return whether the queue is paused."""

    def check() -> None:
        """Look whether the backend can be used, and log what is not as it should be.

        Called once, when the process starts. Raises `StorageUnavailable`.
        """

    def after_fork() -> None:
        """Called in a forked child before any other method: own no lock, no socket and
        no task of the parent."""

    def close() -> None:
        """Let go of connections; called once, at exit."""


class IExchange(Interface):
    """A storage may provide this, too, if to ask it takes much longer than what it does."""

    settings: Any = Attribute("The `QueueSettings` that it was made with.")

    nearby: bool = Attribute("Whether it computes in this process, rather than wait for another.")

    delay: float = Attribute("Seconds that an end may wait for others; twice that, if nearby.")

    most: int = Attribute("Most ends, and most leases, of one call: so that others are served.")

    def exchange(
        ends: Sequence[tuple[Lease, Transition]],
        consumer: str,
        limit: int = 1,
        seconds: float = 30.0,
    ) -> tuple[list[State | None], list[Lease]]:
        """`finish` each of these, then `reserve` up to `limit` tasks without waiting.

        All in one round trip. A task whose process was lost before is reserved alone or not
        at all: it may take down the next one, too, and all that is reserved with it.

        Returns what `finish` returns for each, and the leases. If an error is raised nobody
        knows how much of it was done; the same call, repeated by the same thread, returns
        what had been done and reserved then.
        """


class ITaskQueue(Interface):
    """A queue, as a named utility. See `ITaskStorage` for the life of a task."""

    name: str = Attribute("The name of the queue, and of the utility.")

    storage: Any = Attribute("Its `ITaskStorage`.")

    settings: Any = Attribute("Its frozen `QueueSettings`.")

    def __len__() -> int:
        """Return how many tasks wait: queued, not scheduled, not running."""

    def add(
        url: Any,
        method: str | None = None,
        params: Any = None,
        headers: Any = None,
        payload: Any = ...,
        *,
        view: str | None = None,
        **options: Any,
    ) -> str:
        """Queue a task when the current transaction commits; see `taskqueue.add`.

        Without `payload` a POST, PUT or PATCH takes the body of the current request along,
        with None nothing.
        """

    def put(task: Task) -> None:
        """Make a task visible at once, outside of any transaction.

        One that is there already stays as it is.
        """

    def get(consumer_name: str = "script") -> Task | None:
        """Reserve the oldest task, without waiting; None if there is none.

        For scripts: the lease is held by this process, and renewed, until `task_done`. Its
        holder is listed by this name among the consumers.
        """

    def task_done(
        task: Task,
        status_line: str = "HTTP/1.1 200 OK",
        consumer_name: str = "script",
        consumer_length: int = 0,
    ) -> None:
        """Finish a task that `get` returned, by a status line like ``HTTP/1.1 200 OK``.

        Raises `ValueError` for anything else; the task stays reserved then, as it does if
        the storage fails.
        """

    def after_fork() -> None:
        """Begin anew in a forked child; called by `startup`."""

    def reset() -> int:
        """Forget all waiting and scheduled tasks of this queue; return how many."""

    def status(task_id: str, brief: bool = False) -> TaskStatus:
        """Return what is known about a task; see `ITaskStorage.get`."""

    def tasks(
        state: State | None = None,
        user: str | Identity | None = None,
        start: int = 0,
        size: int = 50,
    ) -> list[TaskStatus]:
        """Return one page of tasks; see `ITaskStorage.tasks`.

        Raises `ValueError` for a state that does not exist, and for a negative number.
        """

    def counts(user: str | Identity | None = None) -> dict[State, int]:
        """Return the number of tasks in each state: of all, of a user id, or of one person."""

    def cancel(task_id: str, reason: str = "cancelled") -> State:
        """Cancel a waiting task, or ask a running one to stop; return its state now."""

    def retry(task_id: str) -> None:
        """Queue a failed or cancelled task again."""

    def remove(task_id: str) -> None:
        """Forget a finished task."""

    def hasten(task_id: str) -> None:
        """Queue a scheduled task now, whenever it would be due."""

    def forget_response(task_id: str) -> bool:
        """Forget the last response of a finished task; return whether there was one."""

    def purge(state: State) -> int:
        """Forget all finished tasks of one state; return how many."""

    def pause() -> None:
        """Run no task until `resume`; those that run end as usual."""

    def resume() -> None:
        """Run tasks again."""

    def announce(state: State, task_id: str) -> None:
        """Tell the subscribers of task events that a task has entered a state.

        Never raises. Called by the consumer, the storage and the queue itself.
        """

    def arrival(task_ids: Collection[str]) -> AbstractContextManager[None]:
        """Tell the subscribers that these tasks are queued, once the block has promoted
        them, and before anything else is told of them by this process.

        Called by the data manager.
        """


class ITaskEvent(Interface):
    """Something has happened to a task.

    Subscribers run after the fact, in a thread of their own, each in a transaction of its
    own that is committed when it returns. There is no site, user or request. What a
    subscriber raises is logged and harms nothing. One process tells the events of a task
    in the order in which they happened; they are told where they happen.

    Subscribers are registered as any other, by ``<subscriber handler="…" />`` in ZCML, and
    globally: those of a site are not called. An event is told once, but for `ITaskQueued` of
    a task whose process was lost: if two processes find it at the same time, each tells.
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
