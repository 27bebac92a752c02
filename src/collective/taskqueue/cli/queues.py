"""The queues of one call of the command line, and their storages."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from collective.taskqueue.cli.exits import CONFIGURATION
from collective.taskqueue.cli.exits import LOCAL
from collective.taskqueue.cli.exits import Stop
from collective.taskqueue.cli.exits import UNAVAILABLE
from collective.taskqueue.cli.exits import UNKNOWN
from collective.taskqueue.cli.facts import require_tables
from collective.taskqueue.cli.words import line
from collective.taskqueue.errors import ConfigurationError
from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.errors import UnknownTask
from collective.taskqueue.task import TaskStatus
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collective.taskqueue.cli.settings import Settings
    from collective.taskqueue.config import QueueSettings
    from collective.taskqueue.storages.protocols import Storage


#: Most characters of an id; ids that the queue makes have 36.
MAX_ID = 200


class Queues:
    """The queues of a configuration; `path` names its file, None: in one of the usual places.

    A storage is opened when a command first asks for it.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._storages: dict[str, Storage] = {}

    @cached_property
    def settings(self) -> Settings:
        """What the configuration says; raises `Stop`."""
        from collective.taskqueue.cli.settings import read

        return read(self._path)

    def named(self, name: str | None) -> list[QueueSettings]:
        """Return the settings of one queue; None: of all, by name. Raises `Stop`."""
        queues = self.settings.queues
        if name is None:
            return [queues[each] for each in sorted(queues)]
        if name not in queues:
            known = ", ".join(sorted(queues))
            raise Stop(f"there is no queue {name!r} (known: {known})", UNKNOWN)
        return [queues[name]]

    def shared(self, name: str | None) -> list[QueueSettings]:
        """Like `named`, without local queues. Raises `Stop` if only local ones are left."""
        found = self.named(name)
        shared = [each for each in found if each.type != "local"]
        if not shared:
            raise Stop(local(found[0].queue), LOCAL)
        return shared

    def storage(self, settings: QueueSettings) -> Storage:
        """Return the storage of a queue, whose tables have to be there.

        Raises `Stop`, and `StorageUnavailable`.
        """
        if settings.queue not in self._storages:
            with stopping(settings.queue):
                require_tables(settings)
        return self.opened(settings)

    def opened(self, settings: QueueSettings) -> Storage:
        """Return the storage of a queue; it makes its tables when it is used. Raises `Stop`."""
        if settings.type == "local":
            raise Stop(local(settings.queue), LOCAL)
        if settings.queue not in self._storages:
            from collective.taskqueue.storages.factory import make_storage

            try:
                self._storages[settings.queue] = make_storage(settings)
            except ConfigurationError as exc:
                raise Stop(str(exc), CONFIGURATION) from None
        return self._storages[settings.queue]

    def find(
        self, task_id: str, name: str | None = None, brief: bool = False
    ) -> tuple[QueueSettings, TaskStatus]:
        """Return a task, by its id or an alias, and the settings of its queue. Raises `Stop`."""
        away: list[str] = []
        if len(task_id) <= MAX_ID and task_id.isascii() and task_id.isprintable():
            for settings in self.shared(name):
                try:
                    return settings, self.storage(settings).admin.get(task_id, brief)
                except UnknownTask:
                    continue
                except StorageUnavailable as exc:
                    # Another queue may have the task.
                    away.append(unavailable(settings.queue, exc))
        if away:
            raise Stop(away[0], UNAVAILABLE)
        unseen = [each.queue for each in self.named(name) if each.type == "local"]
        more = f", or in a local queue ({', '.join(unseen)})" if unseen else ""
        raise Stop(f"task {line(task_id)}: unknown, or no longer kept{more}", UNKNOWN)

    def each(
        self, name: str | None, call: Callable[[Storage], Any]
    ) -> Iterator[tuple[QueueSettings, Any]]:
        """Call `call` with the storage of each queue; yield the settings and what it returns.

        Yields `Stop`, instead of a result, for a queue that is local or unavailable. With a name
        it is raised.
        """
        for settings in self.named(name):
            try:
                with stopping(settings.queue):
                    yield settings, call(self.storage(settings))
            except Stop as exc:
                if name is not None:
                    raise
                yield settings, exc

    def close(self) -> None:
        """Close all storages."""
        for storage in self._storages.values():
            storage.close()


def exit_code(answers: Sequence[tuple[QueueSettings, Any]]) -> int:
    """Return the code after `each`: a queue that failed counts, a local one beside others not."""
    codes = [item.exit_code if isinstance(item, Stop) else 0 for _, item in answers]
    serious = [code for code in codes if code not in (0, LOCAL)]
    return serious[0] if serious else min(codes)


@contextmanager
def stopping(queue: str) -> Iterator[None]:
    """Turn errors of the storage of a queue in the block into `Stop`."""
    try:
        yield
    except StorageUnavailable as exc:
        raise Stop(unavailable(queue, exc), UNAVAILABLE) from None
    except ConfigurationError as exc:
        raise Stop(str(exc), CONFIGURATION) from None


def unavailable(queue: str, exc: StorageUnavailable) -> str:
    """Return the sentence for a storage that does not answer."""
    return f"queue {queue}: its storage is unavailable: {exc}"


def local(queue: str) -> str:
    """Return the sentence for a queue that no other process sees."""
    return (
        f"queue {queue}: type local, in the memory of the Zope process that serves it; only that"
        " process sees its tasks"
    )
