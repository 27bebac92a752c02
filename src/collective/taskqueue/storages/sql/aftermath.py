"""What follows a transaction: log lines and events, statistics, retention, and wake-ups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.notifier import publish
from collective.taskqueue.storages.sql.retention import Retention
from collective.taskqueue.storages.sql.session import Session
from collective.taskqueue.storages.sql.states import WEIGHT
from collective.taskqueue.storages.sql.statistics import Statistics
from collective.taskqueue.storages.sql.wakeup import Debounced
from collective.taskqueue.storages.sql.wakeup import Notifier
from collective.taskqueue.task import FINISHED
from collective.taskqueue.task import Lease
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import Transition


#: Seconds between two notifications of other processes.
NOTIFY_INTERVAL = 0.1


class Aftermath:
    """See the module. `notify` is called with a final state and a task id, as an event.

    `process` is the identity of this process. All times are seconds by the clock of the database.
    """

    def __init__(
        self, session: Session, process: str, notify: Callable[[State, str], None]
    ) -> None:
        self._session = session
        self._notify = notify
        self._notify_others = Debounced(session.notify, NOTIFY_INTERVAL)
        self.notifier = Notifier(session.listen)
        self.statistics = Statistics(session, process)
        self.retention = Retention(session, self.changed)

    def changed(self, notices: Notices, *finished: State, now: float | None = None) -> None:
        """Log and publish `notices`, count tasks that finished, wake a consumer.

        `finished` are states of tasks without a notice; `now` is the time if it is known.
        """
        publish(notices, self._notify)
        ended = [*finished, *(kind for kind, _, _ in notices if kind in FINISHED)]
        if ended and now is None:
            now = self._session.time()
        for state, number in Counter(ended).items():
            self.statistics.ended(state, now or 0.0, number=number)
            self.retention.after(state, now or 0.0, number)
        self.notifier.ring()
        self._notify_others()

    def completed(
        self,
        ends: Sequence[tuple[Lease, Transition]],
        states: Sequence[State | None],
        now: float,
    ) -> None:
        """Count completed attempts, and wake consumers; the caller publishes their events.

        `states` are those of the tasks after `ends`; None if a lease was lost.
        """
        numbers: Counter[State] = Counter()
        sizes: Counter[State] = Counter()
        later = False
        for (lease, transition), state in zip(ends, states, strict=True):
            if state is None:
                continue
            numbers[state] += 1
            # About as many bytes as its record takes.
            sizes[state] += WEIGHT + len(transition.body) + len(lease.task.payload)
            sizes[state] += len(transition.attempt.error)
            # Other processes wait for its key, or for its next attempt.
            later = later or state == SCHEDULED or lease.task.key is not None
        for state, number in numbers.items():
            if state in FINISHED:
                self.statistics.ended(state, now, busy=True, number=number)
                self.retention.after(state, now, number, sizes[state])
        if numbers:
            self.notifier.ring()
        if later:
            self._notify_others()

    def reserved(self, consumer: str, now: float) -> None:
        """Count a consumer as alive; now and then delete what was kept long enough."""
        self.statistics.seen(consumer, now)
        self.retention.look(now)

    def close(self) -> None:
        """Store what was counted, and end the thread that listens."""
        self._notify_others.close()
        self.statistics.flush()
        self.notifier.close()
