"""The calls that a consumer makes to its storage, repeated while the storage is unavailable."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.redelivery import Slots
from collective.taskqueue.consumer.shutdown import Shutdown
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.storages.protocols import RemoteStorage
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import Lease
from collective.taskqueue.task import State
from collective.taskqueue.task import Transition
from dataclasses import replace
from functools import partial
from math import inf
from typing import cast
from typing import NamedTuple
from typing import TypeVar
import logging
import threading
import time


logger = logging.getLogger("collective.taskqueue")

#: How often a completion of a batch is reported alone before another thread goes on with it.
REFUSALS = 2

T = TypeVar("T")


class Completion(NamedTuple):
    """A completed attempt, and what to call once it is stored or never will be."""

    lease: Lease
    transition: Transition
    release: Callable[[], None]


class StorageCalls:
    """Reserves, completes and releases tasks, each with a call of its own.

    `stored` is called with each completion that the storage has accepted, and with the state of
    the task then: None if its lease was lost.
    """

    def __init__(
        self,
        storage: Storage,
        settings: ServerSettings,
        shutdown: Shutdown,
        stored: Callable[[Completion, State | None], None],
    ) -> None:
        self.storage = storage
        #: Set by `Consumer.use_slots`.
        self.slots: Slots | None = None
        self.settings = settings
        self.shutdown = shutdown
        self._outage = outage_of(storage)
        self._stored = stored

    def take(self, timeout: float | None = None) -> list[Lease]:
        """Wait up to `timeout` seconds for a task; return its lease, or an empty list."""
        name, lease, offered = self.settings.name, self.settings.lease, self._offer(1)
        reserve = self.storage.reserve
        leases: list[Lease] = self._outage.call(
            reserve, name, limit=1, timeout=timeout, lease=lease, slots=offered
        )
        self._put_back(offered, leases)
        return leases

    def _offer(self, number: int) -> list[str]:
        """Return slots for up to `number` tasks; none if their database is unavailable."""
        try:
            return [] if self.slots is None else self.slots.take(number)
        except Exception as exc:
            logger.debug("no slots are allocated (%s), tasks run at least once", exc)
            return []

    def _put_back(self, offered: Sequence[str], leases: Sequence[Lease]) -> None:
        # Not after an error: the storage may have given them to tasks.
        if self.slots is not None and offered:
            given = {lease.slot for lease in leases}
            self.slots.put_back([slot for slot in offered if slot not in given])

    def complete(self, completion: Completion, refusals: float = inf) -> None:
        """Report a completed attempt until the storage has it or the grace period is over.

        An available storage may refuse it `refusals` times: then its last error is raised.
        """
        transition = completion.transition

        def complete() -> State | None:
            nonlocal transition
            try:
                return self.storage.complete(completion.lease, transition)
            except StorageUnavailable:
                raise
            except Exception:
                # This storage may be unable to hold something in the response: try without.
                transition = _without_response(transition)
                raise

        found = self._until_done([completion], lambda: [complete()], refusals)
        self._settle([completion], found)

    def complete_and_reserve(
        self, completions: Sequence[Completion], limit: int
    ) -> tuple[list[Lease], float]:
        """Report a batch, and reserve up to `limit` tasks in the same round trip.

        Returns their leases, and a monotonic time before which none of them has begun.
        """
        storage = cast(RemoteStorage, self.storage)
        pairs = [(completion.lease, completion.transition) for completion in completions]
        since = 0.0
        offered = self._offer(limit)

        def call() -> tuple[list[State | None], list[Lease]]:
            nonlocal since
            since = time.monotonic()
            try:
                return storage.complete_and_reserve(
                    pairs, self.settings.name, limit, self.settings.lease, offered
                )
            except StorageUnavailable:
                raise
            except Exception as exc:
                self._log_failure(completions, exc, 1)
                return [], []

        found = self._until_done(completions, call)
        if found is not None and len(found[0]) < len(completions):
            # One by one: a completion that the storage cannot hold must not block the others.
            for completion in completions:
                self._complete_alone(completion)
            return [], since
        if found is not None:
            self._put_back(offered, found[1])
        self._settle(completions, None if found is None else found[0])
        return [] if found is None else found[1], since

    def release(self, leases: Sequence[Lease], until: float = inf) -> None:
        """Release tasks that have not begun to the front; never raises.

        `until` is the monotonic time at which their leases expire.
        """
        # Tried again while the storage is unavailable: otherwise each task would lose a delivery
        # though no process was lost.
        errors = 0
        while True:
            try:
                self._outage.call(self.storage.release, leases)
                break
            except Exception as exc:
                errors += 1
                away = isinstance(exc, StorageUnavailable) and time.monotonic() < until
                if not (away and self.shutdown.may_try_again(errors)):
                    _log_kept(leases, exc)
                    return
        for lease in leases:
            logger.debug("task %s: not started, released", lease.task.id)

    def drop(self, lease: Lease) -> None:
        """Called for a task that has no completion, by an error of ours; its lease expires."""

    def wake(self) -> None:
        """Unblock all waiting threads; called when the grace period has begun."""

    def close(self) -> None:
        """Called once, when all threads have ended or the wait for them is over."""

    def _complete_alone(self, completion: Completion) -> None:
        try:
            self.complete(completion, REFUSALS)
        except Exception:
            name = f"taskqueue-{self.settings.queue}-{completion.lease.task.id}-completion"
            complete = partial(self.complete, completion)
            try:
                threading.Thread(target=complete, name=name, daemon=True).start()
            except RuntimeError:
                complete()

    def _until_done(
        self, completions: Sequence[Completion], store: Callable[[], T], most: float = inf
    ) -> T | None:
        """Call `store` until it succeeds; return None if the grace period ends before.

        An available storage may fail `most` times: then its last error is raised.
        """
        errors = refusals = 0
        while True:
            try:
                return self._outage.call(store)
            except Exception as exc:
                errors += 1
                self._log_failure(completions, exc, errors)
                refusals += not isinstance(exc, StorageUnavailable)
                if refusals >= most:
                    raise
            if not self.shutdown.may_try_again(errors):
                return None

    def _log_failure(self, completions: Sequence[Completion], exc: Exception, errors: int) -> None:
        away = isinstance(exc, StorageUnavailable)
        if errors > 1 and away:
            # The outage is logged elsewhere; its effect on these tasks was logged here.
            return
        if errors > 1 and len(completions) > 1:
            logger.error("queue %s: still (%s), trying again", self.settings.queue, exc)
            return
        for completion in completions:
            logger.log(
                logging.WARNING if away else logging.ERROR,
                "task %s: %s, but its storage failed (%s), trying again",
                completion.lease.task.id,
                completion.transition.state,
                exc,
                exc_info=not away,
            )

    def _settle(
        self, completions: Sequence[Completion], states: Sequence[State | None] | None
    ) -> None:
        for number, completion in enumerate(completions):
            task_id = completion.lease.task.id
            try:
                completion.release()
                if states is not None:
                    self._stored(completion, states[number])
                else:
                    logger.error(
                        "task %s: %s, but stopped before its storage knew; it will run again",
                        task_id,
                        completion.transition.state,
                    )
            except Exception:
                # Other completions are still published, and prefetched tasks still begin.
                logger.exception("task %s: finished, but its event could not be published", task_id)


def _log_kept(leases: Sequence[Lease], exc: Exception) -> None:
    for lease in leases:
        logger.warning(
            "task %s: not started, not released (%s), its lease expires",
            lease.task.id,
            exc,
            exc_info=not isinstance(exc, StorageUnavailable),
        )


def _without_response(transition: Transition) -> Transition:
    attempt = replace(transition.attempt, error="")
    return replace(transition, attempt=attempt, headers=(), body=b"", truncated=True)
