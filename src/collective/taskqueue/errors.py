"""What can go wrong; the docstring of each class says when it is raised."""


class TaskQueueError(Exception):
    """Root of every error of this package."""


class ConfigurationError(TaskQueueError):
    """zope.conf asks for something that cannot be built; Zope does not start."""


class InvalidTask(TaskQueueError, ValueError):
    """The argument of `add` named by `field` is wrong; nothing has joined the transaction."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class PayloadTooLarge(InvalidTask):
    """The payload is larger than the queue's ``max_payload``; nothing has joined."""


class UnknownQueue(TaskQueueError, LookupError):
    """A queue was named that is not configured; nothing was queued or deleted."""


class UnknownSchedule(TaskQueueError, LookupError):
    """A schedule was named that is not configured; nothing was changed."""


class UnknownTask(TaskQueueError, LookupError):
    """No task with that id is known: never queued, removed, or no longer kept."""


class ForbiddenTransition(TaskQueueError):
    """The task is in a state that does not allow this; nothing was changed."""


class StorageUnavailable(TaskQueueError):
    """The storage is unavailable; the caller may try again later."""


class TaskDecodeError(TaskQueueError):
    """A record in the storage is not a task that this version can read."""


class LostTransaction(TaskQueueError):
    """The database does not have, and never will have, the transaction that queued the task.

    The database was restored from a backup that is older than the queue.
    """


class RetryLater(TaskQueueError):
    """Raised by a view: end this attempt, and make the next one after `seconds`.

    The attempt counts. Without `seconds` the back-off of the task decides.
    """

    def __init__(self, seconds: float | None = None, reason: str = "") -> None:
        # Raised in the view, where the mistake is. `not ... >=` refuses NaN, too.
        if seconds is not None and not seconds >= 0:
            raise ValueError(f"seconds must not be negative: {seconds!r}")
        super().__init__(reason or "the task asked to be retried later")
        self.seconds = seconds


class Discard(TaskQueueError):
    """Raised by a view: this task cannot succeed, do not try it again."""


class Cancelled(TaskQueueError):
    """Raised by `taskqueue.checkpoint()` once cancellation was requested."""


class TaskTimeout(BaseException):
    """Raised inside a task that exceeded its `timeout`.

    Not an `Exception`, so that a view's own `except Exception` cannot swallow it.
    """


def described(exc: BaseException) -> str:
    """Return the type and the text of an exception, also of one that has no text.

    Called wherever code outside of this package has raised: its `__str__` may raise as well.
    """
    try:
        text = str(exc)
    except Exception as another:
        text = f"its text cannot be told: {type(another).__name__}"
    return f"{type(exc).__name__}: {text}".removesuffix(": ")
