"""The desk of a consumer: gives tasks to its threads, and takes their completed attempts.

This one makes a round trip each time; the one in `clerk` is for a remote storage.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collective.taskqueue.config import ServerSettings
from collective.taskqueue.consumer.shutdown import Shutdown
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.outage import outage_of
from collective.taskqueue.storages.protocols import Storage
from collective.taskqueue.task import Lease
from collective.taskqueue.task import State
from collective.taskqueue.task import Transition
from dataclasses import replace
from math import inf
from typing import NamedTuple
from typing import TypeVar
import logging
import time


logger = logging.getLogger("collective.taskqueue")

T = TypeVar("T")


class Completion(NamedTuple):
    """A completed attempt, and what to call once it is stored or never will be."""

    lease: Lease
    transition: Transition
    release: Callable[[], None]


class Desk:
    """See the module. `stored` is called with each completion that the storage has accepted,
    and with the state of the task then: None if its lease was lost."""

    def __init__(
        self,
        storage: Storage,
        settings: ServerSettings,
        shutdown: Shutdown,
        stored: Callable[[Completion, State | None], None],
    ) -> None:
        self._storage = storage
        self._outage = outage_of(storage)
        self._settings = settings
        self._shutdown = shutdown
        self._stored = stored

    def take(self, timeout: float | None = None) -> list[Lease]:
        """Wait up to `timeout` seconds for a task; return its lease, or an empty list."""
        leases: list[Lease] = self._outage.call(
            self._storage.reserve,
            self._settings.name,
            limit=1,
            timeout=timeout,
            lease=self._settings.lease,
        )
        return leases

    def end(self, completion: Completion) -> None:
        """Report the completed attempt of a task that was taken; never raises."""
        self._finish(completion)

    def _finish(self, completion: Completion, most: float = inf) -> None:
        transition = completion.transition

        def finish() -> State | None:
            nonlocal transition
            try:
                state: State | None = self._storage.complete(completion.lease, transition)
            except StorageUnavailable:
                raise
            except Exception:
                # This storage may be unable to hold something in the response: try without.
                transition = _without_response(transition)
                raise
            return state

        self._settle([completion], self._until_done([completion], lambda: [finish()], most))

    def drop(self, lease: Lease) -> None:
        """Called for a task that has no completion, by an error of ours; its lease expires."""

    def release(self, leases: Sequence[Lease]) -> None:
        """Release tasks that were taken, but have not begun, to the front; never raises."""
        self._release(leases, inf)

    def _release(self, leases: Sequence[Lease], until: float) -> None:
        # Tried again while the storage is unavailable: otherwise each task would lose a delivery
        # though no process was lost. `until` is the monotonic time at which the leases expire.
        errors = 0
        while True:
            try:
                self._outage.call(self._storage.release, leases)
                break
            except Exception as exc:
                errors += 1
                away = isinstance(exc, StorageUnavailable) and time.monotonic() < until
                if not (away and self._shutdown.may_try_again(errors)):
                    _log_kept(leases, exc)
                    return
        for lease in leases:
            logger.debug("task %s: not started, released", lease.task.id)

    def wake(self) -> None:
        """Unblock all waiting threads; called when the grace period has begun."""

    def close(self) -> None:
        """Called once, when all threads have ended or the wait for them is over."""

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
            if not self._shutdown.may_try_again(errors):
                return None

    def _log_failure(self, completions: Sequence[Completion], exc: Exception, errors: int) -> None:
        away = isinstance(exc, StorageUnavailable)
        if errors > 1 and away:
            # The outage is logged elsewhere; its effect on these tasks was logged here.
            return
        if errors > 1 and len(completions) > 1:
            logger.error("queue %s: still (%s), trying again", self._settings.queue, exc)
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
            try:
                completion.release()
                if states is not None:
                    self._stored(completion, states[number])
                else:
                    logger.error(
                        "task %s: %s, but stopped before its storage knew; it will run again",
                        completion.lease.task.id,
                        completion.transition.state,
                    )
            except Exception:
                # Other completions are still published, and prefetched tasks still begin.
                logger.exception(
                    "task %s: finished, but its event could not be published",
                    completion.lease.task.id,
                )


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
