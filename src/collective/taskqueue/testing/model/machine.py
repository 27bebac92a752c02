"""The steps of the machine, and the invariant that is checked after each step."""

from __future__ import annotations

from collective.taskqueue.enqueue import datamanager
from collective.taskqueue.errors import ForbiddenTransition
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.interfaces import IRemoteStorage
from collective.taskqueue.task import Action
from collective.taskqueue.task import ACTIONS
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Progress
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.task import TaskFilter
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.model import checks
from collective.taskqueue.testing.model.acts import Acts
from collective.taskqueue.testing.model.acts import Fields
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from itertools import islice
from typing import Any
import transaction


# The clock advances by full minutes, and all other times fall on half minutes. So the order
# of events is always clear, even if the clock runs a little.
LEASES = (30.0, 90.0, 630.0, 630.0)
LATER = (0.0, 0.0, 0.0, 0.0, 60.0, 60.0, 120.0, 600.0)
DELAYS = (None, None, None, -30.0, 30.0, 90.0)
PAUSES = (0.0, 30.0, 90.0)
KEEPS = (None, None, None, 0.0, 30.0)

STEERING = ("cancel", "retry", "retry", "remove", "run_now")

ENDS = (SUCCEEDED, FAILED, FAILED, SCHEDULED, SCHEDULED)

MODES = ("skip", "skip", "replace", "after_running", "after_running")
KEYS = (
    *[(None, "skip")] * 2,
    *[("mixed", mode) for mode in MODES],
    *[(key, "after_running") for key in checks.SERIAL] * 2,
)

TASK = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from(DELAYS),
    st.sampled_from(KEEPS),
    st.sampled_from([None, *checks.PERSONS]),
)
TASKS = st.lists(TASK, min_size=1, max_size=4)


def often(*choices: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for one of the choices; a repeated choice is drawn more often."""
    return st.sampled_from(choices)


#: Of a search: states, a user, the beginning of a url, and seconds from since and until to now.
Conditions = tuple[list[State], Identity | str | None, str | None, float | None, float | None]
CONDITIONS: st.SearchStrategy[Conditions] = st.tuples(
    st.lists(st.sampled_from(STATES), max_size=3, unique=True),
    st.sampled_from([None, None, None, *checks.PERSONS, checks.PERSONS[0].id]),
    st.sampled_from([None, None, None, "/vi", "/other"]),
    st.sampled_from([None, None, 90.0, 630.0]),
    st.sampled_from([None, None, 30.0, -30.0]),
)

#: The index of one of the existing things, modulo their number.
WHICH = st.integers(0, 30)


class QueueMachine(Acts):
    """The state machine of one queue. A subclass makes its storage."""

    # the transaction

    @initialize(tasks=TASKS)
    def something_is_queued(self, tasks: list[Fields]) -> None:
        self.add(tasks, "", "commit")

    @rule(tasks=TASKS, first=often("", "savepoint"), then=often("commit", "commit", "more"))
    def add(self, tasks: list[Fields], first: str, then: str) -> None:
        if first == "savepoint":
            self.savepoints.append((transaction.savepoint(), len(self.added)))
        for task in self._make(tasks):
            datamanager.join(self.queue, task)
            self.added.append(task)
        if then == "commit":
            self.end_transaction("commit")

    @precondition(lambda self: self.savepoints)
    @rule(which=WHICH)
    def rollback(self, which: int) -> None:
        number = which % len(self.savepoints)
        savepoint, length = self.savepoints[number]
        savepoint.rollback()
        # Later savepoints are not valid any more.
        del self.savepoints[number + 1 :]
        self._forget_added(length)

    @precondition(lambda self: self.added or self.savepoints)
    @rule(how=often("commit", "commit", "commit", "abort"))
    def end_transaction(self, how: str) -> None:
        with self._act():
            if how == "commit":
                transaction.commit()
                self.expected.promote(self.added, self.clock())
                self.added.clear()
            else:
                transaction.abort()
        self._forget_added(0)
        self.savepoints.clear()

    # batches of other processes

    @rule(tasks=TASKS, lost=often(False, False, True))
    def stage(self, tasks: list[Fields], lost: bool) -> None:
        batch = self._new_id()
        made = self._make(tasks)
        if lost:
            self.storage.promote(batch)
            self._promote(batch, made, made)
        else:
            self.staged[batch] = made
            self.storage.stage(batch, made)

    @precondition(lambda self: self.staged)
    @rule(
        which=WHICH, how=often("promote", "promote", "promote with tasks", "discard", "fail_batch")
    )
    def end_batch(self, which: int, how: str) -> None:
        batch = _one(self.staged, which)
        tasks = self.staged.pop(batch)
        if how == "discard":
            self.storage.discard(batch)
            self.expected.gone.extend(ids(tasks))
        elif how == "fail_batch":
            with self._act():
                self.storage.fail_batch(batch, "the end is unknown")
                self.expected.fail_batch(tasks, self.clock())
            self.promoted[batch] = tasks
        else:
            self._promote(batch, tasks, tasks if how == "promote with tasks" else [])

    @precondition(lambda self: self.promoted)
    @rule(which=WHICH, how=often("promote", "promote with tasks", "discard", "fail_batch"))
    def end_batch_again(self, which: int, how: str) -> None:
        batch = _one(self.promoted, which)
        with self._act():
            if how == "discard":
                self.storage.discard(batch)
            elif how == "fail_batch":
                self.storage.fail_batch(batch, "the end is unknown")
            else:
                self.storage.promote(batch, None, self.promoted[batch] if "tasks" in how else [])

    @precondition(lambda self: self.promoted)
    @rule(which=WHICH, tasks=TASKS)
    def promote_known_tasks(self, which: int, tasks: list[Fields]) -> None:
        known = [task for task in self.promoted[_one(self.promoted, which)] if self._knows(task)]
        made = self._make(tasks)
        batch = self._new_id()
        self.storage.stage(batch, [*known, *made])
        self._promote(batch, made, [])

    # consumers

    @rule(
        consumer=often("one", "two"),
        limit=st.integers(1, 3),
        seconds=often(*LEASES),
        later=often(*LATER),
    )
    def reserve(self, consumer: str, limit: int, seconds: float, later: float) -> None:
        self.clock.advance(later)
        self._reserve(consumer, limit, seconds)
        if self.expected.paused:
            self.storage.admin.resume()
            self.expected.paused = False
            self._reserve(consumer, limit, seconds)

    @precondition(lambda self: self.held)
    @rule(which=WHICH, state=often(*ENDS), pause=often(*PAUSES), counts=often(True, False))
    def finish(self, which: int, state: State, pause: float, counts: bool) -> None:
        token = _one(self.held, which)
        lease = self.dead[token] = self.held.pop(token)
        self._finish(lease, completed(lease, state, due=self.clock() + pause, counts=counts))

    @precondition(lambda self: self.held)
    @rule(which=WHICH, number=st.integers(1, 3), ends=st.lists(often(*ENDS), max_size=3))
    def complete_and_reserve(self, which: int, number: int, ends: list[State]) -> None:
        leases = [*islice(self._held_from(which), len(ends)), *self._stale()[:1]]
        states = [*ends, FAILED][: len(leases)]
        now = self.clock()
        pairs = [
            (lease, completed(lease, state, due=now))
            for lease, state in zip(leases, states, strict=False)
        ]
        if not IRemoteStorage.providedBy(self.storage):
            for lease, transition in pairs:
                self.dead[lease.token] = self.held.pop(lease.token, lease)
                self._finish(lease, transition)
            return
        slots = self.database.take(number)
        with self._act():
            for lease, transition in pairs:
                self._commit(lease, transition)
            found, brought = self.storage.complete_and_reserve(pairs, "one", number, 630.0, slots)
            for lease, transition in pairs:
                self.dead[lease.token] = self.held.pop(lease.token, lease)
                self._check_end(lease, transition, found.pop(0), now)
            self._hold(brought)
            self.expected.reserve(brought, "one", number, 630.0, now, slots, careful=True)
        self._look(brought)

    @precondition(lambda self: self.held)
    @rule(which=WHICH, number=st.integers(1, 3))
    def release(self, which: int, number: int) -> None:
        leases = [*islice(self._held_from(which), number), *self._stale()[:1]]
        with self._act():
            found = self.storage.release(leases)
            assert found == self.expected.release(leases, self.clock()), "not given back"
        for lease in leases:
            self.dead[lease.token] = self.held.pop(lease.token, lease)

    @precondition(lambda self: self._stale())
    @rule(which=WHICH, state=often(*ENDS))
    def finish_in_vain(self, which: int, state: State) -> None:
        lease = _one(self._stale(), which)
        self._finish(lease, completed(lease, state, due=self.clock()))
        assert self.storage.renew(lease, 630.0) is False
        assert self.storage.report(lease, Progress(9.0, 9.0, "stale", 0.0)) is True

    @precondition(lambda self: self.held)
    @rule(which=WHICH, seconds=often(None, *LEASES), done=often(None, 1.0, 2.0))
    def keep_in_touch(self, which: int, seconds: float | None, done: float | None) -> None:
        lease = self.held[_one(self.held, which)]
        progress = None if done is None else Progress(done, 2.0, "on the way", 1.0)
        holder = self.expected.holder(lease)
        cancelled = holder is None or holder.cancel_requested
        assert self.storage.report(lease, progress) is cancelled, "no stale token, or cancelled"
        if holder is not None and progress is not None:
            holder.progress = progress
        if seconds is not None:
            assert self.storage.renew(lease, seconds) is (holder is not None)
            if holder is not None:
                holder.expires = self.clock() + seconds

    @precondition(lambda self: self.held)
    @rule(which=WHICH, later=often(*LATER))
    def crash(self, which: int, later: float) -> None:
        consumer = self.held[_one(self.held, which)].consumer
        for lease in list(self.held.values()):
            if lease.consumer == consumer:
                self.frozen[lease.token] = self.dead[lease.token] = self.held.pop(lease.token)
        self.clock.advance(later)

    @precondition(lambda self: self.held)
    @rule(which=WHICH)
    def commit_then_crash(self, which: int) -> None:
        """A consumer commits what a task writes, and dies before it completes the attempt."""
        token = _one(self.held, which)
        lease = self.dead[token] = self.held.pop(token)
        self.database.commit(lease)

    @precondition(lambda self: self.frozen)
    @rule(which=WHICH)
    def thaw_and_commit(self, which: int) -> None:
        """A consumer that was frozen commits what a task writes: others may have done so."""
        self.database.commit(self.frozen.pop(_one(self.frozen, which)))

    @precondition(lambda self: self.expected.line(RUNNING))
    @rule(later=often(*LATER))
    def recover(self, later: float) -> None:
        self.clock.advance(later)
        with self._act():
            found = self.storage.admin.recover()
            assert found == self.expected.recover(self.clock()), "recovered in the wrong order"

    # admins

    @rule(which=WHICH, what=often(*STEERING), wise=often(True, False))
    def steer(self, which: int, what: str, wise: bool) -> None:
        names = {name: self._entry(name) for name in self._names()}
        allowed = [name for name in names if self.expected.allows(what, names[name])]
        name = _one((wise and allowed) or [*names, *self._unknown()], which)
        refused = ForbiddenTransition if name in names else UnknownTask
        with self._act(), self._refused(None if name in allowed else refused):
            answer = getattr(self.storage.admin, what)(name)
            assert answer == getattr(self.expected, what)(names[name], self.clock())

    @precondition(lambda self: self.expected.entries)
    @rule(
        which=WHICH,
        number=st.integers(1, 6),
        action=often(*ACTIONS),
        states=st.sets(st.sampled_from(STATES), min_size=2),
    )
    def change(self, which: int, number: int, action: Action, states: set[State]) -> None:
        """Many tasks at once, in any order, and an id that is not in use."""
        known = list(self.expected.entries)
        start = which % len(known)
        names = [*known[start:], *known[:start]][:number]
        with self._act():
            changed = self.storage.admin.change(action, [*names, "never"], states)
            expected = self._change(action, names, states, self.clock())
            assert list(changed.items()) == list(expected.items()), "others are changed"

    @precondition(lambda self: self.expected.entries)
    @rule(conditions=CONDITIONS, size=st.integers(1, 4))
    def search(self, conditions: Conditions, size: int) -> None:
        """Page by page; times fall between those at which tasks were made."""
        states, user, url, since, until = conditions
        now = self.clock()
        wanted = TaskFilter(tuple(states), url, user, since and now - since, until and now - until)
        checks.check_search(self.storage, self.expected, wanted, size)

    @precondition(lambda self: len(self.expected.entries) > 5)
    @rule(what=often("pause", "pause", "purge", "purge", "clear"), state=often(*STATES))
    def sweep(self, what: str, state: State) -> None:
        with self._act():
            if what == "pause":
                self.storage.admin.pause()
                self.expected.paused = True
            elif what == "clear":
                assert self.storage.admin.clear() == self.expected.clear()
            else:
                with self._refused(None if state in FINISHED else ForbiddenTransition):
                    assert self.storage.admin.purge(state) == self.expected.purge(state)

    # the invariant

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        checks.check_all(self.storage, self.expected, self.staged, self.seen, self.clock())
        self.database.check()


def _one(things: Any, which: int) -> Any:
    things = list(things)
    return things[which % len(things)]
