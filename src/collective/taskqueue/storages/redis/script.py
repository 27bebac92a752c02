"""How a Redis storage calls its script, so that nothing is lost if an answer is."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.notifier import News
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


#: Seconds that a promoted batch is remembered; a promote may be repeated that long.
REMEMBER = 7200

#: Seconds that a running task has whose lease was lost by the server: who runs it renews it.
LEASE = 30


class Script:
    """The script on the queue whose keys begin with `prefix`; `clock` as for the storage.

    `tell` is called with what has happened besides, such as a task that is replaced.
    """

    def __init__(
        self,
        server: Server,
        settings: QueueSettings,
        prefix: str,
        clock: Callable[[], float] | None,
        tell: Callable[[News], None],
    ) -> None:
        self._server = server
        self._prefix = prefix
        self._clock = clock
        self._tell = tell
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
        """Return its answer; raises as the contract says. `again` if it may be done already."""
        with translated():
            try:
                answer, news = self._call_once(operation, again, *args)
            except redis.exceptions.ConnectionError:
                # Closed since it was used last, or just now: then nobody knows whether the
                # call was carried out. After a timeout there is no time left to ask again.
                answer, news = self._call_once(operation, True, *args)
        if news:
            items = (decoded(item) for item in news)
            self._tell([(kind, task_id, detail) for kind, task_id, detail in items])
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
        """Yield a nonce for what is reserved, and whether the same was asked for in vain."""
        # If the reply is lost the tasks are reserved all the same: asked for again under
        # the same nonce, they are not lost until their leases expire.
        nonce, unanswered = getattr(self._local, "asked", ("", None))
        again = unanswered == tokens
        if not again:
            # Of one length, so that none is the beginning of another.
            nonce = f"{self._salt}{next(self._nonces):016x}"
        self._local.asked = nonce, tokens
        yield nonce, again
        del self._local.asked

    def asked_in_vain(self, token: str) -> bool:
        """Whether this thread has asked to end that lease and was not answered."""
        _, unanswered = getattr(self._local, "asked", ("", ()))
        return token in unanswered


def decoded(texts: Sequence[bytes]) -> tuple[str, ...]:
    """Return ids and other texts of an answer as the contract has them, whatever they are."""
    return tuple(text.decode(errors="replace") for text in texts)
