"""Calls of the scripts of a Redis storage, safe against lost replies."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.config import QueueSettings
from collective.taskqueue.storages.notifier import Notices
from collective.taskqueue.storages.redis.connection import Server
from collective.taskqueue.storages.redis.errors import translated
from collective.taskqueue.storages.redis.wire import packed
from collective.taskqueue.storages.redis.wire import unpacked
from collective.taskqueue.task import LINGER
from contextlib import contextmanager
from itertools import count
from secrets import token_hex
from typing import Any
from typing import NamedTuple
import redis.exceptions
import threading


#: Seconds that a promoted batch is remembered, in which `promote` may be repeated.
REMEMBER = 7200

#: Seconds of a new lease if the server has lost that of a running task; the heartbeat renews it.
LEASE = 30


class CallId(NamedTuple):
    """The id of a call: the tasks that the call changes remember what it did to them."""

    id: str
    #: Whether a call of this id got no reply, so it may have been carried out.
    repeated: bool


class CallIds:
    """Ids of calls; a thread that repeats a call without a reply gets the id of that call."""

    def __init__(self) -> None:
        self._salt, self._numbers = token_hex(8), count()
        self._local = threading.local()

    def new(self) -> CallId:
        """Return an id that no other call has."""
        return CallId(f"{self._salt}{next(self._numbers):x}", False)

    @contextmanager
    def repeatable(self, *tokens: str) -> Iterator[CallId]:
        """Yield the id of a call that finishes the leases with these tokens, and may reserve.

        If the block raises, the thread gets the same id for its next call about the same tokens,
        or about a part of them.
        """
        call, unanswered = getattr(self._local, "unanswered", (None, ()))
        if call and tokens and set(tokens) < set(unanswered):
            # The thread finishes the leases of the unanswered call one by one: keep its id.
            yield call
            return
        if call is None or unanswered != tokens:
            call = self.new()
        self._local.unanswered = call._replace(repeated=True), tokens
        yield call
        del self._local.unanswered


class Script:
    """One of the scripts, on the queue whose keys begin with `prefix`; `clock` as for the storage.

    Calls `publish` with other events of a call, for example that a task was replaced.
    """

    def __init__(
        self,
        name: str,
        server: Server,
        settings: QueueSettings,
        prefix: str,
        clock: Callable[[], float] | None,
        publish: Callable[[Notices], None],
    ) -> None:
        self._name = name
        self._server = server
        self._prefix = prefix
        self._clock = clock
        self._publish = publish
        self.ids = CallIds()
        self._settings = {
            "remember": REMEMBER,
            "keep_succeeded": settings.keep_succeeded,
            "keep_failed": settings.keep_failed,
            "max_finished": settings.max_finished,
            "max_finished_bytes": settings.max_finished_bytes,
            "max_deliveries": settings.max_deliveries,
            "linger": LINGER,
            "lease": LEASE,
        }
        self._packed_settings = packed(self._settings)

    def call(
        self,
        operation: str,
        call: CallId | None = None,
        tasks: Iterable[bytes] = (),
        **arguments: Any,
    ) -> Any:
        """Run an operation and return its result; raises the errors of the contract.

        `tasks` are packed lists of tasks. Texts in the result are bytes, keys of maps are `str`.
        """
        call = call or self.ids.new()
        given = packed(arguments)
        # Sent again if the reply is lost.
        tasks = tuple(tasks)
        settings = self._packed_settings
        if self._clock is not None:
            settings = packed({**self._settings, "now": self._clock()})
        command = (self._name, self._prefix, operation, settings, given, call.id)
        with translated():
            try:
                reply = self._server.run(*command, b"1" if call.repeated else b"", *tasks)
            except redis.exceptions.ConnectionError:
                # The connection was closed since its last use, or during the call: it is unknown
                # whether the call was carried out. After a timeout, no time is left to try again.
                reply = self._server.run(*command, b"1", *tasks)
        answer = unpacked(reply)
        if answer["notices"]:
            items = (decoded(item) for item in answer["notices"])
            self._publish([(kind, task_id, detail) for kind, task_id, detail in items])
        return answer.get("result")


def decoded(texts: Sequence[bytes]) -> tuple[str, ...]:
    """Return ids and other texts of a reply as `str`; invalid UTF-8 is replaced."""
    return tuple(text.decode(errors="replace") for text in texts)
