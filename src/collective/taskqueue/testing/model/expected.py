"""A queue in plain Python: one mapping of entries, no locks, no lines, no regard to speed.

Where the contract leaves a storage a choice, so does the model:

* A task that waits for its key keeps its place among the tasks that were added; whether
  it comes before or after one that is recovered is nobody's promise. As long as it waits
  for its key it may be listed anywhere among the queued ones.
* Of records that finished in one act any may give way to the cap in number.
* If several tasks of one key wait, one that is skipped may go by the id of any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Lease
from collective.taskqueue.task import LINGER
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


#: Seconds that a clock may run during one sequence of steps.
DRIFT = 25.0

#: Seconds around the moment when a record is forgotten in which it may be there or not: a clock
#: that runs is a little later when it is looked at again.
TOLERANCE = 5.0


class Entry:
    """One task that is known."""

    def __init__(self, task: Task) -> None:
        self.id = task.id
        self.task = task
        self.state: State = QUEUED
        self.changes: list[tuple[State, float]] = []
        #: Number and status of each attempt that has ended.
        self.attempts: list[tuple[int, int | None]] = []
        #: Decides the order among the tasks of one state.
        self.place: tuple[float, int] = (0.0, 0)
        #: How it came to wait: it was lost; and it was passed over because its key runs.
        self.recovered = False
        self.passed = False
        self.due: float | None = None
        self.token = ""
        self.consumer: str | None = None
        self.expires = 0.0
        self.number = 0
        self.counted = 0
        self.lost = 0
        self.progress: Progress | None = None
        self.cancel_requested = False
        self.forget_at = 0.0
        #: In which act it finished.
        self.finished_in = 0

    @property
    def waits(self) -> bool:
        return self.state in (QUEUED, SCHEDULED)

    def precedes(self, other: Entry) -> bool:
        """Whether this one, queued as the other, has to run first."""
        free = (self.passed and other.recovered) or (self.recovered and other.passed)
        return self.place < other.place and not free


class ExpectedQueue:
    """See the module. `now` is in seconds since the epoch, everywhere."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.entries: dict[str, Entry] = {}
        #: Skipped tasks, and those that waited then and may stand for them.
        self.aliases: dict[str, frozenset[str]] = {}
        #: Ids that have been in use and must be unknown.
        self.gone: list[str] = []
        #: What the queue has to be told, in the current act.
        self.told: list[tuple[State, str]] = []
        self.paused = False
        self._number = 0
        self._act = 0

    def begin_act(self) -> None:
        """What follows happens at one moment, in one call."""
        self._act += 1
        self.told.clear()

    # in

    def admit(self, tasks: Iterable[Task], now: float) -> None:
        """A batch is promoted."""
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

    def condemn(self, tasks: Iterable[Task], now: float) -> None:
        """A batch in doubt is left to a person; its tasks are visible as failed."""
        for task in tasks:
            entry = self.entries[task.id] = Entry(task)
            self._enter(entry, QUEUED, now)
            self._conclude(entry, FAILED, now)
            self.told.append((FAILED, task.id))

    def waiting_of(self, key: str | None) -> list[Entry]:
        """Return the entries of a key that wait."""
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

    # out

    def reserve(
        self,
        leases: Sequence[Lease],
        consumer: str,
        limit: int,
        seconds: float,
        now: float,
        careful: bool = False,
    ) -> None:
        """A consumer was given these leases; nothing else was allowed.

        If it is careful it takes what was lost before alone.
        """
        self.recover(now)
        for entry in self.line(SCHEDULED):
            if entry.place[0] <= now:
                self._queue(entry, now)
        assert len(leases) <= limit, "more leases than the limit"
        assert not (self.paused and leases), "a paused queue hands out tasks"
        for lease in leases:
            entry = self.entries[lease.task.id]
            assert entry.state == QUEUED, f"handed out, although it is {entry.state}"
            assert entry in self._may_be_next(), "handed out before its turn"
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
        """Whether a task waits for another one of its key."""
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

    def holder(self, lease: Lease) -> Entry | None:
        """Return the entry that the lease gives a right to, if it still does."""
        entry = self.entries.get(lease.task.id)
        return entry if entry is not None and entry.token == lease.token else None

    def finish(self, lease: Lease, transition: Transition, now: float) -> State | None:
        """An attempt ends; return the state of the task, None for a stale token."""
        entry = self.holder(lease)
        if entry is None:
            return None
        entry.attempts.append((transition.attempt.number, transition.attempt.status))
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
        """Leases are looked at; return the ids of the tasks that are queued again."""
        lost = [entry for entry in self.line(RUNNING) if entry.expires <= now]
        # The newest one first: of one key it makes the others pointless.
        back = [entry.id for entry in reversed(lost) if self._lose(entry, now)]
        return back[::-1]

    def _lose(self, entry: Entry, now: float) -> bool:
        entry.attempts.append((entry.number, None))
        entry.lost += 1
        pointless = entry.cancel_requested or self.replaced(entry)
        if pointless or entry.lost < self.settings.max_deliveries:
            return self._put_back(entry, now)
        self._conclude(entry, FAILED, now)
        self.told.append((FAILED, entry.id))
        return False

    def give_back(self, leases: Sequence[Lease], now: float) -> list[str]:
        """Tasks that have not begun are returned; return the ids of those that wait again."""
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
        """Whether a task that waits makes another run of this one pointless."""
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
            # It cannot be retried.
            entry.task = replace(entry.task, payload=b"")

    def notice_forgotten(self, known: Iterable[str], now: float) -> None:
        """Finished tasks that are not known any more were forgotten, if that was right."""
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
        """A task is known no more."""
        del self.entries[task_id]
        self.gone.append(task_id)

    # transitions from outside

    def allows(self, what: str, entry: Entry) -> bool:
        """Whether a task is in a state to be cancelled, retried, hastened or removed."""
        if what == "cancel":
            return entry.state not in FINISHED
        if what == "retry":
            return entry.state in (FAILED, CANCELLED) and not self.replaced(entry)
        if what == "hasten":
            return entry.waits
        return entry.state in FINISHED

    def cancel(self, entry: Entry, now: float) -> State:
        """A waiting task is cancelled, a running one is asked to stop."""
        if entry.state == RUNNING:
            entry.cancel_requested = True
        else:
            self._conclude(entry, CANCELLED, now)
        return entry.state

    def retry(self, entry: Entry, now: float) -> None:
        """A failed or cancelled task gets all its attempts anew."""
        entry.counted = entry.lost = 0
        entry.cancel_requested = False
        self._queue(entry, now)

    def hasten(self, entry: Entry, now: float) -> None:
        """A scheduled task is queued, whenever it would be due."""
        if entry.state == SCHEDULED:
            self._queue(entry, now)

    def remove(self, entry: Entry, now: float) -> None:
        """A finished task is forgotten."""
        self.forget(entry.id)

    def clear(self) -> int:
        """All that waits is forgotten."""
        return self._forget_all([*self.line(QUEUED), *self.line(SCHEDULED)])

    def purge(self, state: State) -> int:
        """All that finished so is forgotten."""
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
    """Whether a moment is the expected one, give or take what a clock may run."""
    if when is None or expected is None:
        return when is expected
    return abs(when - expected) < DRIFT
