"""A queue in plain Python: one mapping of entries, no locks, no indexes, not made for speed.

Where the contract leaves a choice to a storage, so does the model:

* A task that waits for its key keeps its place among the added tasks. The contract does not
  say whether it runs before or after a recovered task. As long as it waits for its key, it
  may be listed anywhere among the queued tasks.
* Of the records that finished in one act, the limit in number may remove any.
* If several tasks of one key wait, a skipped id may be an alias of any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import is_lost_for_good
from collective.taskqueue.task import Lease
from collective.taskqueue.task import LINGER
from collective.taskqueue.task import NO_SLOT
from collective.taskqueue.task import Progress
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import Task
from collective.taskqueue.task import Transition
from dataclasses import replace


#: Seconds that a running clock may advance by itself during one sequence of steps.
DRIFT = 25.0

#: Seconds before and after the expiry of a record in which it may exist or not: a running clock
#: is a little later when it is read again.
TOLERANCE = 5.0


class Entry:
    """One known task."""

    def __init__(self, task: Task) -> None:
        self.id = task.id
        self.task = task
        self.state: State = QUEUED
        self.changes: list[tuple[State, float]] = []
        #: Number and status of each completed or lost attempt.
        self.attempts: list[tuple[int, int | None]] = []
        #: Sorts the tasks of one state.
        self.place: tuple[float, int] = (0.0, 0)
        #: Why it waits: it was put back at the front; it was passed over because its key runs.
        self.recovered = False
        self.passed = False
        self.due: float | None = None
        self.token = ""
        self.consumer: str | None = None
        self.expires = 0.0
        self.number = 0
        self.counted = 0
        self.lost = 0
        #: What its deliveries have in common until an attempt has committed.
        self.slot: str | None = None
        self.progress: Progress | None = None
        self.cancel_requested = False
        self.forget_at = 0.0
        #: The number of the act in which it finished.
        self.finished_in = 0

    @property
    def waits(self) -> bool:
        return self.state in (QUEUED, SCHEDULED)

    def precedes(self, other: Entry) -> bool:
        """Return whether this task must run before the other one; both are queued."""
        free = (self.passed and other.recovered) or (self.recovered and other.passed)
        return self.place < other.place and not free


class ExpectedQueue:
    """The model of a queue, see the module. `now` is always in seconds since the epoch."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.entries: dict[str, Entry] = {}
        #: By id of a skipped task, the tasks that waited then: it may be an alias of any of them.
        self.aliases: dict[str, frozenset[str]] = {}
        #: Ids of tasks that existed before and must be unknown now.
        self.gone: list[str] = []
        #: The expected calls of `notify` in the current act.
        self.told: list[tuple[State, str]] = []
        self.paused = False
        self._number = 0
        self._act = 0

    def begin_act(self) -> None:
        """Begin an act: the changes until the next one belong to one call, at one moment."""
        self._act += 1
        self.told.clear()

    # adding tasks

    def promote(self, tasks: Iterable[Task], now: float) -> None:
        """Add the tasks of a promoted batch."""
        for task in tasks:
            same = self.waiting_of(task.key)
            if same and task.on_conflict == "skip":
                self.aliases[task.id] = frozenset(entry.id for entry in same)
                continue
            for entry in same:
                self._supersede(entry, now)
            entry = self.entries[task.id] = Entry(task)
            if task.due is not None and task.due > now:
                self._schedule(entry, task.due, now)
            else:
                self._queue(entry, now)

    def fail_batch(self, tasks: Iterable[Task], now: float) -> None:
        """Add the tasks of a batch in doubt as failed, for an admin to decide."""
        for task in tasks:
            entry = self.entries[task.id] = Entry(task)
            self._enter(entry, QUEUED, now)
            self._conclude(entry, FAILED, now)
            self.told.append((FAILED, task.id))

    def waiting_of(self, key: str | None) -> list[Entry]:
        """Return the waiting entries of a key."""
        if key is None:
            return []
        return [entry for entry in self.entries.values() if entry.waits and entry.task.key == key]

    def _queue(self, entry: Entry, now: float, front: bool = False) -> None:
        self._enter(entry, QUEUED, now)
        entry.place = (0.0, -self._next()) if front else (1.0, self._next())
        entry.recovered = front
        entry.passed = False

    def _schedule(self, entry: Entry, due: float, now: float) -> None:
        self._enter(entry, SCHEDULED, now)
        entry.due = due
        entry.place = (due, self._next())

    def _enter(self, entry: Entry, state: State, now: float) -> None:
        entry.state = state
        entry.changes.append((state, now))
        entry.due = None
        entry.token = ""

    def _next(self) -> int:
        self._number += 1
        return self._number

    # running tasks

    def reserve(
        self,
        leases: Sequence[Lease],
        consumer: str,
        limit: int,
        seconds: float,
        now: float,
        slots: Sequence[str],
        careful: bool = False,
    ) -> None:
        """Check that the leases given to a consumer are allowed, and start their attempts.

        The consumer has offered `slots`. With `careful`, a redelivered task must be claimed alone.
        """
        self.recover(now)
        for entry in self.line(SCHEDULED):
            if entry.place[0] <= now:
                self._queue(entry, now)
        assert len(leases) <= limit, "more leases than the limit"
        assert not (self.paused and leases), "a paused queue hands out tasks"
        for lease, slot in zip(leases, slots, strict=False):
            entry = self.entries[lease.task.id]
            assert entry.state == QUEUED, f"handed out, although it is {entry.state}"
            assert entry in self._may_be_next(), "handed out before its turn"
            entry.slot = entry.slot or slot
            self._start(entry, lease, now)
            assert lease.consumer == consumer
            assert near(lease.expires, now + seconds)
        if self.paused:
            return
        given = [self.entries[lease.task.id] for lease in leases]
        suspects = [entry for entry in given if entry.lost] if careful else []
        assert not suspects or len(given) == 1, "a task that was lost before is not alone"
        rest = self._may_be_next()
        enough = len(leases) == limit or not rest or bool(suspects)
        waits = careful and bool(given) and any(entry.lost for entry in rest)
        assert enough or waits, "a task that is due is held back"
        for entry in self.line(QUEUED):
            entry.passed = entry.passed or self.blocked(entry)

    def _may_be_next(self) -> list[Entry]:
        ready = [entry for entry in self.line(QUEUED) if not self.blocked(entry)]
        return [entry for entry in ready if not any(other.precedes(entry) for other in ready)]

    def blocked(self, entry: Entry) -> bool:
        """Return whether a task waits for a running one of its key."""
        if entry.task.key is None or entry.task.on_conflict != "after_running":
            return False
        return any(other.task.key == entry.task.key for other in self.line(RUNNING))

    def _start(self, entry: Entry, lease: Lease, now: float) -> None:
        self._enter(entry, RUNNING, now)
        entry.place = (0.0, self._next())
        entry.number += 1
        entry.token = lease.token
        entry.consumer = lease.consumer
        entry.expires = lease.expires
        entry.progress = None
        assert lease.task == entry.task
        assert (lease.attempt, lease.counted) == (entry.number, entry.counted)
        assert (lease.slot, lease.lost) == (entry.slot, entry.lost)

    def holder(self, lease: Lease) -> Entry | None:
        """Return the entry of a lease, or None if the lease is not valid any more."""
        entry = self.entries.get(lease.task.id)
        return entry if entry is not None and entry.token == lease.token else None

    def finish(self, lease: Lease, transition: Transition, now: float) -> State | None:
        """Complete an attempt; return the state of the task, None for a stale token."""
        entry = self.holder(lease)
        if entry is None:
            return None
        entry.attempts.append((transition.attempt.number, transition.attempt.status))
        if transition.drops_slot or transition.state == SUCCEEDED:
            entry.slot = None
        if entry.cancel_requested:
            self._conclude(entry, CANCELLED, now)
        elif transition.state != SCHEDULED:
            self._conclude(entry, transition.state, now)
        elif self.replaced(entry):
            self._conclude(entry, CANCELLED, now)
        else:
            assert transition.due is not None
            entry.counted += transition.counts
            self._schedule(entry, transition.due, now)
        return entry.state

    def recover(self, now: float) -> list[str]:
        """Recover tasks with expired leases; return the ids of those that are queued again."""
        lost = [entry for entry in self.line(RUNNING) if entry.expires <= now]
        # Begin with the newest lost task: it replaces the others of its key.
        back = [entry.id for entry in reversed(lost) if self._lose(entry, now)]
        return back[::-1]

    def _lose(self, entry: Entry, now: float) -> bool:
        entry.attempts.append((entry.number, None))
        entry.lost += 1
        entry.slot = entry.slot or NO_SLOT
        pointless = entry.cancel_requested or self.replaced(entry)
        if pointless or not is_lost_for_good(entry.lost, entry.slot, self.settings.max_deliveries):
            return self._put_back(entry, now)
        self._conclude(entry, FAILED, now)
        self.told.append((FAILED, entry.id))
        return False

    def release(self, leases: Sequence[Lease], now: float) -> list[str]:
        """Release tasks that have not started; return the ids of those that wait again."""
        back = []
        for lease in reversed(leases):
            entry = self.holder(lease)
            if entry is not None:
                entry.number -= 1
                entry.progress = None
                if self._put_back(entry, now):
                    back.append(entry.id)
        return back[::-1]

    def _put_back(self, entry: Entry, now: float) -> bool:
        if entry.cancel_requested or self.replaced(entry):
            self._supersede(entry, now)
            return False
        self._queue(entry, now, front=True)
        return True

    def replaced(self, entry: Entry) -> bool:
        """Return whether a waiting task replaces another attempt of this one."""
        return entry.task.on_conflict != "skip" and bool(self.waiting_of(entry.task.key))

    # finished

    def _supersede(self, entry: Entry, now: float) -> None:
        self._conclude(entry, CANCELLED, now)
        self.told.append((CANCELLED, entry.id))

    def _conclude(self, entry: Entry, state: State, now: float) -> None:
        self._enter(entry, state, now)
        keep = entry.task.keep
        if keep is None:
            succeeded = state == SUCCEEDED
            keep = self.settings.keep_succeeded if succeeded else self.settings.keep_failed
        entry.forget_at = now + max(keep, LINGER)
        entry.finished_in = self._act
        if state == SUCCEEDED:
            # A task that has succeeded cannot be retried.
            entry.task = replace(entry.task, payload=b"")

    def notice_forgotten(self, known: Iterable[str], now: float) -> None:
        """Check that the storage forgot the right finished tasks, and forget the same ones."""
        for state in FINISHED:
            line = self.line(state)
            missing = [entry for entry in line if entry.id not in known]
            for entry in line:
                over = entry.forget_at <= now - TOLERANCE
                if over or (entry in missing and entry.forget_at <= now + TOLERANCE):
                    self.forget(entry.id)
            kept = [entry for entry in self.line(state) if entry not in missing]
            missing = [entry for entry in missing if entry.id in self.entries]
            number = min(len(kept) + len(missing), self.settings.max_finished)
            assert len(kept) == number, f"of the {state} tasks the wrong number is kept"
            oldest = min((entry.finished_in for entry in kept), default=self._act)
            for entry in missing:
                assert entry.finished_in <= oldest, f"an older task than {entry.id} was kept"
                self.forget(entry.id)

    def forget(self, task_id: str) -> None:
        """Forget a task; its id must be unknown from now on."""
        del self.entries[task_id]
        self.gone.append(task_id)

    # admin operations

    def allows(self, what: str, entry: Entry) -> bool:
        """Return whether an entry may be cancelled, retried, run now or removed (`what`)."""
        if what == "cancel":
            return entry.state not in FINISHED
        if what == "retry":
            return entry.state in (FAILED, CANCELLED) and not self.replaced(entry)
        if what == "run_now":
            return entry.waits
        return entry.state in FINISHED

    def cancel(self, entry: Entry, now: float) -> State:
        """Cancel a waiting task, or ask a running one to stop; return its state."""
        if entry.state == RUNNING:
            entry.cancel_requested = True
        else:
            self._conclude(entry, CANCELLED, now)
        return entry.state

    def retry(self, entry: Entry, now: float) -> None:
        """Queue a failed or cancelled task again, with all its attempts."""
        entry.counted = entry.lost = 0
        entry.cancel_requested = False
        self._queue(entry, now)

    def run_now(self, entry: Entry, now: float) -> None:
        """Queue a scheduled task now, whenever it would be due."""
        if entry.state == SCHEDULED:
            self._queue(entry, now)

    def remove(self, entry: Entry, now: float) -> None:
        """Forget a finished task."""
        self.forget(entry.id)

    def clear(self) -> int:
        """Forget all waiting tasks; return how many."""
        return self._forget_all([*self.line(QUEUED), *self.line(SCHEDULED)])

    def purge(self, state: State) -> int:
        """Forget all tasks in a final state; return how many."""
        return self._forget_all(self.line(state))

    def _forget_all(self, entries: list[Entry]) -> int:
        for entry in entries:
            self.forget(entry.id)
        return len(entries)

    # introspection

    def line(self, *states: State) -> list[Entry]:
        """Return the entries in one of the states, in their order."""
        found = [entry for entry in self.entries.values() if entry.state in states]
        return sorted(found, key=lambda entry: entry.place)

    def of(self, user: str | Identity) -> list[Entry]:
        """Return the entries of a user id, or of one person, in the order they were added."""
        users = [(entry, entry.task.user) for entry in self.entries.values()]
        return [entry for entry, of in users if of is not None and user in (of, of.id)]

    def counts(self, user: str | Identity | None = None) -> dict[State, int]:
        """Return the number of tasks in each state."""
        entries = self.entries.values() if user is None else self.of(user)
        found = [entry.state for entry in entries]
        return {state: found.count(state) for state in STATES}


def near(when: float | None, expected: float | None) -> bool:
    """Return whether a time is the expected one, give or take `DRIFT`."""
    if when is None or expected is None:
        return when is expected
    return abs(when - expected) < DRIFT
