"""Calls of the script of a Redis storage, safe against lost replies."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.redis.connection import Server
from collective.taskqueue.storages.redis.connection import translated
from collective.taskqueue.task import LINGER
from contextlib import contextmanager
from itertools import count
from secrets import token_hex
from typing import Any
import json
import redis.exceptions
import threading


#: Seconds that a promoted batch is remembered, in which `promote` may be repeated.
REMEMBER = 7200

#: Seconds of a new lease if the server has lost that of a running task; the heartbeat renews it.
LEASE = 30


class Script:
    """The script on the queue whose keys begin with `prefix`; `clock` as for the storage.

    Calls `publish` with other events of a call, for example that a task was replaced.
    """

    def __init__(
        self,
        server: Server,
        settings: QueueSettings,
        prefix: str,
        clock: Callable[[], float] | None,
        publish: Callable[[Notices], None],
    ) -> None:
        self._server = server
        self._prefix = prefix
        self._clock = clock
        self._publish = publish
        self._local = threading.local()
        self._salt, self._nonces = token_hex(16), count()
        self._options = {
            "remember": REMEMBER,
            "keep_succeeded": settings.keep_succeeded,
            "keep_failed": settings.keep_failed,
            "max_finished": settings.max_finished,
            "max_finished_bytes": settings.max_finished_bytes,
            "max_deliveries": settings.max_deliveries,
            "linger": LINGER,
            "lease": LEASE,
        }
        self._encoded = {again: self._encode(again) for again in (False, True)}

    def call(self, operation: str, *args: Any, again: bool = False) -> Any:
        """Run an operation and return its result; raises the errors of the contract.

        `again`: the operation may have been carried out before, by a call without a reply.
        """
        with translated():
            try:
                answer, notices = self._call_once(operation, again, *args)
            except redis.exceptions.ConnectionError:
                # The connection was closed since its last use, or during the call: it is unknown
                # whether the call was carried out. After a timeout, no time is left to try again.
                answer, notices = self._call_once(operation, True, *args)
        if notices:
            items = (decoded(item) for item in notices)
            self._publish([(kind, task_id, detail) for kind, task_id, detail in items])
        return answer

    def _call_once(self, operation: str, again: bool, *args: Any) -> Any:
        encoded = self._encoded[again]
        if self._clock is not None:
            encoded = self._encode(again, now=self._clock())
        return self._server.run(self._prefix, operation, encoded, *args)

    def _encode(self, again: bool, **now: float) -> str:
        return json.dumps({**self._options, "again": again, **now})

    @contextmanager
    def asking(self, *tokens: str) -> Iterator[tuple[str, bool]]:
        """Yield a nonce for a reservation, and whether the thread repeats an unanswered call."""
        # If the reply is lost, the tasks are reserved all the same. A repeated call with the
        # same nonce gets them; otherwise they would wait until their leases expire.
        nonce, unanswered = getattr(self._local, "asked", ("", None))
        again = unanswered == tokens
        if not again:
            # All nonces have one length, so that none is a prefix of another.
            nonce = f"{self._salt}{next(self._nonces):016x}"
        self._local.asked = nonce, tokens
        yield nonce, again
        del self._local.asked

    def asked_in_vain(self, token: str) -> bool:
        """Return whether a call of this thread to finish that lease got no reply."""
        _, unanswered = getattr(self._local, "asked", ("", ()))
        return token in unanswered


def decoded(texts: Sequence[bytes]) -> tuple[str, ...]:
    """Return ids and other texts of a reply as `str`; invalid UTF-8 is replaced."""
    return tuple(text.decode(errors="replace") for text in texts)
